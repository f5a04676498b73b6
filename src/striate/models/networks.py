"""The networks, from layers to whole, and what can be asked of each of them."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from striate.models.model_json import FIRST
from striate.models.sizing import check_layers

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
# Pooling before one of these gives what pooling after it gives, for a quarter of the work.
RISING = ("relu", "leaky_relu", "tanh")

# The whitening layer: how many images its filters are computed from, and what keeps patches of
# almost no variance from being blown up.
WHITENING_IMAGES = 1000
WHITENING_EPSILON = 5e-4


def channels(width: int | list[int], layers: int) -> list[int]:
    """How many channels each layer has: `width` doubled from layer to layer, or as listed."""
    return width if isinstance(width, list) else [width * 2**number for number in range(layers)]


def conv_layer(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int,
    convs_per_layer: int,
    norm: str,
    activation: str,
) -> nn.Sequential:
    """Convolutions that keep the image's size, each normalised and activated; pooling by 2.

    Args:
        in_channels: channels of the input.
        out_channels: channels of each convolution.
        kernel_size: side of the filters in pixels, odd.
        convs_per_layer: how many convolutions there are; the pooling belongs to the last.
        norm: `batch` or `none`.
        activation: a key of `ACTIVATIONS`.
    """
    modules: list[nn.Module] = []
    for inputs in [in_channels] + [out_channels] * (convs_per_layer - 1):
        modules.append(nn.Conv2d(inputs, out_channels, kernel_size, padding=kernel_size // 2))
        if norm == "batch":
            modules.append(nn.BatchNorm2d(out_channels))
        modules.append(ACTIVATIONS[activation]())
    pool = nn.MaxPool2d(2)
    modules.insert(len(modules) - 1 if activation in RISING else len(modules), pool)
    return nn.Sequential(*modules)


class ConvNet(nn.Module):
    """`layer1` … `layerN`, then `fc`: convolution, batch norm, activation and pooling, repeated.

    The form of Y. LeCun et al., "Handwritten digit recognition with a back-propagation network",
    NIPS 1989, with batch normalisation (S. Ioffe and C. Szegedy, arXiv:1502.03167). With two layers
    of width 16, kernel size 5 and one convolution a layer, the state dict has the keys and shapes
    of the widespread two-layer tutorial network.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: how many convolution layers; each halves height and width.
        width: channels of the first layer, doubled from layer to layer, or a list of all.
        kernel_size: side of the filters in pixels, odd.
        convs_per_layer: convolutions before each pooling.
        norm: `batch` or `none`.
        activation: a key of `ACTIVATIONS`.
        dropout: probability that a feature is dropped before the linear layer.

    Raises:
        UserError: an image of this shape cannot be halved so often.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        layers: int,
        width: int | list[int],
        kernel_size: int,
        convs_per_layer: int,
        norm: str,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        in_channels, height, columns = shape
        check_layers(layers, (height, columns), 0)
        widths = channels(width, layers)
        for number, (inputs, outputs) in enumerate(pairwise([in_channels, *widths]), start=1):
            layer = conv_layer(
                inputs,
                outputs,
                kernel_size=kernel_size,
                convs_per_layer=convs_per_layer,
                norm=norm,
                activation=activation,
            )
            self.add_module(f"layer{number}", layer)
            height, columns = height // 2, columns // 2
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[-1] * height * columns, classes)

    def layers(self) -> dict[str, nn.Module]:
        """The convolution layers by name, in order."""
        return {name: part for name, part in self.named_children() if name.startswith("layer")}

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        features = images
        for layer in self.layers().values():
            features = layer(features)
        # The linear layer hands back a gradient with channels outermost, which slows the layer
        # before it down many times over when its own values have them innermost.
        if features.requires_grad and features.is_contiguous(memory_format=torch.channels_last):
            features.register_hook(
                lambda gradient: gradient.contiguous(memory_format=torch.channels_last)
            )
        logits: Tensor = self.fc(self.dropout(features.flatten(1)))
        return logits


def quick_layer(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int,
    convs_per_layer: int,
    norm: str,
    activation: str,
) -> nn.Sequential:
    """Convolutions without a bias that begin as a partial identity; the first one is pooled by 2.

    The arguments are those of `conv_layer`. The batch norms have no learnt scale, and their
    running statistics follow fast, as a training of a few hundred steps needs it.
    """
    modules: list[nn.Module] = []
    for number, inputs in enumerate([in_channels] + [out_channels] * (convs_per_layer - 1)):
        conv = nn.Conv2d(inputs, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.dirac_(conv.weight.detach()[:inputs])
        modules.append(conv)
        if number == 0:
            modules.append(nn.MaxPool2d(2))
        if norm == "batch":
            scaled = nn.BatchNorm2d(out_channels, eps=1e-12, momentum=0.4)
            scaled.weight.requires_grad_(False)
            modules.append(scaled)
        modules.append(ACTIVATIONS[activation]())
    return nn.Sequential(*modules)


class SpeedNet(nn.Module):
    """A network that learns in few steps: `whiten`, then `layer1` … `layerN`, then `head`.

    After K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, and the
    later records of that family. `whiten` is a fixed convolution that `whiten_` fills in. It has no
    bias, unlike there: without a gradient for it, a step is a sixth faster. The largest value of
    each channel goes to the head.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: how many convolution layers; each halves height and width.
        width: channels of the first layer, doubled from layer to layer, or a list of all.
        kernel_size: side of the filters in pixels, odd.
        convs_per_layer: convolutions in each layer.
        norm: `batch` or `none`.
        activation: a key of `ACTIVATIONS`.
        dropout: probability that a feature is dropped before the linear layer.
        whiten: side of the whitening filters in pixels; 0 leaves that layer out.

    Raises:
        UserError: an image of this shape cannot be halved so often.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        layers: int,
        width: int | list[int],
        kernel_size: int,
        convs_per_layer: int,
        norm: str,
        activation: str,
        dropout: float,
        whiten: int,
    ) -> None:
        super().__init__()
        in_channels, height, columns = shape
        check_layers(layers, (height, columns), whiten)
        self.whiten: nn.Sequential | None = None
        if whiten:
            outputs = 2 * in_channels * whiten**2  # each filter and its negative
            conv = nn.Conv2d(in_channels, outputs, whiten, bias=False)
            conv.weight.requires_grad_(False)
            self.whiten = nn.Sequential(conv, ACTIVATIONS[activation]())
            in_channels = outputs
        widths = channels(width, layers)
        for number, (inputs, outputs) in enumerate(pairwise([in_channels, *widths]), start=1):
            layer = quick_layer(
                inputs,
                outputs,
                kernel_size=kernel_size,
                convs_per_layer=convs_per_layer,
                norm=norm,
                activation=activation,
            )
            self.add_module(f"layer{number}", layer)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes, bias=False)
        # Small first logits, so that the first steps are not spent on taking them back.
        with torch.no_grad():
            self.head.weight.div_(256 * self.head.weight.std())

    def layers(self) -> dict[str, nn.Module]:
        """The convolution layers by name, in order; the whitening layer comes first."""
        names = ("whiten", "layer")
        return {name: part for name, part in self.named_children() if name.startswith(names)}

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        features = images
        for layer in self.layers().values():
            features = layer(features)
        largest = F.max_pool2d(features, features.shape[2:]).flatten(1)
        logits: Tensor = self.head(self.dropout(largest))
        return logits


Network = ConvNet | SpeedNet


def build(shape: tuple[int, int, int], classes: int, architecture: dict[str, Any]) -> Network:
    """The network that the section `model` of params.yaml names, with random weights."""
    keys: dict[str, Any] = FIRST | architecture
    if keys.pop("arch") == "speedrun":
        return SpeedNet(shape, classes, **keys)
    keys.pop("whiten")
    return ConvNet(shape, classes, **keys)


@torch.no_grad()
def whiten_(model: Network, inputs: Tensor) -> None:
    """Fill in the whitening layer of a network that has one.

    Its filters are the eigenvectors of the covariance of all patches of its size, each divided by
    the root of its eigenvalue, so that their outputs are uncorrelated and of equal variance; and
    the negatives of these.

    Args:
        model: changed in place.
        inputs: normalised training images, float (N, C, H, W).
    """
    if not isinstance(model, SpeedNet) or model.whiten is None:
        return
    weight = next(model.whiten.parameters())
    side = weight.shape[2]
    patches = F.unfold(inputs.contiguous(), side).transpose(1, 2).flatten(0, 1)  # (N·L, C·k·k)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values + WHITENING_EPSILON).sqrt()).T.flip(0).view(-1, *weight.shape[1:])
    weight.copy_(torch.cat([filters, -filters]))


def count_parameters(model: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
