"""A trained network on disk: the plain weights, and beside them what rebuilds the network.

`cnn_trained.ckpt` holds the state dict and nothing else, so that anyone can load it into a network
of the same structure; `model.json` holds the rest. Neither needs params.yaml to be read.
"""

import io
import json
import os
import warnings
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from striate import models
from striate.errors import UserError
from striate.images import Normalization
from striate.models import Network

WEIGHTS = "cnn_trained.ckpt"
DESCRIPTION = "model.json"


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or not of the network that is described beside it."""


class Checkpoint(NamedTuple):
    """A network with its weights, and what its inputs and outputs mean."""

    model: Network
    normalization: Normalization
    classes: list[str]
    description: dict[str, Any]


def describe(
    architecture: dict[str, Any], manifest: dict[str, Any], normalization: Normalization
) -> dict[str, Any]:
    """What rebuilds a network: plain values for `model.json`.

    Args:
        architecture: the section `model` of params.yaml.
        manifest: of the data set that the network was trained on.
        normalization: that the network's inputs went through.
    """
    return {
        "architecture": architecture,
        "data": manifest["name"],
        "shape": manifest["shape"],
        "classes": manifest["classes"],
        "normalization": asdict(normalization),
    }


def build(description: dict[str, Any]) -> Network:
    """The network that a description asks for, with random weights."""
    return models.build(
        tuple(description["shape"]), len(description["classes"]), description["architecture"]
    )


def save(model: Network, description: dict[str, Any], folder: Path) -> None:
    """Write weights and description, each complete or not at all.

    Equal weights give equal bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A fresh copy: strides that training chose would be written too.
    weights = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    # torch.save would put the name of a path into the file, so it gets a nameless buffer.
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    _write(folder / WEIGHTS, buffer.getvalue())
    _write(folder / DESCRIPTION, (json.dumps(description, indent=2) + "\n").encode())


def load(folder: Path, device: torch.device) -> Checkpoint:
    """Read what `save` wrote.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the description.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
        model = build(description)
        normalization = Normalization(**description["normalization"])
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder / DESCRIPTION} is not there; `dvc repro` makes it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / DESCRIPTION} cannot be used: {error!r}") from None
    path = folder / WEIGHTS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign file; what matters is raised below
            # torch.load does not compare the checksums that the archive holds.
            damaged = zipfile.is_zipfile(path) and zipfile.ZipFile(path).testzip()
            if damaged:
                raise ValueError(f"{damaged} does not match its checksum")
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the reader raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as weights: {reason}") from None
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit {folder / DESCRIPTION}: {reason}") from None
    return Checkpoint(model.to(device), normalization, description["classes"], description)


def check_fits(checkpoint: Checkpoint, manifest: dict[str, Any]) -> None:
    """Refuse to score a network on images of another shape or of other classes.

    Raises:
        CheckpointError: says which data set the network is for.
    """
    for key in ("shape", "classes"):
        if checkpoint.description[key] != manifest[key]:
            raise CheckpointError(
                f"the network was trained on {checkpoint.description['data']}, whose {key} differ"
                f" from those of {manifest['name']}; train it on {manifest['name']} first"
            )


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(content)
    os.replace(temporary, path)
