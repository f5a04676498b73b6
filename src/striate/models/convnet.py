"""The network of repeated convolution, batch norm, activation and pooling."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from striate.models.layers import ACTIVATIONS, numbered_layers, roles
from striate.models.registry import Network, register
from striate.models.sizing import channels, check_layers

# Pooling before one of these gives the same as pooling after it, for a quarter of the work.
RISING = ("relu", "leaky_relu", "tanh")


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


@register("convnet")
class ConvNet(Network):
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
        check_layers(layers, (height, columns))
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
        """`layer1` … `layerN`."""
        return numbered_layers(self)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Weights of convolutions are filters, that of `fc` is the head."""
        return roles(self.layers().values(), self.fc)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        features = images
        for layer in self.layers().values():
            features = layer(features)
        # The gradient of the linear layer has channels outermost, which slows the layer before it
        # down many times over where that has them innermost.
        if features.requires_grad and features.is_contiguous(memory_format=torch.channels_last):
            features.register_hook(
                lambda gradient: gradient.contiguous(memory_format=torch.channels_last)
            )
        logits: Tensor = self.fc(self.dropout(features.flatten(1)))
        return logits
