"""What in an image spoke for a class, and what against it.

Integrated gradients (M. Sundararajan, A. Taly and Q. Yan, "Axiomatic Attribution for Deep
Networks", arXiv:1703.01365) fit every network, with or without convolutions. The path begins at the
blurred image, in which nothing can be recognised, and not at a black one: black is the background
of a digit and a dark animal. `benchmarks/heat_maps.py` measures what they find.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 16  # gradients along the path
AT_ONCE = 16  # images whose paths are computed together
BLURS = 3  # box filters one after another, nearly a Gaussian
SMOOTHED = 3  # pixels; single pixels of a gradient alternate


def heat_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """How much each pixel speaks for a class, in nats of its log-probability.

    Args:
        model: on the device of the images; stays in evaluation mode.
        images: normalised, float32 (N, C, H, W).
        classes: one for each image, int64 (N,).

    Returns:
        float32 (N, H, W): above 0 for, below 0 against the class.
    """
    model.eval()
    evidence = integrated_gradients(model, images, classes).sum(1, keepdim=True)
    reach = SMOOTHED // 2
    return F.avg_pool2d(evidence, SMOOTHED, 1, reach, count_include_pad=False)[:, 0]


def integrated_gradients(
    model: nn.Module, images: Tensor, classes: Tensor, steps: int = STEPS
) -> Tensor:
    """The share of each number of the images in the rise of the class's log-probability.

    The shares of an image add up to its log-probability less that of the blurred image, the more
    exactly the more steps there are.

    Args:
        model: in evaluation mode, on the device of the images.
        images: normalised, float32 (N, C, H, W).
        classes: one for each image, int64 (N,).
        steps: gradients along the path, by the midpoint rule.

    Returns:
        The shape of the images.
    """
    parts = zip(images.split(AT_ONCE), classes.split(AT_ONCE), strict=True)
    return torch.cat([_integrated(model, *part, steps) for part in parts])


def _integrated(model: nn.Module, images: Tensor, classes: Tensor, steps: int) -> Tensor:
    """The same for a few images, whose paths are one batch."""
    start = blurred(images)
    shares = (torch.arange(steps, device=images.device) + 0.5) / steps
    path = start + (images - start) * shares[:, None, None, None, None]
    inputs = path.flatten(0, 1).requires_grad_()
    with torch.enable_grad():
        chosen = model(inputs).log_softmax(1).gather(1, classes.repeat(steps)[:, None])
        (gradients,) = torch.autograd.grad(chosen.sum(), inputs)
    mean: Tensor = gradients.unflatten(0, (steps, -1)).mean(0)
    return mean * (images - start)


def blurred(images: Tensor) -> Tensor:
    """Images (N, C, H, W) without what makes them recognisable; borders are continued."""
    reach = max(1, min(images.shape[2:]) // 8)
    for _ in range(BLURS):
        padded = F.pad(images, [reach] * 4, mode="replicate")
        images = F.avg_pool2d(padded, 2 * reach + 1, 1)
    return images


@torch.no_grad()
def probabilities_by_share(
    model: nn.Module, images: Tensor, classes: Tensor, maps: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """How the classes' mean probability changes as pixels go or come by their map.

    Deletion and insertion curves: V. Petsiuk, A. Das and K. Saenko, "RISE", arXiv:1806.07421.

    Args:
        model: in evaluation mode, on the device of the images.
        images: normalised, float32 (N, C, H, W).
        classes: one for each image, int64 (N,).
        maps: (N, H, W); the pixels with the highest values are the first.
        steps: the shares of the pixels are 0, 1/steps, 2/steps, …, 1.

    Returns:
        Both (steps + 1,): with those pixels blurred, and with all others blurred.
    """
    background, pixels = blurred(images), maps[0].numel()
    rank = maps.flatten(1).argsort(1, descending=True).argsort(1).view_as(maps)[:, None]
    curves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for step in range(steps + 1):
        first = rank < pixels * step / steps
        views = torch.where(first, background, images), torch.where(first, images, background)
        for curve, view in zip(curves, views, strict=True):
            found = model(view).softmax(1).gather(1, classes[:, None])
            curve.append(found.mean())
    return torch.stack(curves[0]), torch.stack(curves[1])
