"""The filters and feature maps of a network."""

import torch
from torch import Tensor, nn

from striate.models.registry import Network


@torch.no_grad()
def feature_maps(model: Network, images: Tensor) -> dict[str, Tensor]:
    """The output of each layer for normalised images: layer name → (N, channels, height, width)."""
    model.eval()
    maps, features = {}, images
    for name, layer in model.layers().items():
        maps[name] = features = layer(features)
    return maps


def filters(model: Network) -> dict[str, Tensor]:
    """The weights of all convolutions, (out, in, k, k), by name: `layer1`, or `layer1_conv2`."""
    found = {}
    for name, layer in model.layers().items():
        convs = [part for part in layer.modules() if isinstance(part, nn.Conv2d)]
        for number, conv in enumerate(convs, start=1):
            found[name if len(convs) == 1 else f"{name}_conv{number}"] = conv.weight.detach()
    return found
