"""`model.json`: what rebuilds a network, and one checksum of it and the weights beside it."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, BinaryIO

from striate.data import framing
from striate.data.arrays import check_images
from striate.data.json_csv import read_json
from striate.errors import UserError, one_line
from striate.models.defaults import FIRST

WEIGHTS = "cnn_trained.ckpt"
DESCRIPTION = "model.json"
PRETRAINED = "pretrained.json"  # instead of it, beside the published weights of timm
FALSE_ALARMS = 0.05  # false-positive rate of the out-of-distribution flag
LEAST_IMAGES = 100  # fewer validation images give no calibration and no such flag
# Older descriptions lack how pictures are framed, and the calibration.
ADDED: dict[str, Any] = {"frame": framing.WHOLE, "confidence": None}
KEYS = {"architecture", "data", "shape", "classes", "normalization", *ADDED}
BEGUN_WITH = "pretrained"  # a key only where training began with published weights


class CheckpointError(UserError):
    """A checkpoint is missing or damaged, or its two files do not belong together."""


def read(folder: Path) -> dict[str, Any]:
    """Read the description of a checkpoint and verify its `sha256`, if it has one.

    Weights are hashed, not loaded.

    Raises:
        CheckpointError: a file is missing, damaged or was changed after training.
    """
    weights, path = folder / WEIGHTS, folder / DESCRIPTION
    description = read_json(path)
    sealed = description.pop("sha256", None)
    # Before anything is built: a description that was changed may ask for any size.
    if sealed is not None:
        try:
            with weights.open("rb") as stream:
                found = sha256(description, stream)
        except OSError as error:
            raise CheckpointError(
                f"{weights} cannot be read as weights: {error.strerror}"
            ) from None
        if found != sealed:
            raise CheckpointError(
                f"{weights} or {path} was changed after training: their SHA-256 is not the one"
                " that is written there; `dvc repro` recreates both"
            )
    description = ADDED | description
    try:
        _check(description)
    except (ValueError, UserError) as error:
        raise CheckpointError(f"{path} cannot be used: {one_line(error)}") from None
    return description


def pretrained(source: Path) -> dict[str, Any]:
    """The published weights that a training began with, for its description.

    Args:
        source: `training.init_from`. A trained network passes on what it began with itself.

    Returns:
        `pretrained`, with the content of their `pretrained.json`; nothing where there are none.

    Raises:
        CheckpointError: the file says less.
    """
    note: Any = None
    if (source / PRETRAINED).is_file():
        note = read_json(source / PRETRAINED)
    elif (source / DESCRIPTION).is_file():
        note = read_json(source / DESCRIPTION).get(BEGUN_WITH)
    if note is None:
        return {}
    try:
        _check_pretrained(note)
    except ValueError as error:
        raise CheckpointError(f"{source} cannot be used: {error}") from None
    return {BEGUN_WITH: note}


def sha256(description: dict[str, Any], weights: BinaryIO) -> str:
    """The SHA-256 of a description, serialised in one way, followed by the weights."""
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    return hashlib.file_digest(weights, lambda: digest).hexdigest()  # type: ignore[arg-type]


def check_fits(description: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Refuse to score a network on images of another shape or other classes.

    Raises:
        CheckpointError: says which data set the network is for.
    """
    for key, other in (("shape", "images of another shape"), ("classes", "other classes")):
        if description[key] != manifest[key]:
            raise CheckpointError(
                f"the network was trained on {description['data']}, and data/ holds"
                f" {manifest['name']}, with {other}; train one on {manifest['name']}, or bring back"
                " the experiment of this one with `dvc exp apply`"
            )


def _check(description: dict[str, Any]) -> None:
    """Refuse what `describe` never gives; without a checksum anyone may have changed it.

    Raises:
        ValueError, UserError: says what a key must be.
    """
    from striate.models import configs

    if set(description) - {BEGUN_WITH} != KEYS:
        raise ValueError(f"its keys must be {', '.join(sorted(KEYS))} and sha256")
    normalization, architecture = description["normalization"], description["architecture"]
    if not (isinstance(normalization, dict) and set(normalization) == {"peak", "mean", "std"}):
        raise ValueError("normalization must have the keys peak, mean, std")
    if not isinstance(architecture, dict):
        raise ValueError("architecture must be the section model of params.yaml")
    check_images(description | normalization | {"name": description["data"]})
    framing.check(description["frame"])
    _check_confidence(description["confidence"])
    if BEGUN_WITH in description:
        _check_pretrained(description[BEGUN_WITH])
    network = configs.check(FIRST | architecture, "architecture")
    network.check_fits(description["shape"], len(description["classes"]))


def _check_pretrained(note: Any) -> None:
    if not (
        isinstance(note, dict)
        and all(isinstance(note.get(key), str) for key in ("arch", "source"))
        and isinstance(note.get("license"), str | None)
    ):
        raise ValueError(f"{BEGUN_WITH} must name arch, source and license of published weights")


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
