"""The filters, feature maps and attention of a network."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from striate.evaluation.predictions import Inspected
from striate.models.layers import ImageLinear, Residual
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
        parts = _parts(layer)
        for number, part in enumerate(parts, start=1):
            found[name if len(parts) == 1 else f"{name}_conv{number}"] = _filters_of(part)
    return found


def last_filters(model: Network, channels: Mapping[str, int]) -> dict[str, Tensor]:
    """The filters behind each layer's channels, (out, in, k, k), by the layer's name.

    Those of its last convolution that gives as many channels, without the ones that only pass a
    skip connection on. Layers without any are left out.

    Args:
        model: whose layers count.
        channels: how many each layer has, by name.
    """
    found = {}
    for name, layer in model.layers().items():
        skips = [part.skip for part in layer.modules() if isinstance(part, Residual)]
        passed_on = {id(part) for skip in skips for part in _parts(skip)}
        fitting = [
            part
            for part in _parts(layer)
            if id(part) not in passed_on and len(_filters_of(part)) == channels.get(name)
        ]
        if fitting:
            found[name] = _filters_of(fitting[-1])
    return found


def _parts(layer: nn.Module) -> list[nn.Conv2d | ImageLinear]:
    """All that has filters in a layer."""
    return [part for part in layer.modules() if isinstance(part, nn.Conv2d | ImageLinear)]


def _filters_of(part: nn.Conv2d | ImageLinear) -> Tensor:
    weight = part.filters() if isinstance(part, ImageLinear) else part.weight
    return weight.detach()


def shown_filters(model: Network) -> dict[str, Tensor]:
    """Those of `filters` that the report draws: of a deep network, the first of each layer."""
    found = filters(model)
    if len(found) <= MOST_FILTERS:
        return found
    later = re.compile(r".*_conv(?!1$)\d+")
    return {name: weight for name, weight in found.items() if not later.fullmatch(name)}
