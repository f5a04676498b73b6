"""The networks by name, and what each of them must answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from torch import Tensor, nn

from striate.models.defaults import FIRST

N = TypeVar("N", bound="Network")

FIT_IMAGES = 1000  # training images for `Network.fit_to_data`


class Network(nn.Module):
    """A network: normalised images, float (N, C, H, W) → logits, (N, classes).

    Its constructor takes the shape of an image (channels, height, width), the number of classes
    and, as keyword-only arguments, the keys of its class in `striate.models.configs`.
    """

    def layers(self) -> dict[str, nn.Module]:
        """The layers before the head by name; the output of each is the input of the next.

        Outputs are (N, C, H, W), or (N, C) behind linear layers. They are what `training.freeze`
        names, and where filters and feature maps are drawn.
        """
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """The output of the last layer: normalised images, float (N, C, H, W) → features."""
        for layer in self.layers().values():
            images = layer(images)
        return images

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """All parameters by role, each once, as optimisers tell them apart.

        Returns:
            `filters`: weights of convolutions and hidden linear layers. `head`: the weight of the
            layer that gives the logits. `biases`: biases, scales of norms, and what else is added,
            such as positions.
        """
        raise NotImplementedError

    def feature_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The output of each layer by name: normalised images, float (N, C, H, W) → features."""
        maps = {}
        for name, layer in self.layers().items():
            maps[name] = images = layer(images)
        return maps

    def attention_maps(self, images: Tensor) -> dict[str, Tensor]:
        """How much all patches attend to each patch, as a mean over heads, where there are any.

        Args:
            images: normalised, float (N, C, H, W).

        Returns:
            Layer name → (N, rows, columns) of patches; each map of an image adds up to 1. Nothing
            of networks without attention.
        """
        return {}

    def synchronize_norms_(self) -> None:
        """Make batch norms see the whole batch of several processes, which needs CUDA."""
        nn.SyncBatchNorm.convert_sync_batchnorm(self)

    def fit_to_data(self, images: Tensor) -> None:
        """Set weights that follow from the data; called once, before training.

        Args:
            images: the first `FIT_IMAGES` training images, normalised, float (N, C, H, W).
        """


NETWORKS: dict[str, Callable[..., Network]] = {}  # by `model.arch`; filled as files are imported


def register(arch: str) -> Callable[[type[N]], type[N]]:
    """Make a class the network that `model.arch` calls `arch`; its file has the same name.

    That of `timm:NAME` is `timm`, in `timm_network`.
    """

    def add(network: type[N]) -> type[N]:
        NETWORKS[arch] = network
        return network

    return add


def build(shape: tuple[int, int, int], classes: int, architecture: dict[str, Any]) -> Network:
    """Build a network with random weights.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        architecture: the section `model` of params.yaml, checked. The network gets the keys that
            it takes.

    Raises:
        UserError: the images are too small.
    """
    keys: dict[str, Any] = FIRST | architecture
    arch = keys["arch"].partition(":")[0]
    import_module(f"striate.models.{'timm_network' if arch == 'timm' else arch}")
    network = NETWORKS[arch]
    own = inspect.getfullargspec(network).kwonlyargs
    return network(shape, classes, **{key: keys[key] for key in own})


def count_parameters(model: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
