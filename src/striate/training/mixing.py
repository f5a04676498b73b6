"""Mixup and cutmix: mix each image of a batch with another one, and their labels alike."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from striate.config.params import Augment
    from striate.training.distributed import Group


class Targets(NamedTuple):
    """What the network is to say of the images of a batch.

    Attributes:
        labels: int64 (B,).
        partners: the labels of the images with which they are mixed, int64 (B,); None for none.
        share: of an image itself in its mixture, from 0 to 1, float (); None for none.
    """

    labels: Tensor
    partners: Tensor | None = None
    share: Tensor | None = None

    def split(self, parts: int) -> list[Targets]:
        """The targets of each of so many parts of the batch."""
        labels = self.labels.tensor_split(parts)
        if self.partners is None:
            return [Targets(part) for part in labels]
        partners = self.partners.tensor_split(parts)
        return [Targets(*both, self.share) for both in zip(labels, partners, strict=True)]

    def loss(
        self,
        logits: Tensor,
        label_smoothing: float,
        class_weights: Tensor | None,
        reduction: str,
    ) -> Tensor:
        """Cross-entropy, of mixed images the mean of that of both labels by their shares, ().

        Args:
            logits: float32 (B, classes).
            label_smoothing: from 0 to below 1.
            class_weights: multiply the loss of each label, float (classes,); None for none.
            reduction: `mean` or `sum` over the images, whatever they weigh.
        """

        def entropy(labels: Tensor) -> Tensor:
            reduced = partial(F.cross_entropy, logits, labels, label_smoothing=label_smoothing)
            if class_weights is None:
                return reduced(reduction=reduction)
            each = reduced(reduction="none") * class_weights[labels]
            return each.mean() if reduction == "mean" else each.sum()

        loss = entropy(self.labels)
        if self.partners is None or self.share is None:
            return loss
        return self.share * loss + (1 - self.share) * entropy(self.partners)

    def correct(self, logits: Tensor) -> Tensor:
        """How many images are classified as what they mostly show, int64 ()."""
        labels = self.labels
        if self.partners is not None and self.share is not None:
            labels = torch.where(self.share >= 0.5, labels, self.partners)
        return (logits.argmax(1) == labels).sum()


class Mixing:
    """How the batches of an epoch are mixed.

    Each image is mixed with the one before it in its batch, whose order is random; the first one
    with the last. So a process that takes a slice of a batch needs one more image. All images of a
    batch have one share, from a Beta distribution, and one rectangle.

    Mixup (H. Zhang et al., arXiv:1710.09412) blends two images. Cutmix (S. Yun et al.,
    arXiv:1905.04899) pastes a rectangle of the other one, whose share is that of its area. Where
    both are on, each batch takes one of them at random, evenly.

    Args:
        settings: the section `augment` of params.yaml.
        steps: batches in an epoch.
        device: of the images.

    Attributes:
        drawn: for each batch the share, 1 for cutmix or 0 for mixup, and the centre of the
            rectangle in heights and widths of the image; float (steps, 4).
    """

    def __init__(self, settings: Augment, steps: int, device: torch.device) -> None:
        self.mixup, self.cutmix = settings.mixup, settings.cutmix
        self.drawn = torch.zeros(steps, 4, device=device)
        self._current = torch.zeros(4, device=device)

    def draw(self, generator: torch.Generator) -> None:
        """Draw the numbers of an epoch."""
        size = (5, len(self.drawn))
        uniform = torch.rand(size, generator=generator, device=generator.device)
        chance = 0.5 if self.mixup and self.cutmix else float(bool(self.cutmix))
        cuts = uniform[0] < chance
        alpha = torch.where(cuts, float(self.cutmix), float(self.mixup))
        share = symmetric_beta(alpha, uniform[1], uniform[2])
        self.drawn.copy_(torch.stack([share, cuts.float(), uniform[3], uniform[4]], dim=1))

    def begin_step(self, number: int) -> None:
        """Mix the next batch as that step of the epoch, from 0, does.

        It is copied on the device to where a CUDA graph reads it.
        """
        self._current.copy_(self.drawn[number])

    def mix(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Targets]:
        """Mix each image with the one before it.

        Args:
            inputs: the image before a slice of a batch, and the slice, float (B + 1, C, H, W).
            labels: of these, int64 (B + 1,).

        Returns:
            The mixtures, float (B, C, H, W), and their targets.
        """
        of_pixels, share = self._shares(*inputs.shape[2:])
        mixed = torch.lerp(inputs[:-1], inputs[1:], of_pixels)
        return mixed, Targets(labels[1:], labels[:-1], share)

    def _shares(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The share of the image itself in each pixel, (H, W) or (), and in the label, ()."""
        share, cuts, *centre = self._current
        if not self.cutmix:
            return share, share
        side = (1 - share).sqrt()
        inside = []
        for length, middle in zip((height, width), centre, strict=True):
            half, start = (side * length / 2).floor(), (middle * length).floor()
            index = torch.arange(length, device=share.device)
            inside.append((index >= start - half) & (index < start + half))
        kept = (~(inside[0][:, None] & inside[1])).float()
        if not self.mixup:
            return kept, kept.mean()
        cuts = cuts > 0
        return torch.where(cuts, kept, share), torch.where(cuts, kept.mean(), share)


def rows_of(group: Group, indices: Tensor, mixing: Mixing | None) -> slice | Tensor:
    """Which images of a batch a process needs.

    Args:
        group: of the process.
        indices: of the images of the whole batch, int64 (N,).
        mixing: how images are mixed; None for not at all.

    Returns:
        The rank's slice; where images are mixed, int64 (B + 1,) with the image before it in front.
    """
    part = group.rank_slice(len(indices))
    if mixing is None:
        return part
    return torch.arange(part.start - 1, part.stop, device=indices.device) % len(indices)


def symmetric_beta(alpha: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Draws of Beta(alpha, alpha), one for each pair of uniform numbers from 0 to below 1.

    By Student's t distribution with 2 alpha degrees of freedom (R. Bailey, "Polar Generation of
    Random Variates with the t-Distribution", Mathematics of Computation 62, 1994), without
    rejections, so that each draw takes equally many numbers.
    """
    power = first ** (1 / alpha)
    cosine = torch.cos(2 * torch.pi * second)
    return 0.5 + 0.5 * cosine / torch.sqrt(power / (1 - power) + cosine**2)
