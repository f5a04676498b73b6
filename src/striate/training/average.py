"""An exponential moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from striate.models.registry import Network


class WeightAverage:
    """Averages the weights after each update: earlier ones count less and less.

    After B. Polyak and A. Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM
    Journal on Control and Optimization 30 (1992), with exponential weights. Running statistics of
    norms are averaged likewise, so that they are of the same steps as the weights, and no other
    pass over the images is needed. Frozen weights stay as they are.

    Args:
        model: whose weights change in place.
        decay: from above 0 to below 1; the weight of the average at a late update. An early one has
            less (`early_decay`), so that the first, random weights are soon forgotten.

    Attributes:
        model: a copy of the network, which holds the averages.
        values: the averages by name.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.decay = decay
        self.model = deepcopy(model)
        weights, copies = model.state_dict(), self.model.state_dict()
        frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
        self.values: dict[str, Tensor] = {
            name: value
            for name, value in copies.items()
            if value.is_floating_point() and name not in frozen
        }
        self._weights = [weights[name] for name in self.values]
        # Read from the device: a CUDA graph would capture a number as a constant.
        self._share = torch.zeros((), device=self._weights[0].device)

    def begin_step(self, number: int) -> None:
        """Choose the share of the weights in the average after the next update.

        Args:
            number: how many updates came before, over all epochs.
        """
        self._share.fill_(1 - early_decay(number, self.decay))

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the weights."""
        averages = [*self.values.values()]
        changes = torch._foreach_sub(self._weights, averages)
        torch._foreach_mul_(changes, self._share)
        torch._foreach_add_(averages, changes)


def early_decay(number: int, decay: float) -> float:
    """The decay after `number` updates: at most (1 + n) / (10 + n), which is usual."""
    return min(decay, (1 + number) / (10 + number))
