"""The network of repeated convolution, norm, activation and pooling."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from striate.models.layers import ACTIVATIONS, Residual, norm_layers, numbered_layers, roles
from striate.models.registry import Network, register
from striate.models.sizing import channels, check_layers, side_after_layers

# Pooling before one of these gives the same as pooling after it, for a quarter of the work.
RISING = ("relu", "leaky_relu", "tanh")


def conv(
    inputs: int, outputs: int, kernel_size: int, stride: int, *, bias: bool = True
) -> list[nn.Module]:
    """A convolution that keeps the size, or divides it by the stride, rounding up.

    Before filters of one pixel a pooling of one pixel takes the stride. PyTorch 2.15 writes outside
    its memory in the backward pass of a convolution with such filters and a stride, in float32 on a
    CPU, where few input channels are innermost.
    """
    if kernel_size == 1 and stride > 1:
        return [nn.AvgPool2d(1, stride), nn.Conv2d(inputs, outputs, 1, bias=bias)]
    return [nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=bias)]


def convolutions(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int,
    count: int,
    norm: str,
    activation: str,
    stride: int,
) -> list[nn.Module]:
    """Convolutions with a norm behind each and an activation between two of them.

    Args:
        in_channels: channels of the input.
        out_channels: channels of each convolution.
        kernel_size: side of the filters in pixels, odd.
        count: how many convolutions there are.
        norm: as in `norm_layers`.
        activation: a key of `ACTIVATIONS`.
        stride: of the last convolution; 2 halves the image, rounding up.
    """
    modules: list[nn.Module] = []
    for number in range(1, count + 1):
        inputs = in_channels if number == 1 else out_channels
        step = stride if number == count else 1
        modules += conv(inputs, out_channels, kernel_size, step)
        modules += norm_layers(norm, out_channels)
        if number < count:
            modules.append(ACTIVATIONS[activation]())
    return modules


def activate_and_pool(activation: str, pool: str) -> list[nn.Module]:
    """The activation behind the last convolution, and what halves the image, rounding down.

    Args:
        activation: a key of `ACTIVATIONS`.
        pool: `max`, `average`, or `stride`, which leaves it to the convolution.
    """
    activate = ACTIVATIONS[activation]()
    if pool == "stride":
        return [activate]
    if pool == "average":
        return [activate, nn.AvgPool2d(2)]
    pooling = nn.MaxPool2d(2)
    return [pooling, activate] if activation in RISING else [activate, pooling]


def residual_convolutions(
    convs: list[nn.Module], inputs: int, outputs: int, *, stride: int, norm: str
) -> Residual:
    """Convolutions with a skip connection around them.

    It is the identity, or a 1×1 convolution with a norm where channels or size change (option B of
    K. He et al., arXiv:1512.03385).

    Args:
        convs: what `convolutions` gives.
        inputs: channels of the first one's input.
        outputs: channels of the last one's output.
        stride: of the last convolution.
        norm: as in `norm_layers`.
    """
    skip = None
    if inputs != outputs or stride > 1:
        projection = conv(inputs, outputs, 1, stride, bias=False)
        skip = nn.Sequential(*projection, *norm_layers(norm, outputs))
    return Residual(nn.Sequential(*convs), skip)


@register("convnet")
class ConvNet(Network):
    """`layer1` … `layerN`, then `fc`: convolution, norm, activation and pooling, repeated.

    The form of Y. LeCun et al., "Handwritten digit recognition with a back-propagation network",
    NIPS 1989, with batch normalisation (S. Ioffe and C. Szegedy, arXiv:1502.03167). With two layers
    of width 16, kernel size 5 and one convolution a layer, the state dict has the keys and shapes
    of the widespread two-layer tutorial network. Images need a side of 2^layers pixels or more.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: how many convolution layers; each halves height and width.
        width: channels of the first layer, doubled from layer to layer, or a list of all.
        kernel_size: side of the filters in pixels, odd.
        convs_per_layer: convolutions before each pooling.
        norm: as in `norm_layers`.
        activation: a key of `ACTIVATIONS`.
        dropout: probability that a feature is dropped before the linear layer.
        residual: whether there is a skip connection around the convolutions of each layer.
        pool: what halves the image: `max` or `average` pooling, which round down, or `stride`, that
            of the last convolution, which rounds up (J. Springenberg et al., arXiv:1412.6806).

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
        residual: bool,
        pool: str,
    ) -> None:
        super().__init__()
        in_channels, *size = shape
        check_layers(layers, size)
        widths = channels(width, layers)
        stride = 2 if pool == "stride" else 1
        for number, (inputs, outputs) in enumerate(pairwise([in_channels, *widths]), start=1):
            convs = convolutions(
                inputs,
                outputs,
                kernel_size=kernel_size,
                count=convs_per_layer,
                norm=norm,
                activation=activation,
                stride=stride,
            )
            if residual:
                convs = [residual_convolutions(convs, inputs, outputs, stride=stride, norm=norm)]
            layer = nn.Sequential(*convs, *activate_and_pool(activation, pool))
            self.add_module(f"layer{number}", layer)
        height, columns = (side_after_layers(side, layers, pool) for side in size)
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
        features = self.features(images)
        # The gradient of the linear layer has channels outermost, which slows the layer before it
        # down many times over where that has them innermost.
        if features.requires_grad and features.is_contiguous(memory_format=torch.channels_last):
            features.register_hook(
                lambda gradient: gradient.contiguous(memory_format=torch.channels_last)
            )
        logits: Tensor = self.fc(self.dropout(features.flatten(1)))
        return logits
