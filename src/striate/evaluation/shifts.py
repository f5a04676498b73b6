"""Test images made worse: corruptions in five severities each.

After D. Hendrycks and T. Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations", arXiv:1903.12261, and N. Mu and J. Gilmer, "MNIST-C", arXiv:1906.02337, in forms
that run on the device and fit images of any size. A new corruption is one function here, decorated
with `corruption`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from striate.data.splits import stratified_split
from striate.models.prediction import accuracy, predict

if TYPE_CHECKING:
    from striate.data.tensors import Split
    from striate.models.checkpoint import Checkpoint

SEVERITIES = 5
SEED = 0  # of all draws: everybody's images are the same
BLOCK = 8  # pixels, of JPEG
# Of the luminance of JPEG at quality 50: ITU-T T.81, table K.1.
QUANTIZATION = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


class Draws(NamedTuple):
    """What chance decides, for each image; equal at all severities.

    Attributes:
        normal: standard normal, (N, C, H, W).
        uniform: from 0 to 1, (N, 1, H, W).
        place: two numbers from 0 to 1, (N, 2).
    """

    normal: Tensor
    uniform: Tensor
    place: Tensor


Corrupt = Callable[[Tensor, float, Draws], Tensor]


class Corruption(NamedTuple):
    """A corruption: images from 0 to 1, a strength and draws → images.

    Attributes:
        strengths: one for each severity, rising.
        apply: may leave the range from 0 to 1.
    """

    strengths: tuple[float, ...]
    apply: Corrupt


CORRUPTIONS: dict[str, Corruption] = {}  # by name, in the order of the tables


def corruption(*strengths: float) -> Callable[[Corrupt], Corrupt]:
    """Register a function as a corruption; its name is the name."""

    def register(apply: Corrupt) -> Corrupt:
        CORRUPTIONS[apply.__name__] = Corruption(strengths, apply)
        return apply

    return register


def draws(images: Tensor) -> Draws:
    """The draws for images (N, C, H, W), on their device; equal on all devices."""
    generator = torch.Generator().manual_seed(SEED)
    count, _, height, width = images.shape
    normal = torch.randn(images.shape, generator=generator)
    uniform = torch.rand(count, 1, height, width, generator=generator)
    place = torch.rand(count, 2, generator=generator)
    return Draws(*(drawn.to(images.device) for drawn in (normal, uniform, place)))


def corrupt(images: Tensor, peak: int, name: str, severity: int, drawn: Draws) -> Tensor:
    """Images with one corruption.

    Args:
        images: uint8 (N, C, H, W), from 0 to `peak`.
        peak: the largest pixel value.
        name: a key of `CORRUPTIONS`.
        severity: 1 to 5.
        drawn: what `draws` gave for them.

    Returns:
        The same shape, type and range.
    """
    strengths, apply = CORRUPTIONS[name]
    changed = apply(images.float() / peak, strengths[severity - 1], drawn)
    return (changed.clamp(0, 1) * peak).round().to(torch.uint8)


def score(
    trained: Checkpoint, test: Split[Tensor], count: int, *, batch_size: int, tta: str
) -> tuple[dict[str, list[float]], np.ndarray]:
    """Score a network under every corruption at every severity.

    Args:
        trained: the network, on the device of the images.
        test: all test images, of which a stratified part is scored, the same for all networks.
        count: images of that part; of fewer images, all.
        batch_size: images in a step.
        tta: test-time augmentation, as in `predict`.

    Returns:
        The accuracy by name for each severity, and one image with every corruption, uint8
        (corruptions, severities, C, H, W).
    """
    labels = test.labels.cpu().numpy()
    part = np.arange(len(labels))
    if count < len(labels):
        part = stratified_split(labels, count, SEED)[1]
    chosen = torch.from_numpy(part).to(test.labels.device)
    images, truth = test.images[chosen], test.labels[chosen].cpu()
    peak, drawn = trained.normalization.peak, draws(images)
    accuracies: dict[str, list[float]] = {name: [] for name in CORRUPTIONS}
    examples = []
    for name, own in accuracies.items():
        for severity in range(1, SEVERITIES + 1):
            logits: list[Tensor] = []
            for batch in torch.arange(len(images), device=images.device).split(batch_size):
                some = Draws(*(part[batch] for part in drawn))
                changed = corrupt(images[batch], peak, name, severity, some)
                if not logits:
                    examples.append(changed[0].clone())  # a view would keep the batch
                logits.append(
                    predict(
                        trained.model, changed, trained.normalization, batch_size=batch_size,
                        tta=tta,
                    )
                )  # fmt: skip
            own.append(accuracy(torch.cat(logits), truth))
    stacked = torch.stack(examples).unflatten(0, (len(CORRUPTIONS), SEVERITIES))
    return accuracies, stacked.cpu().numpy()


@corruption(0.04, 0.08, 0.12, 0.18, 0.26)
def noise(images: Tensor, deviation: float, drawn: Draws) -> Tensor:
    """Gaussian noise, as of a sensor in little light."""
    return images + deviation * drawn.normal


@corruption(0.01, 0.03, 0.06, 0.12, 0.2)
def specks(images: Tensor, share: float, drawn: Draws) -> Tensor:
    """A share of the pixels is black or white."""
    images = images.masked_fill(drawn.uniform < share / 2, 0)
    return images.masked_fill(drawn.uniform > 1 - share / 2, 1)


@corruption(0.4, 0.6, 0.8, 1.1, 1.5)
def blur(images: Tensor, deviation: float, drawn: Draws) -> Tensor:
    """A Gaussian blur; the deviation is in pixels of an image of 32."""
    deviation *= _side(images) / 32
    reach = max(1, math.ceil(3 * deviation))
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / deviation) ** 2)
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    channels = images.shape[1]
    padded = F.pad(images, [reach] * 4, mode="replicate")
    across = F.conv2d(padded, kernel[:, :, None], groups=channels)
    return F.conv2d(across, kernel[:, :, :, None], groups=channels)


@corruption(0.75, 0.55, 0.4, 0.28, 0.18)
def contrast(images: Tensor, share: float, drawn: Draws) -> Tensor:
    """Differences from the image's mean shrink to a share."""
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + share * (images - mean)


@corruption(0.1, 0.2, 0.3, 0.4, 0.5)
def brightness(images: Tensor, added: float, drawn: Draws) -> Tensor:
    """All pixels are brighter."""
    return images + added


@corruption(0.75, 0.6, 0.5, 0.4, 0.3)
def pixelation(images: Tensor, share: float, drawn: Draws) -> Tensor:
    """Fewer, larger pixels: a share of them along each side."""
    size = [max(1, round(side * share)) for side in images.shape[2:]]
    small = F.interpolate(images, size, mode="area")
    return F.interpolate(small, images.shape[2:], mode="nearest-exact")


@corruption(60, 40, 25, 15, 8)
def jpeg(images: Tensor, quality: float, drawn: Draws) -> Tensor:
    """Compression as in JPEG, each channel as its luminance, without a colour space of its own."""
    height, width = images.shape[2:]
    padded = F.pad(images, [0, -width % BLOCK, 0, -height % BLOCK], mode="replicate")
    rows, columns = padded.shape[2] // BLOCK, padded.shape[3] // BLOCK
    blocks = padded.unflatten(3, (columns, BLOCK)).unflatten(2, (rows, BLOCK)).transpose(3, 4)
    basis = _cosines(images.device)
    scale = 50 / quality if quality < 50 else 2 - quality / 50
    table = (torch.tensor(QUANTIZATION, device=images.device) * scale).round().clamp(1, 255)
    waves = (basis @ (blocks * 255 - 128) @ basis.T / table).round() * table
    restored = (basis.T @ waves @ basis + 128) / 255
    whole: Tensor = restored.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    return whole[:, :, :height, :width]


@corruption(0.03, 0.06, 0.1, 0.14, 0.2)
def translation(images: Tensor, share: float, drawn: Draws) -> Tensor:
    """A shift by a share of the side in a random direction; border pixels fill the gap."""
    angle = 2 * math.pi * drawn.place[:, 0]
    shift = 2 * share * torch.stack([angle.cos(), angle.sin()], 1)
    turn = torch.eye(2, device=images.device).expand(len(images), 2, 2)
    return _resample(images, turn, shift)


@corruption(5, 10, 15, 22, 30)
def rotation(images: Tensor, degrees: float, drawn: Draws) -> Tensor:
    """A turn to one side or the other; border pixels fill the gaps."""
    angle = math.radians(degrees) * torch.where(drawn.place[:, 0] < 0.5, -1.0, 1.0)
    cosine, sine = angle.cos(), angle.sin()
    turn = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
    return _resample(images, turn, torch.zeros_like(drawn.place))


@corruption(0.15, 0.22, 0.3, 0.38, 0.45)
def occlusion(images: Tensor, share: float, drawn: Draws) -> Tensor:
    """A grey square somewhere, whose side is a share of the image's."""
    side = max(1, round(share * _side(images)))
    inside = []
    for axis in (0, 1):
        length = images.shape[2 + axis]
        start = (drawn.place[:, axis] * (length - side + 1)).floor()[:, None]
        pixels = torch.arange(length, device=images.device)
        inside.append((pixels >= start) & (pixels < start + side))
    return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0.5)


@corruption(0.2, 0.4, 0.6, 0.8, 1.0)
def thin(images: Tensor, share: float, drawn: Draws) -> Tensor:
    """Bright strokes are thinner: a mixture with the darkest of the 3 × 3 pixels around each."""
    return images + _in_small(share, images) * (-_brightest(-images) - images)


@corruption(0.2, 0.4, 0.6, 0.8, 1.0)
def thick(images: Tensor, share: float, drawn: Draws) -> Tensor:
    """Bright strokes are thicker: a mixture with the brightest of the 3 × 3 pixels around each."""
    return images + _in_small(share, images) * (_brightest(images) - images)


_brightest = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)


def _in_small(share: float, images: Tensor) -> float:
    """Less where three pixels are a larger part of the side than in MNIST."""
    return share * min(1, _side(images) / 28)


def _side(images: Tensor) -> int:
    return min(images.shape[2:])


def _cosines(device: torch.device) -> Tensor:
    """The orthonormal basis of the discrete cosine transform of a block's side."""
    steps = torch.arange(BLOCK, device=device)
    basis = torch.cos(math.pi / BLOCK * (steps + 0.5) * steps[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] /= math.sqrt(2)
    return basis


def _resample(images: Tensor, turn: Tensor, shift: Tensor) -> Tensor:
    """Bilinear samples: of each image at `turn` (2, 2) of its grid from -1 to 1, plus `shift`."""
    height, width = images.shape[2:]
    # A turn keeps angles only where a step across is as long as a step down.
    stretch = torch.tensor([[1, height / width], [width / height, 1]], device=images.device)
    affine = torch.cat([turn * stretch, shift[:, :, None]], 2)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
