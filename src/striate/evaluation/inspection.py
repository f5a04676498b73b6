"""What a network looks like inside: its filters and feature maps."""

import torch
from torch import Tensor, nn

from striate.models.networks import Network


@torch.no_grad()
def feature_maps(model: Network, images: Tensor) -> dict[str, Tensor]:
    """What each layer makes of normalised images: layer name → (N, channels, height, width)."""
    model.eval()
    maps, features = {}, images
    for name, layer in model.layers().items():
        maps[name] = features = layer(features)
    return maps


def filters(model: Network) -> dict[str, Tensor]:
    """The weights of every convolution, (out, in, k, k), by name: `layer1`, or `layer1_conv2`."""
    found = {}
    for name, layer in model.layers().items():
        convs = [part for part in layer.modules() if isinstance(part, nn.Conv2d)]
        for number, conv in enumerate(convs, start=1):
            found[name if len(convs) == 1 else f"{name}_conv{number}"] = conv.weight.detach()
    return found
