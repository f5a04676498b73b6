"""What stays as it is during a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from striate.data.tensors import Split
from striate.models.devices import REFERENCE, Precision, pick_precision
from striate.training.lazy_images import Stored

if TYPE_CHECKING:
    from striate.config.params import Params


@dataclass(frozen=True)
class Task:
    """Images, and the params that say how to learn from them.

    Attributes:
        train_set: the images to learn from. Where they lie changes nothing but the speed.
        val_set: images to score after each epoch; None for no scores.
        params: all of params.yaml; `seed`, `training` and `augment` are read.
        normalize: uint8 images → inputs of the network.
    """

    train_set: Split[Tensor] | Split[Stored]
    val_set: Split[Tensor] | Split[Stored] | None
    params: Params
    normalize: Callable[[Tensor], Tensor]

    @property
    def device(self) -> torch.device:
        """Where the network is trained."""
        return self.train_set.labels.device

    @cached_property
    def precision(self) -> Precision:
        """What the network computes in."""
        return pick_precision(self.params.training.precision, self.device)

    @cached_property
    def class_weights(self) -> Tensor | None:
        """What the loss of an image of each class is multiplied by, float32 (classes,), or None.

        Of N training images in K classes, the n of one class count N / (K n) each, so that all
        classes count alike and the mean over the images is 1, as scikit-learn's
        `compute_class_weight("balanced")` (G. King and L. Zeng, "Logistic Regression in Rare Events
        Data", Political Analysis 9, 2001).

        The loss of a batch is the weighted sum over its images, divided by their number.
        `F.cross_entropy(weight=…)` divides by the sum of their weights: an image would then count
        by what else is in its batch, and in a batch of one class the weights would do nothing. With
        label smoothing it weighs each part of a smoothed label by the class of that part; here an
        image's whole loss has the weight of its own class, as if it were there so many times.
        """
        if self.params.training.class_weights == "none":
            return None
        sizes = self.train_set.labels.cpu().bincount()
        weights = sizes.sum() / ((sizes > 0).sum() * sizes.clamp(min=1).double())
        return weights.float().to(self.device)

    @property
    def is_fast(self) -> bool:
        """Whether the arithmetic may round otherwise than a plain loop's."""
        return self.precision != REFERENCE
