"""Stored splits → tensors on the device → augmented, normalised batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from striate import frames
from striate.errors import UserError
from striate.limits import check_val_size
from striate.results import one_line, read_json
from striate.splits import stratified_split

if TYPE_CHECKING:
    from striate.params import Augment
    from striate.stored import Stored

Pixels = TypeVar("Pixels", Tensor, "Stored")

MANIFEST_KEYS = {"name", "shape", "classes", "peak", "mean", "std", "frame", "train", "test"}


class Split(NamedTuple, Generic[Pixels]):
    """Images as published, uint8 (N, C, H, W), and their classes, int64 (N,), on one device.

    Images that are `Stored` come to that device when they are needed.
    """

    images: Pixels
    labels: Tensor


class Share(NamedTuple):
    """Which images of a batch are taken here, where several processes divide it."""

    batch: int  # images in the whole of it
    part: slice  # those of this process


@dataclass(frozen=True)
class Normalization:
    """How a pixel becomes an input of the network: `(pixel / peak - mean) / std`."""

    peak: int
    mean: list[float] | None  # of each channel; None leaves pixels between 0 and 1
    std: list[float] | None

    def __call__(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W), uint8 or float → float32 of the same shape and memory format."""
        # One division, as in torchvision's ToTensor, so that the results agree to the last bit; of
        # a copy, because floats, which a served model is given, would be changed for the caller.
        inputs = images.to(torch.float32, copy=True).div_(self.peak)
        if self.mean is None or self.std is None:
            return inputs
        # Where channels are innermost, whole rows are much faster than three numbers at a time.
        by_row = inputs.is_contiguous(memory_format=torch.channels_last)
        width = inputs.shape[3] if by_row else 0
        # What is made while torch.export looks on belongs to that export, and must not be kept.
        made = _by_channel.__wrapped__ if torch.compiler.is_compiling() else _by_channel
        mean, std = made(tuple(self.mean), tuple(self.std), width, images.device)
        view = inputs.permute(0, 2, 3, 1).flatten(2) if by_row else inputs
        view.sub_(mean).div_(std)
        return inputs


@cache
def _by_channel(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Both as (C, 1, 1), or repeated over a row, (width × C)."""
    pair = (torch.tensor(value, device=device) for value in (mean, std))
    first, second = (t.repeat(width) if width else t[:, None, None] for t in pair)
    return first, second


def normalization(manifest: dict[str, Any], mode: str) -> Normalization:
    """The normalisation `unit` or `standard` of the data set that a manifest describes."""
    if mode == "unit":
        return Normalization(manifest["peak"], None, None)
    return Normalization(manifest["peak"], manifest["mean"], manifest["std"])


def displayed(images: Tensor, peak: int) -> np.ndarray:
    """uint8 (N, C, H, W), at most `peak` → float32 from 0 to 1, for pictures."""
    values: np.ndarray = images.cpu().numpy().astype(np.float32) / peak
    return values


def load_manifest(folder: Path) -> dict[str, Any]:
    """What `striate.datasets.prepare` wrote beside the arrays.

    Raises:
        UserError: the file is missing, or is not such a description.
    """
    path = folder / "manifest.json"
    manifest = read_json(path)
    try:
        if set(manifest) != MANIFEST_KEYS:
            raise ValueError(f"its keys must be {', '.join(sorted(MANIFEST_KEYS))}")
        check_images(manifest)
        frames.check(manifest["frame"])
        for part in ("train", "test"):
            _check_part(part, manifest[part], len(manifest["classes"]))
    except ValueError as error:
        raise UserError(f"{path}: {error}; `dvc repro` makes it anew") from None
    return manifest


def check_images(described: dict[str, Any]) -> None:
    """Check what a manifest or a checkpoint says of a data set.

    Args:
        described: the keys name, shape, classes, peak, mean and std.

    Raises:
        ValueError: says what a key must be.
    """
    if not (type(described["name"]) is str and described["name"].isprintable()):
        raise ValueError("the name of the data set must be printable text")
    shape, classes, mean, std = (described[key] for key in ("shape", "classes", "mean", "std"))
    if not (_is_list(shape, int) and len(shape) == 3 and 1 <= min(shape) <= max(shape) <= 4096):
        raise ValueError("shape must be 3 whole numbers from 1 to 4096: channels, height, width")
    if not (_is_list(classes, str) and classes):
        raise ValueError("classes must be a list of names")
    if not (type(described["peak"]) is int and 1 <= described["peak"] <= 255):
        raise ValueError("peak must be a whole number from 1 to 255")
    if mean is None and std is None:
        return
    for name, values in (("mean", mean), ("std", std)):
        if not (
            _is_list(values, float)
            and len(values) == shape[0]
            and all(0 <= value <= 1 for value in values)
        ):
            raise ValueError(f"{name} must be a list of numbers from 0 to 1, one for each channel")
    if 0 in std:
        raise ValueError("std must be above 0")


def _check_part(name: str, part: Any, classes: int) -> None:
    if not isinstance(part, dict) or set(part) != {"count", "per_class", "sha256"}:
        raise ValueError(f"{name} must have the keys count, per_class, sha256")
    per_class, sha256 = part["per_class"], part["sha256"]
    if not (_is_list(per_class, int) and len(per_class) == classes and min(per_class) >= 1):
        raise ValueError(f"{name}.per_class must be counts of 1 or more, one for each class")
    if type(part["count"]) is not int or part["count"] != sum(per_class):
        raise ValueError(f"{name}.count must be the sum of {name}.per_class")
    if not (isinstance(sha256, dict) and set(sha256) == {"images.npy", "labels.npy"}):
        raise ValueError(f"{name}.sha256 must have the keys images.npy, labels.npy")


def _is_list(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)


def load_split(folder: Path, part: str, device: torch.device) -> Split[Tensor]:
    """Read the images and labels of a part, verified, onto a device.

    Args:
        folder: with `manifest.json` and, in a folder for each part, the arrays.
        part: `train` or `test`.
        device: where to.

    Raises:
        UserError: a file is missing or is not the one that the manifest describes.
    """
    pixels, labels = map_split(folder, part)
    return Split(torch.from_numpy(np.array(pixels, order="C")).to(device), labels.to(device))


def map_split(folder: Path, part: str) -> tuple[np.ndarray, Tensor]:
    """Map the images of a part and read its labels, both verified.

    Args:
        folder: as in `load_split`.
        part: likewise.

    Returns:
        Images, uint8 (N, C, H, W), of which nothing is in memory yet, and int64 (N,).

    Raises:
        UserError: likewise.
    """
    manifest = load_manifest(folder)
    described = manifest[part]
    pixels, mapped = (
        _map_array(folder / part / f"{name}.npy", described, shape, dtype)
        for name, shape, dtype in (
            ("images", manifest["shape"], np.uint8), ("labels", [], np.int64),
        )
    )  # fmt: skip
    labels = torch.from_numpy(np.array(mapped))
    per_class = described["per_class"]
    inside = int(labels.min()) >= 0 and int(labels.max()) < len(per_class)
    if not inside or labels.bincount(minlength=len(per_class)).tolist() != per_class:
        raise UserError(
            f"{folder / part / 'labels.npy'} has other counts of classes than"
            f" {folder / 'manifest.json'}; `dvc repro` makes both anew"
        )
    return pixels, labels


def _map_array(path: Path, described: dict[str, Any], shape: list[int], dtype: type) -> np.ndarray:
    """An array of one item of a shape for each image, if it is the one that is described."""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != described["sha256"][path.name]:
            raise ValueError("it is not the file that the manifest names by its SHA-256")
        # Mapped, the file is not read before its header has proved true.
        mapped = np.lib.format.open_memmap(path, mode="r")
        if mapped.dtype != dtype or mapped.shape != (described["count"], *shape):
            raise ValueError(f"it holds {mapped.dtype} {mapped.shape}, not what the manifest says")
        return mapped
    except Exception as error:  # a mangled header makes NumPy's reader raise almost anything
        raise UserError(
            f"{path} cannot be read: {one_line(error)}; `dvc repro` makes it anew"
        ) from None


def hold_out(
    split: Split[Pixels], size: float, seed: int
) -> tuple[Split[Pixels], Split[Pixels] | None]:
    """Keep a stratified part of the images for validation.

    Args:
        split: all training images.
        size: `data.val_size`: a fraction below 1 or a count of images; 0 keeps none.
        seed: the draw.

    Returns:
        The images to learn from, and those kept, or None where there are none.

    Raises:
        UserError: nothing would be left to learn from.
    """
    if size == 0:
        return split, None
    check_val_size(size, len(split.labels))
    parts = stratified_split(split.labels.cpu().numpy(), size, seed)
    train, val = (
        Split(split.images[where], split.labels[where])
        for where in (torch.from_numpy(part).to(split.labels.device) for part in parts)
    )
    return train, val if len(val.labels) else None


def augment(
    images: Tensor,
    places: Tensor,
    flipped: Tensor | None,
    normalize: Callable[[Tensor], Tensor],
    settings: Augment,
    generator: torch.Generator,
    *,
    share: Share | None = None,
    shrunk: bool = False,
) -> Tensor:
    """Take a batch of images, normalised, each one changed at random, all of them at once.

    Args:
        images: uint8 (N, C, H, W), fastest where channels are innermost.
        places: of those that are taken, int64 (B,).
        flipped: which of those taken are flipped left to right, bool (B,); None for none.
        normalize: uint8 images → inputs of the network.
        settings: the section `augment` of params.yaml.
        generator: on the device of `images`.
        share: which part of a batch `places` are; None for all of it. Random numbers are drawn
            for the whole batch, so that an image is changed alike however a batch is divided.
        shrunk: whether to shrink to the side that the settings name, after anything else.

    Returns:
        float (B, C, H, W): shifted, flipped, turned and scaled, then cut out.
    """
    share = share or Share(len(places), slice(None))
    if flipped is None and not settings.translate:
        inputs = normalize(images[places])
    else:
        inputs = normalize(_shifted(images, places, flipped, settings.translate, share, generator))
    if settings.rotate or settings.zoom:
        inputs = _turned(inputs, settings.rotate, settings.zoom, share, generator)
    if settings.cutout:
        inputs = _cutout(inputs, settings.cutout, share, generator)
    if shrunk and len(inputs):
        size = (settings.shrink, settings.shrink)
        inputs = F.interpolate(inputs, size, mode="bilinear", align_corners=False)
    return inputs


def draw_mirrored(count: int, generator: torch.Generator) -> Tensor:
    """Which images are flipped in the first epoch, bool (N,): about half of them."""
    return torch.rand(count, generator=generator, device=generator.device) < 0.5


def _turned(
    inputs: Tensor, degrees: float, zoom: float, share: Share, generator: torch.Generator
) -> Tensor:
    """Turn and scale about the centre, with bilinear interpolation; what comes in is reflected."""
    drawn = torch.rand(2, share.batch, generator=generator, device=inputs.device)
    if not len(inputs):
        return inputs  # PyTorch has no grid for none
    uniform = drawn[:, share.part] * 2 - 1
    angles, scales = torch.deg2rad(uniform[0] * degrees), 1 + uniform[1] * zoom
    cos, sin, zero = angles.cos() * scales, angles.sin() * scales, torch.zeros_like(angles)
    turns = torch.stack([cos, -sin, zero, sin, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(turns, list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, padding_mode="reflection", align_corners=False)


def _shifted(
    images: Tensor,
    places: Tensor,
    flipped: Tensor | None,
    pixels: int,
    share: Share,
    generator: torch.Generator,
) -> Tensor:
    """The images at these places, shifted with a reflected border and flipped, by one gather."""
    height, width = images.shape[2:]
    device = images.device
    drawn = torch.randint(
        -pixels, pixels + 1, (2, share.batch, 1), generator=generator, device=device
    )
    corner = drawn[:, share.part]
    rows = _reflected(corner[0] + torch.arange(height, device=device), height)  # (B, H)
    columns = _reflected(corner[1] + torch.arange(width, device=device), width)  # (B, W)
    if flipped is not None:
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    pixels_first = images.permute(0, 2, 3, 1)
    taken = pixels_first[places[:, None, None], rows[:, :, None], columns[:, None, :]]
    return taken.permute(0, 3, 1, 2)


def _reflected(places: Tensor, length: int) -> Tensor:
    """Places up to `length` - 1 outside an axis, mirrored back into it; the edge is not doubled."""
    return (length - 1) - ((length - 1) - places.abs()).abs()


def _cutout(inputs: Tensor, side: int, share: Share, generator: torch.Generator) -> Tensor:
    """Zero a square whose place is uniform over all that lie inside the image.

    After T. DeVries and G. Taylor, arXiv:1708.04552, whose squares may stick out of the image.
    """
    inside = []
    for length in inputs.shape[2:]:
        drawn = torch.randint(
            length - side + 1, (share.batch, 1), generator=generator, device=inputs.device
        )
        start = drawn[share.part]
        place = torch.arange(length, device=inputs.device)
        inside.append((place >= start) & (place < start + side))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return inputs.masked_fill(hole, 0.0)
