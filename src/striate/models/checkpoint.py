"""A trained network on disk: plain weights, and beside them what rebuilds the network.

`cnn_trained.ckpt` holds the state dict alone, so that it loads into any network of the same
structure. `model.json` holds the rest, and a checksum of both. Reading them needs no params.yaml.
"""

import io
import json
import warnings
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from striate.data import files
from striate.errors import one_line
from striate.models import model_json, registry
from striate.models.defaults import RANDOM
from striate.models.model_json import DESCRIPTION, WEIGHTS, CheckpointError
from striate.models.normalization import Normalization
from striate.models.registry import Network


class Checkpoint(NamedTuple):
    """A trained network, and what its inputs and outputs mean."""

    model: Network
    normalization: Normalization
    classes: list[str]
    description: dict[str, Any]


class Pixels(nn.Module):
    """A network with its normalisation in front: pixels, float (N, C, H, W), → logits."""

    def __init__(self, trained: Checkpoint) -> None:
        super().__init__()
        self.network = trained.model
        self.normalize = trained.normalization

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels from 0 to the data set's peak → logits (N, classes)."""
        logits: Tensor = self.network(self.normalize(pixels))
        return logits


def describe(
    architecture: dict[str, Any], manifest: dict[str, Any], normalization: Normalization
) -> dict[str, Any]:
    """Describe a network for `model.json`, in plain values that rebuild it.

    Args:
        architecture: what `NetworkConfig.architecture` gives.
        manifest: of the training data.
        normalization: of the network's inputs.
    """
    return {
        "architecture": architecture,
        "data": manifest["name"],
        "shape": manifest["shape"],
        "classes": manifest["classes"],
        "normalization": asdict(normalization),
        "frame": manifest["frame"],
        "confidence": None,
    }


def build(description: dict[str, Any]) -> Network:
    """Build the network of a description, with random weights."""
    return registry.build(
        tuple(description["shape"]), len(description["classes"]), description["architecture"]
    )


def save(model: Network, description: dict[str, Any], folder: Path) -> None:
    """Write weights and description, each complete or not at all.

    Equal weights give equal bytes. The description gets `sha256`, a checksum of both files.
    """
    # A fresh copy, because strides would be written too.
    weights = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    # Not to the path: torch.save would write its name into the file.
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    files.write(folder / WEIGHTS, buffer.getvalue())
    sealed = description | {"sha256": model_json.sha256(description, buffer)}
    files.write(folder / DESCRIPTION, (json.dumps(sealed, indent=2) + "\n").encode())


def load(folder: Path, device: torch.device) -> Checkpoint:
    """Read what `save` wrote, also an older version without `sha256`.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the description.
    """
    description = model_json.read(folder)
    path = folder / WEIGHTS
    model = build(description)
    weights = read_weights(path)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not fit {folder / DESCRIPTION}: {one_line(error)}"
        ) from None
    return of(model.to(device), description)


def of(model: Network, description: dict[str, Any]) -> Checkpoint:
    """Join a trained network and its description, as `load` does."""
    normalization = Normalization(**description["normalization"])
    return Checkpoint(model, normalization, description["classes"], description)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict that torch.save wrote, to the CPU.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign files; faults are raised below
            _check_archive(path)
            # Other pickles would run code.
            weights = torch.load(path, map_location="cpu", weights_only=True)
            if not _is_state(weights):
                raise ValueError("it is not a dict of tensors")
    except Exception as error:  # the reader raises almost anything for a damaged file
        raise CheckpointError(f"{path} cannot be read as weights: {one_line(error)}") from None
    found: dict[str, Tensor] = weights
    return found


def first_weights(path: Path) -> dict[str, Tensor] | None:
    """Read the weights that a training begins with.

    Args:
        path: `training.init_from`: a folder that `save` wrote, or a file of weights.

    Returns:
        A state dict on the CPU; None to begin with random weights.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    if path == RANDOM:
        return None
    if path.is_dir():
        return load(path, torch.device("cpu")).model.state_dict()
    if not path.exists():
        raise CheckpointError(
            f"training.init_from is {path}, which is not there; `striate fetch EXPERIMENT` brings"
            " the network of an experiment and prints where it is"
        )
    return read_weights(path)


def _is_state(weights: Any) -> bool:
    return isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    )


def _check_archive(path: Path) -> None:
    """Verify the archive's own checksums, which torch.load ignores."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        # torch.save compresses nothing; a compressed member could fill the memory.
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("its members are larger than itself")
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"{damaged} does not match its checksum")
