"""The most confident mistakes: what spoke for the wrong class, and the images like them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from striate.evaluation import heat_maps, neighbours
from striate.evaluation.predictions import SHOWN_MISTAKES, Mistakes
from striate.evaluation.scores import surest_mistakes

if TYPE_CHECKING:
    from striate.models.checkpoint import Checkpoint


def inspect(
    trained: Checkpoint,
    images: Tensor,
    labels: np.ndarray,
    logits: np.ndarray,
    train_batches: Iterable[tuple[Tensor, Tensor]],
    nearest: int,
) -> Mistakes:
    """Look into the most confident mistakes.

    Args:
        trained: the network, in evaluation mode on the device of all images.
        images: of the test set, uint8 (N, C, H, W).
        labels: (N,).
        logits: (N, classes).
        train_batches: as `neighbours.nearest` takes them; not read without `nearest`.
        nearest: training images to find for each mistake.
    """
    indices = surest_mistakes(logits, labels)[0][:SHOWN_MISTAKES]
    chosen = images[torch.from_numpy(indices).to(images.device)]
    height, width = images.shape[2:]
    evidence, similar = torch.empty(0, height, width), torch.empty(len(indices), 0).long()
    if len(indices):
        guesses = torch.from_numpy(logits[indices].argmax(1)).to(images.device)
        evidence = heat_maps.heat_maps(trained.model, trained.normalization(chosen), guesses)
    if len(indices) and nearest:
        similar = neighbours.nearest(
            trained.model, chosen, train_batches, trained.normalization, count=nearest
        )
    return Mistakes(indices, evidence.cpu().numpy(), similar.cpu().numpy())
