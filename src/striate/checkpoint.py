"""A trained network on disk: the plain weights, and beside them what rebuilds the network.

`cnn_trained.ckpt` holds the state dict and nothing else, so that anyone can load it into a network
of the same structure; `model.json` holds the rest, and a checksum of both.
Neither needs params.yaml to be read.
"""

import hashlib
import io
import json
import math
import warnings
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from striate import files, frames, models
from striate.errors import UserError
from striate.images import Normalization, check_images
from striate.limits import check_network
from striate.models import Network
from striate.results import one_line, read_json

WEIGHTS = "cnn_trained.ckpt"
DESCRIPTION = "model.json"
RANDOM = Path("weights/random")  # what `training.init_from` is where no weights are taken over
# What older descriptions lack: how a picture is to be framed, and how far a probability is to be
# believed.
ADDED: dict[str, Any] = {"frame": frames.WHOLE, "confidence": None}
KEYS = {"architecture", "data", "shape", "classes", "normalization", *ADDED}


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or not of the network that is described beside it."""


class Checkpoint(NamedTuple):
    """A network with its weights, and what its inputs and outputs mean."""

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
        "frame": manifest["frame"],
        "confidence": None,
    }


def build(description: dict[str, Any]) -> Network:
    """The network that a description asks for, with random weights."""
    return models.build(
        tuple(description["shape"]), len(description["classes"]), description["architecture"]
    )


def save(model: Network, description: dict[str, Any], folder: Path) -> None:
    """Write weights and description, each complete or not at all.

    Equal weights give equal bytes. The description's `sha256` is over both files.
    """
    # A fresh copy: strides that training chose would be written too.
    weights = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    # torch.save would put the name of a path into the file, so it gets a nameless buffer.
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    files.write(folder / WEIGHTS, buffer.getvalue())
    sealed = description | {"sha256": _sha256(description, buffer)}
    files.write(folder / DESCRIPTION, (json.dumps(sealed, indent=2) + "\n").encode())


def load(folder: Path, device: torch.device) -> Checkpoint:
    """Read what `save` wrote, or an older version of it wrote without `sha256`.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the description.
    """
    path, description_path = folder / WEIGHTS, folder / DESCRIPTION
    description = read_json(description_path)
    sealed = description.pop("sha256", None)
    # Before anything is built or read: what was changed may ask for any size.
    if sealed is not None:
        try:
            with path.open("rb") as stream:
                found = _sha256(description, stream)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read as weights: {error.strerror}") from None
        if found != sealed:
            raise CheckpointError(
                f"{path} or {description_path} was changed after training: their SHA-256 is not"
                " the one that is written there; `dvc repro` makes both anew"
            )
    description = ADDED | description
    try:
        _check(description)
        model = build(description)
    except (ValueError, UserError) as error:
        raise CheckpointError(f"{description_path} cannot be used: {one_line(error)}") from None
    weights = read_weights(path)
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} does not fit {description_path}: {one_line(error)}"
        ) from None
    return of(model.to(device), description)


def of(model: Network, description: dict[str, Any]) -> Checkpoint:
    """A network with its weights and what `describe` says of it, as `load` gives them."""
    normalization = Normalization(**description["normalization"])
    return Checkpoint(model, normalization, description["classes"], description)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that torch.save wrote, on the CPU.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign file; what matters is raised below
            _check_archive(path)
            # Other pickles would run code.
            weights = torch.load(path, map_location="cpu", weights_only=True)
            if not _is_state(weights):
                raise ValueError("it is not a dict of tensors")
    except Exception as error:  # a damaged file makes the reader raise almost anything
        raise CheckpointError(f"{path} cannot be read as weights: {one_line(error)}") from None
    found: dict[str, Tensor] = weights
    return found


def first_weights(path: Path) -> dict[str, Tensor] | None:
    """The weights that a training begins with.

    Args:
        path: `training.init_from`: a folder that `save` wrote, or a file of weights alone.

    Returns:
        A state dict on the CPU; None where the weights are to stay random.

    Raises:
        CheckpointError: there is no such network.
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


def _sha256(description: dict[str, Any], weights: io.BytesIO | io.BufferedReader) -> str:
    """The SHA-256 of a description, in one way of writing it, and of the weights behind it."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    return hashlib.file_digest(weights, lambda: digest).hexdigest()


def _check(description: dict[str, Any]) -> None:
    """Refuse what `describe` never gives; an older description has no checksum against that.

    Raises:
        ValueError, UserError: says what a key must be.
    """
    from striate import params

    if set(description) != KEYS:
        raise ValueError(f"its keys must be {', '.join(sorted(KEYS))} and sha256")
    normalization, architecture = description["normalization"], description["architecture"]
    if not (isinstance(normalization, dict) and set(normalization) == {"peak", "mean", "std"}):
        raise ValueError("normalization must have the keys peak, mean, std")
    if not isinstance(architecture, dict):
        raise ValueError("architecture must be the section model of params.yaml")
    check_images(description | normalization | {"name": description["data"]})
    frames.check(description["frame"])
    _check_confidence(description["confidence"])
    model = params.check_model(models.FIRST | architecture, "architecture")
    check_network(model.model_dump(), description["shape"], len(description["classes"]))


def _check_confidence(confidence: Any) -> None:
    if confidence is None:
        return
    if not (
        isinstance(confidence, dict)
        and set(confidence) == {"temperature", "energy"}
        and all(type(value) is float and math.isfinite(value) for value in confidence.values())
        and confidence["temperature"] > 0
    ):
        raise ValueError("confidence must be null, or a temperature above 0 and an energy")


def _is_state(weights: Any) -> bool:
    return isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    )


def _check_archive(path: Path) -> None:
    """Compare the checksums that the archive holds, which torch.load does not."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        # torch.save packs nothing; what is packed could fill the memory.
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise ValueError("its members are larger than itself")
        damaged = archive.testzip()
    if damaged:
        raise ValueError(f"{damaged} does not match its checksum")


def check_fits(checkpoint: Checkpoint, manifest: dict[str, Any]) -> None:
    """Refuse to score a network on images of another shape or of other classes.

    Raises:
        CheckpointError: says which data set the network is for.
    """
    for key, other in (("shape", "images of another shape"), ("classes", "other classes")):
        if checkpoint.description[key] != manifest[key]:
            raise CheckpointError(
                f"the network was trained on {checkpoint.description['data']}, and data/ holds"
                f" {manifest['name']}, with {other}; train one on {manifest['name']}, or bring back"
                " the experiment of this one with `dvc exp apply`"
            )
