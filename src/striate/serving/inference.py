"""Classify image files, with calibrated probabilities and out-of-distribution detection."""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from striate.data import arrays
from striate.datasets import image_reading
from striate.datasets.image_reading import ImageReadError
from striate.errors import UserError
from striate.evaluation import heat_maps
from striate.models.calibration import energy
from striate.models.checkpoint import Checkpoint
from striate.models.prediction import predict
from striate.serving import preprocess

BATCH = 256
PREFETCHED = 2  # batches that are read while one is classified
VIEW_SIDE = 224  # pixels at least, for an enlarged input of the network
GAP = 8  # pixels between two of them


class Prediction(NamedTuple):
    """A network's output for one image.

    Attributes:
        probabilities: of each class.
        out_of_distribution: None if the network has no threshold for it.
    """

    probabilities: list[float]
    out_of_distribution: bool | None


class ClassifiedFile(NamedTuple):
    """An image file and what a network says of it.

    Attributes:
        file: its path.
        pixels: the network's input, uint8 (C, H, W).
        prediction: its output.
        evidence: how much each pixel spoke for the predicted class, float32 (H, W); None if that
            was not asked for.
    """

    file: Path
    pixels: np.ndarray
    prediction: Prediction
    evidence: np.ndarray | None = None


def find_files(names: Sequence[str]) -> list[Path]:
    """List the named files, and the image files in the named folders.

    Prints the number of skipped files in the folders to standard error.

    Raises:
        UserError: a name is empty, or a folder contains no image files.
    """
    files: list[Path] = []
    skipped: Counter[str] = Counter()
    for name in names:
        if not name:
            raise UserError("a file name is empty")
        path = Path(name)
        if path.is_dir():
            listing = image_reading.list_images(path)
            skipped.update(listing.skipped)
            skipped.update({image_reading.LINKED: len(listing.links)} if listing.links else {})
            if not listing.files:
                note = f" ({image_reading.describe_skipped(skipped)})" if skipped else ""
                raise UserError(f"{path} contains no image files{note}")
            files += listing.files
        else:
            files.append(path)
    if skipped:
        print(f"note: {image_reading.describe_skipped(skipped)}", file=sys.stderr)
    return files


def classify(
    files: Sequence[Path], trained: Checkpoint, device: torch.device, explain: bool = False
) -> Iterator[ClassifiedFile | ImageReadError]:
    """Read, preprocess and classify image files, in order.

    Args:
        files: any number; only a few batches are in memory at a time.
        trained: the network, on `device`.
        device: that computes.
        explain: find what spoke for the predicted classes, too.

    Yields:
        A result for each file, or the error why it cannot be read.
    """
    for batch in _read_batches(files, trained.description):
        readable = [(file, pixels) for file, pixels in batch if isinstance(pixels, np.ndarray)]
        predictions: Iterator[Prediction] = iter(())
        evidence: Iterator[np.ndarray | None] = repeat(None)
        if readable:
            stacked = torch.from_numpy(np.stack([pixels for _, pixels in readable])).to(device)
            logits = predict(trained.model, stacked, trained.normalization, batch_size=BATCH)
            predictions = iter(calibrated(logits, trained.description["confidence"]))
            if explain:
                evidence = iter(explained(trained, stacked, logits))
        for file, pixels in batch:
            if isinstance(pixels, ImageReadError):
                yield pixels
            else:
                yield ClassifiedFile(file, pixels, next(predictions), next(evidence))


def explained(trained: Checkpoint, images: Tensor, logits: Tensor) -> np.ndarray:
    """What spoke for the predicted class of each image: uint8 (N, C, H, W) → (N, H, W)."""
    guesses = logits.argmax(1).to(images.device)
    inputs = trained.normalization(images)
    return heat_maps.heat_maps(trained.model, inputs, guesses).cpu().numpy()


def calibrated(logits: Tensor, confidence: dict[str, float] | None) -> list[Prediction]:
    """Turn logits into calibrated probabilities and out-of-distribution flags.

    Args:
        logits: (N, classes).
        confidence: the temperature and the energy threshold in the checkpoint's description; None
            gives uncalibrated probabilities and no flags.
    """
    if confidence is None:
        return [Prediction(row, None) for row in logits.double().softmax(1).tolist()]
    probabilities = (logits.double() / confidence["temperature"]).softmax(1)
    flags = energy(logits) > confidence["energy"]
    return [Prediction(*pair) for pair in zip(probabilities.tolist(), flags.tolist(), strict=True)]


def _read_batches(
    files: Sequence[Path], description: dict[str, Any]
) -> Iterator[list[tuple[Path, np.ndarray | ImageReadError]]]:
    """Read and preprocess files in batches, several threads ahead of the caller."""
    shape, peak = description["shape"], description["normalization"]["peak"]

    def read(file: Path) -> np.ndarray | ImageReadError:
        try:
            return preprocess.prepare(image_reading.read(file), shape, peak, description["frame"])
        except ImageReadError as error:
            return error

    pending: deque[list[tuple[Path, Future[np.ndarray | ImageReadError]]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            pending.append([(file, pool.submit(read, file)) for file in batch])
            if len(pending) > PREFETCHED:
                yield [(file, future.result()) for file, future in pending.popleft()]
        for rest in pending:
            yield [(file, future.result()) for file, future in rest]


def view(pixels: np.ndarray, peak: int) -> Image.Image:
    """Enlarge the network's input, each pixel to a square, for people to look at.

    Args:
        pixels: (C, H, W).
        peak: the largest pixel value.
    """
    levels = np.rint(pixels.astype(np.float32) * (255 / peak)).astype(np.uint8)
    layout = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
    factor = -(-VIEW_SIDE // min(layout.shape[:2]))
    return Image.fromarray(layout.repeat(factor, axis=0).repeat(factor, axis=1))


def reasons(pixels: np.ndarray, peak: int, evidence: np.ndarray) -> Image.Image:
    """The network's input and, beside it, what spoke for the predicted class, both enlarged.

    Args:
        pixels: uint8 (C, H, W).
        peak: the largest pixel value.
        evidence: float32 (H, W).
    """
    from striate.reporting import html  # takes Jinja, which classifying does not need

    left = view(pixels, peak)
    right = view(html.heat(arrays.scale_to_unit(pixels, peak), evidence), 1)
    both = Image.new("RGB", (left.width + GAP + right.width, left.height), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + GAP, 0))
    return both


def view_path(file: Path, folder: Path) -> Path:
    """The path of a file's view: in `folder`, below all folders of the file's own path."""
    parts = [part for part in file.parts if part not in (file.anchor, "..", ".")]
    return folder.joinpath(*parts[:-1], f"{parts[-1]}.png")
