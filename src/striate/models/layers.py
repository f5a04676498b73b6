"""What several networks are built of."""

import math
from collections.abc import Iterable

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}

MAX_GROUPS, LEAST_CHANNELS = 8, 4  # of group norm: groups, and channels in each


class ImageLinear(nn.Linear):
    """A linear layer of all pixels of an image: (N, C, H, W) → (N, outputs).

    Args:
        shape: channels, height and width of an image.
        outputs: how many units there are.
    """

    def __init__(self, shape: tuple[int, int, int], outputs: int) -> None:
        super().__init__(math.prod(shape), outputs)
        self.shape = shape

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, outputs)."""
        return super().forward(images.flatten(1))

    def filters(self) -> Tensor:
        """The weights as images, one a unit: (outputs, C, H, W)."""
        return self.weight.view(-1, *self.shape)


class Residual(nn.Module):
    """Layers and a skip connection around them, whose outputs are added up.

    K. He et al., "Deep Residual Learning for Image Recognition", arXiv:1512.03385.

    Args:
        inside: the layers.
        skip: what gives the input their shape where they change it; by default the identity.
    """

    def __init__(self, inside: nn.Module, skip: nn.Module | None = None) -> None:
        super().__init__()
        self.inside = inside
        self.skip = nn.Identity() if skip is None else skip

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape that `inside` takes → the shape that it gives."""
        total: Tensor = self.inside(inputs) + self.skip(inputs)
        return total


def norm_layers(norm: str, channels: int, *, image: bool = True) -> list[nn.Module]:
    """The norm behind a convolution or a linear layer, or nothing.

    Args:
        norm: `batch`; `group` (Y. Wu and K. He, arXiv:1803.08494); `layer`, which is one group (J.
            Ba et al., arXiv:1607.06450); or `none`.
        channels: of its input.
        image: whether that is (N, channels, H, W), or else (N, channels).
    """
    if norm == "batch":
        return [nn.BatchNorm2d(channels) if image else nn.BatchNorm1d(channels)]
    if norm == "none":
        return []
    return [nn.GroupNorm(groups(channels) if norm == "group" else 1, channels)]


def groups(channels: int) -> int:
    """The most groups that divide the channels: 8 at most, each of four channels or more."""
    most = max(1, min(MAX_GROUPS, channels // LEAST_CHANNELS))
    return next(count for count in range(most, 0, -1) if channels % count == 0)


def numbered_layers(model: nn.Module, name: str = "layer") -> dict[str, nn.Module]:
    """The parts of a network that are called `layer1`, `layer2`, … or like `name`, in order."""
    return {key: part for key, part in model.named_children() if key.startswith(name)}


def roles(layers: Iterable[nn.Module], head: nn.Linear) -> dict[str, list[nn.Parameter]]:
    """The parameters by role, for a network of convolutions, linear layers and norms.

    Args:
        layers: all parts of the network before the head.
        head: gives the logits.

    Returns:
        What `striate.models.registry.Network.parameter_roles` is to give.
    """
    found: dict[str, list[nn.Parameter]] = {"filters": [], "head": [], "biases": []}
    for part in (part for layer in layers for part in layer.modules()):
        role = "filters" if isinstance(part, nn.Conv2d | nn.Linear) else "biases"
        for name, parameter in part.named_parameters(recurse=False):
            found[role if name == "weight" else "biases"].append(parameter)
    for name, parameter in head.named_parameters():
        found["head" if name == "weight" else "biases"].append(parameter)
    return found
