"""Begin with the weights of another network, and freeze layers."""

import torch
from torch import Tensor

from striate.models.networks import Network


@torch.no_grad()
def transfer_(model: Network, weights: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Take over the weights of every part of a network that they fit.

    A part is a convolution, a norm or a linear layer, and is taken whole or not at all.

    Args:
        model: changed in place.
        weights: a state dict of this or another network.

    Returns:
        The names of the parts that were taken, and of those that stay as they were.
    """
    taken: list[str] = []
    others: list[str] = []
    for name, part in model.named_modules():
        own = part.state_dict(prefix=f"{name}.")
        if not own or next(part.children(), None) is not None:
            continue
        fits = all(key in weights and weights[key].shape == own[key].shape for key in own)
        if fits:
            part.load_state_dict({key[len(name) + 1 :]: weights[key] for key in own})
        (taken if fits else others).append(name)
    return taken, others


def freeze_(model: Network, until: str) -> None:
    """Exclude the first layers of a network from training.

    Args:
        model: changed in place.
        until: `none`, the last layer that is frozen, or `features`: all of them.
    """
    if until == "none":
        return
    for name, layer in model.layers().items():
        layer.requires_grad_(False)
        if name == until:
            return
