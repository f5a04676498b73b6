"""Run a network over images; loss and accuracy of its logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

if TYPE_CHECKING:
    from striate.training.lazy_images import Stored


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor | Stored,
    normalize: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    tta: str = "none",
    description: str | None = None,
) -> Tensor:
    """Run a network over images, in evaluation mode.

    Args:
        model: on the device of `images`; stays in evaluation mode.
        images: uint8 (N, C, H, W).
        normalize: uint8 images → inputs of the network.
        batch_size: images in a step.
        tta: test-time augmentation, a value of `evaluate.tta`; see `views`.
        description: what a progress bar says; None shows none.

    Returns:
        Logits on the CPU, float32 (N, classes).
    """
    model.eval()
    parts = []
    with tqdm(
        total=len(images),
        desc=description,
        unit=" images",
        disable=True if description is None else None,
        leave=False,
    ) as bar:
        for batch in images.split(batch_size):
            inputs = normalize(batch)
            logits = sum(weight * model(view) for view, weight in views(inputs, tta))
            parts.append(logits.float().cpu())
            bar.update(len(batch))
    return torch.cat(parts)


def views(inputs: Tensor, tta: str) -> Iterator[tuple[Tensor, float]]:
    """Yield augmented views of a batch and their weights, which add up to 1.

    With shifts, the image itself has half of the weight, and a shift by one pixel up and left and
    one by one pixel down and right, with reflected borders, a quarter each (K. Jordan,
    arXiv:2404.00498). With flips, each view shares its weight with its mirror image.

    Args:
        inputs: normalised, (N, C, H, W).
        tta: `none`, `flip`, `translate` or `flip_translate`.
    """
    shifted = [(inputs, 1.0)]
    if "translate" in tta:
        height, width = inputs.shape[2:]
        padded = F.pad(inputs, [1] * 4, mode="reflect")
        corners = (padded[:, :, :height, :width], padded[:, :, 2:, 2:])
        shifted = [(inputs, 0.5)] + [(corner, 0.25) for corner in corners]
    for view, weight in shifted:
        if "flip" in tta:
            yield view, weight / 2
            yield view.flip(3), weight / 2
        else:
            yield view, weight


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats, summed in double precision and divided once."""
    return float(F.cross_entropy(logits.double(), labels, reduction="sum")) / len(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The fraction of images whose largest logit is that of their class."""
    return int((logits.argmax(1) == labels).sum()) / len(labels)
