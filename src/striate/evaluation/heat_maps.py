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
VALUES = 256 * 3 * 32 * 32  # numbers in the inputs of the network that are computed at once
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
    start = blurred(images)
    shares = (torch.arange(steps, device=images.device) + 0.5) / steps
    total = torch.zeros_like(images)
    at_once = max(1, VALUES // images[0].numel()) if len(images) else 1
    # Each pair of an image and a step is an input of the network.
    for pairs in torch.arange(len(images) * steps, device=images.device).split(at_once):
        chosen, share = pairs // steps, shares[pairs % steps]
        inputs = torch.lerp(start[chosen], images[chosen], share[:, None, None, None])
        inputs.requires_grad_()
        with torch.enable_grad():
            found = model(inputs).log_softmax(1).gather(1, classes[chosen][:, None])
            (gradients,) = torch.autograd.grad(found.sum(), inputs)
        total.index_add_(0, chosen, gradients)
    return total / steps * (images - start)


def blurred(images: Tensor) -> Tensor:
    """Images (N, C, H, W) without what makes them recognisable; borders are continued."""
    reach = max(1, min(images.shape[2:]) // 8)
    for _ in range(BLURS):
        padded = F.pad(images, [reach] * 4, mode="replicate")
        images = F.avg_pool2d(padded, 2 * reach + 1, 1)
    return images
