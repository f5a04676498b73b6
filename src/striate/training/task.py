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

    @property
    def is_fast(self) -> bool:
        """Whether the arithmetic may round otherwise than a plain loop's."""
        return self.precision != REFERENCE
