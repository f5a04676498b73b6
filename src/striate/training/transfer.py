"""Transfer learning: take over another network's weights, freeze layers."""

import torch
from torch import Tensor

from striate.models.registry import Network


@torch.no_grad()
def transfer_(model: Network, weights: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """Load the weights of every part of a network whose names and shapes match.

    A part is a convolution, a norm, a linear layer, or what a larger part learns beside those, such
    as positions. It is loaded whole or not at all.

    Args:
        model: changed in place.
        weights: a state dict of any network.

    Returns:
        The names of the parts that were loaded, and of those left as they were.
    """
    loaded: list[str] = []
    unmatched: list[str] = []
    for name, part in model.named_modules():
        prefix = f"{name}." if name else ""
        own = {
            key: value
            for key, value in part.state_dict(prefix=prefix).items()
            if "." not in key.removeprefix(prefix)
        }
        if not own:
            continue
        fits = all(key in weights and weights[key].shape == own[key].shape for key in own)
        if fits:
            for key, value in own.items():
                value.copy_(weights[key])
        (loaded if fits else unmatched).append(name)
    return loaded, unmatched


def freeze_(model: Network, until: str) -> None:
    """Freeze the first layers of a network.

    Args:
        model: changed in place.
        until: `none`, the last layer to freeze, or `features` for all layers.
    """
    if until == "none":
        return
    for name, layer in model.layers().items():
        layer.requires_grad_(False)
        if name == until:
            return
