"""The weights of a network in a narrower type, converted and converted back by few calls."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn


class LoweredWeights:
    """The weights of convolutions and linear layers in the precision of the products.

    Autocast would convert each of them by a call of its own, and each gradient by another; here one
    call converts all weights of a step, and one all gradients, to the same bits. Layers of other
    classes, and weights that several layers share, are left to autocast.

    Args:
        model: whose float32 weights the optimizer updates. Its forward pass gets the weights of
            plain `Conv2d` and `Linear` layers in `dtype`.
        dtype: of the products.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        owners = Counter(
            id(weight) for module in model.modules() for weight in module.parameters(recurse=False)
        )
        self.sources = {
            f"{part}.{name}": weight
            for part, module in model.named_modules()
            if type(module) in (nn.Conv2d, nn.Linear)
            for name, weight in module.named_parameters(recurse=False)
            if owners[id(weight)] == 1
        }
        self.lowered = {
            name: torch.empty_like(weight, dtype=dtype).requires_grad_(weight.requires_grad)
            for name, weight in self.sources.items()
        }
        self.learning = [name for name, weight in self.sources.items() if weight.requires_grad]

    @torch.no_grad()
    def refresh(self) -> dict[str, Tensor]:
        """Convert the weights of this step; returns them by name, without gradients."""
        torch._foreach_copy_([*self.lowered.values()], [*self.sources.values()])
        for weight in self.lowered.values():
            weight.grad = None
        return self.lowered

    @torch.no_grad()
    def widen_grads(self) -> None:
        """Add the gradients, converted back, to those of the weights that the optimizer updates."""
        pairs = [
            (self.sources[name], grad)
            for name in self.learning
            if (grad := self.lowered[name].grad) is not None
        ]
        if not pairs:  # a rank without images
            return
        raised = [torch.empty_like(weight) for weight, _ in pairs]
        torch._foreach_copy_(raised, [grad for _, grad in pairs])
        for (weight, _), grad in zip(pairs, raised, strict=True):
            # Several parts of a batch add up in float32.
            weight.grad = grad if weight.grad is None else weight.grad.add_(grad)
