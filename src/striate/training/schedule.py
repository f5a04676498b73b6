"""How many steps a training takes, and what changes from step to step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from striate.config.params import Params, Training


class Schedule:
    """The steps of a training, counted from 0 over all epochs.

    Args:
        params: of which the sections `training` and `augment` are read.
        images: in the training set.

    Attributes:
        batch_sizes: of the steps of an epoch; the last batch may be smaller.
        steps_per_epoch: how many batches there are.
        total_steps: of all epochs.
        shrunk_steps: how many of the first steps see shrunk images.
    """

    def __init__(self, params: Params, images: int) -> None:
        self.settings = params.training
        size = self.settings.batch_size
        self.steps_per_epoch = steps_per_epoch(images, size)
        self.batch_sizes = [size] * (self.steps_per_epoch - 1)
        self.batch_sizes.append(images - sum(self.batch_sizes))
        self.total_steps = self.steps_per_epoch * self.settings.epochs
        augment = params.augment
        self.shrunk_steps = (
            round(augment.shrink_until * self.total_steps) if augment.shrink else 0
        )  # fmt: skip

    def rate_factor(self, step: int) -> float:
        """The learning rate at a step, relative to its peak."""
        return rate_factor(step, self.total_steps, self.settings)

    def learning_rate(self, step: int) -> float:
        """The learning rate at a step, as `training.learning_rate` counts it."""
        return self.settings.learning_rate * self.rate_factor(step)

    def is_shrunk(self, step: int) -> bool:
        """Whether a step sees shrunk images."""
        return step < self.shrunk_steps


def steps_per_epoch(images: int, batch_size: int) -> int:
    """How many batches the images make; the last one may be smaller."""
    return math.ceil(images / batch_size)


def rate_factor(step: int, steps: int, settings: Training) -> float:
    """The learning rate at a step (from 0) of `steps`, relative to its peak.

    It rises linearly during the warm-up, then stays constant or decays to 0 after the last step.
    """
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = min((step - warmup) / (steps - warmup), 1.0)
    return {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
    }[settings.schedule]
