"""Pictures in files → classes, with how far each is to be believed."""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from striate.datasets import image_reading
from striate.datasets.image_reading import ImageReadError
from striate.errors import UserError
from striate.models.calibration import energy
from striate.models.checkpoint import Checkpoint
from striate.models.prediction import predict
from striate.serving import preprocess

BATCH = 256
AHEAD = 2  # batches that are being read while one is looked at
SHOWN_SIDE = 224  # pixels, at least, of a network's view that a person is to look at


class Verdict(NamedTuple):
    """What a network makes of one picture.

    Attributes:
        probabilities: of each class.
        unlike: whether it is unlike the training images; None where that is not known.
    """

    probabilities: list[float]
    unlike: bool | None


class Looked(NamedTuple):
    """A picture, what the network saw of it, uint8 (C, H, W), and what it made of that."""

    file: Path
    pixels: np.ndarray
    verdict: Verdict


def files_of(names: Sequence[str]) -> list[Path]:
    """The files that were named, and the pictures in the folders that were, by their endings.

    What is left out of the folders is counted on standard error.

    Raises:
        UserError: a name is empty, or a folder holds no picture.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    for name in names:
        if not name:
            raise UserError("the name of a file is empty")
        path = Path(name)
        if path.is_dir():
            inside = image_reading.list_images(path)
            left_out.update(inside.skipped)
            left_out.update({image_reading.LINKED: len(inside.links)} if inside.links else {})
            if not inside.files:
                but = f" ({image_reading.describe_skipped(left_out)})" if left_out else ""
                raise UserError(f"{path} holds no file with the ending of a picture{but}")
            found += inside.files
        else:
            found.append(path)
    if left_out:
        print(f"note: {image_reading.describe_skipped(left_out)}", file=sys.stderr)
    return found


def look(
    files: Sequence[Path], trained: Checkpoint, device: torch.device
) -> Iterator[Looked | ImageReadError]:
    """Read pictures, bring them to what the network takes, and judge them, in their order.

    Args:
        files: of any number: only a few batches of them are held at a time.
        trained: the network, on `device`.
        device: that computes.

    Yields:
        What became of each file; an error for one that cannot be read.
    """
    for batch in _read(files, trained.description):
        seen = [(file, pixels) for file, pixels in batch if isinstance(pixels, np.ndarray)]
        verdicts: Iterator[Verdict] = iter(())
        if seen:
            stacked = torch.from_numpy(np.stack([pixels for _, pixels in seen])).to(device)
            logits = predict(trained.model, stacked, trained.normalization, batch_size=BATCH)
            verdicts = iter(judge(logits, trained.description["confidence"]))
        for file, pixels in batch:
            if isinstance(pixels, ImageReadError):
                yield pixels
            else:
                yield Looked(file, pixels, next(verdicts))


def judge(logits: Tensor, confidence: dict[str, float] | None) -> list[Verdict]:
    """Probabilities, and whether a picture is unlike the training images.

    Args:
        logits: (N, classes).
        confidence: of the checkpoint's description; None where nothing is known of it.
    """
    if confidence is None:
        return [Verdict(row, None) for row in logits.double().softmax(1).tolist()]
    probabilities = (logits.double() / confidence["temperature"]).softmax(1)
    unlike = energy(logits) > confidence["energy"]
    return [Verdict(*pair) for pair in zip(probabilities.tolist(), unlike.tolist(), strict=True)]


def _read(
    files: Sequence[Path], description: dict[str, Any]
) -> Iterator[list[tuple[Path, np.ndarray | ImageReadError]]]:
    """Batches of files and their prepared pixels, read by several threads ahead of who asks."""
    shape, peak = description["shape"], description["normalization"]["peak"]

    def prepared(file: Path) -> np.ndarray | ImageReadError:
        try:
            return preprocess.prepare(image_reading.read(file), shape, peak, description["frame"])
        except ImageReadError as error:
            return error

    waiting: deque[list[tuple[Path, Future[np.ndarray | ImageReadError]]]] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            waiting.append([(file, pool.submit(prepared, file)) for file in batch])
            if len(waiting) > AHEAD:
                yield [(file, future.result()) for file, future in waiting.popleft()]
        for rest in waiting:
            yield [(file, future.result()) for file, future in rest]


def view(pixels: np.ndarray, peak: int) -> Image.Image:
    """What the network sees, each pixel of it enlarged to a square.

    Args:
        pixels: uint8 (C, H, W).
        peak: the largest pixel value.
    """
    levels = np.rint(pixels.astype(np.float32) * (255 / peak)).astype(np.uint8)
    layout = levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0)
    factor = -(-SHOWN_SIDE // min(layout.shape[:2]))
    return Image.fromarray(layout.repeat(factor, axis=0).repeat(factor, axis=1))


def place_of_view(file: Path, folder: Path) -> Path:
    """Where the view of a file is kept: below `folder`, with all of the file's path in its own."""
    parts = [part for part in file.parts if part not in (file.anchor, "..", ".")]
    return folder.joinpath(*parts[:-1], f"{parts[-1]}.png")
