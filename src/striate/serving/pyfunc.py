"""Lets MLflow load a checkpoint that `striate.tracking.mlmodel` has described."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from striate.models import checkpoint


class Classifier:
    """A network as MLflow calls it."""

    def __init__(self, folder: Path) -> None:
        self._pixels = checkpoint.Pixels(checkpoint.load(folder, torch.device("cpu"))).eval()

    def predict(
        self, model_input: np.ndarray[Any, Any], params: dict[str, Any] | None = None
    ) -> np.ndarray[Any, Any]:
        """Pixels as published, float (N, C, H, W), from 0 to the data set's peak → logits."""
        with torch.inference_mode():
            pixels = torch.from_numpy(np.ascontiguousarray(model_input, np.float32))
            logits: np.ndarray[Any, Any] = self._pixels(pixels).numpy()
        return logits


def _load_pyfunc(path: str) -> Classifier:
    """Load the checkpoint of a folder; MLflow calls it."""
    return Classifier(Path(path))
