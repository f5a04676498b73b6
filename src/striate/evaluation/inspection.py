"""The filters, feature maps and attention of a network."""

import re

import torch
from torch import Tensor, nn

from striate.evaluation.predictions import Inspected
from striate.models.layers import ImageLinear
from striate.models.registry import Network

MOST_FILTERS = 8  # convolutions that are all drawn
ATTENDED = 6  # test images whose attention is drawn


@torch.no_grad()
def feature_maps(model: Network, images: Tensor) -> dict[str, Tensor]:
    """The output of each layer for normalised images: layer name → (N, channels, height, width).

    A unit of a linear layer is a channel of one pixel.
    """
    model.eval()
    return {
        name: value if value.dim() == 4 else value[:, :, None, None]
        for name, value in model.feature_maps(images).items()
    }


@torch.no_grad()
def attention_maps(model: Network, images: Tensor) -> dict[str, Tensor]:
    """What `Network.attention_maps` gives for normalised images: nothing without attention."""
    model.eval()
    return model.attention_maps(images)


def inspect(model: Network, images: Tensor) -> Inspected:
    """What is drawn of a network.

    Args:
        model: on the device of the images.
        images: normalised, (N, C, H, W): the first is that of the feature maps, all that of the
            attention.
    """
    maps = feature_maps(model, images[:1])
    return Inspected(
        {name: weight.cpu().numpy() for name, weight in shown_filters(model).items()},
        {name: value[0].cpu().numpy() for name, value in maps.items()},
        {name: value.cpu().numpy() for name, value in attention_maps(model, images).items()},
    )


def filters(model: Network) -> dict[str, Tensor]:
    """The weights of all convolutions, (out, in, k, k), by name: `layer1`, or `layer1_conv2`.

    Those of a linear layer of all pixels are (out, channels, height, width) of the image.
    """
    found = {}
    for name, layer in model.layers().items():
        weights = [
            part.weight if isinstance(part, nn.Conv2d) else part.filters()
            for part in layer.modules()
            if isinstance(part, nn.Conv2d | ImageLinear)
        ]
        for number, weight in enumerate(weights, start=1):
            found[name if len(weights) == 1 else f"{name}_conv{number}"] = weight.detach()
    return found


def shown_filters(model: Network) -> dict[str, Tensor]:
    """Those of `filters` that the report draws: of a deep network, the first of each layer."""
    found = filters(model)
    if len(found) <= MOST_FILTERS:
        return found
    later = re.compile(r".*_conv(?!1$)\d+")
    return {name: weight for name, weight in found.items() if not later.fullmatch(name)}
