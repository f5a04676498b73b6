"""The network, from layers to whole.

Convolution → batch norm → ReLU → max-pool, repeated, then one linear layer: the form of
Y. LeCun et al., "Handwritten digit recognition with a back-propagation network", NIPS 1989, with
batch normalisation (S. Ioffe and C. Szegedy, arXiv:1502.03167).
"""

import torch
from torch import Tensor, nn

from striate.errors import UserError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def conv_layer(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int,
    convs_per_layer: int,
    norm: str,
    activation: str,
) -> nn.Sequential:
    """Convolutions that keep the image's size, each normalised and activated, then pooling by 2.

    Args:
        in_channels: channels of the input.
        out_channels: channels of each convolution.
        kernel_size: side of the filters in pixels, odd.
        convs_per_layer: how many convolutions stand before the pooling.
        norm: `batch` or `none`.
        activation: a key of `ACTIVATIONS`.
    """
    modules: list[nn.Module] = []
    for channels in [in_channels] + [out_channels] * (convs_per_layer - 1):
        modules.append(nn.Conv2d(channels, out_channels, kernel_size, padding=kernel_size // 2))
        if norm == "batch":
            modules.append(nn.BatchNorm2d(out_channels))
        modules.append(ACTIVATIONS[activation]())
    return nn.Sequential(*modules, nn.MaxPool2d(2))


class ConvNet(nn.Module):
    """`layer1` … `layerN`, each with twice the channels of the one before, then `fc`.

    With two layers of width 16, kernel size 5 and one convolution a layer, the state dict has the
    keys and shapes of the widespread two-layer tutorial network.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: how many convolution layers; each halves height and width.
        width: channels of the first layer.
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
        width: int,
        kernel_size: int,
        convs_per_layer: int,
        norm: str,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, height, columns = shape
        most = min(height, columns).bit_length() - 1
        if layers > most:
            raise UserError(
                f"model.layers is {layers}, too many for images of {height}×{columns} pixels, "
                f"which each layer halves; the largest possible value is {most}"
            )
        for number in range(1, layers + 1):
            out_channels = width * 2 ** (number - 1)
            layer = conv_layer(
                channels,
                out_channels,
                kernel_size=kernel_size,
                convs_per_layer=convs_per_layer,
                norm=norm,
                activation=activation,
            )
            self.add_module(f"layer{number}", layer)
            channels, height, columns = out_channels, height // 2, columns // 2
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels * height * columns, classes)

    def layers(self) -> dict[str, nn.Module]:
        """The convolution layers by name, in order."""
        return {name: part for name, part in self.named_children() if name.startswith("layer")}

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        features = images
        for layer in self.layers().values():
            features = layer(features)
        logits: Tensor = self.fc(self.dropout(features.flatten(1)))
        return logits


@torch.no_grad()
def feature_maps(model: ConvNet, images: Tensor) -> dict[str, Tensor]:
    """What each layer makes of normalised images: layer name → (N, channels, height, width)."""
    model.eval()
    maps, features = {}, images
    for name, layer in model.layers().items():
        maps[name] = features = layer(features)
    return maps


def filters(model: ConvNet) -> dict[str, Tensor]:
    """The weights of every convolution, (out, in, k, k), by name: `layer1`, or `layer1_conv2`."""
    found = {}
    for name, layer in model.layers().items():
        convs = [part for part in layer.modules() if isinstance(part, nn.Conv2d)]
        for number, conv in enumerate(convs, start=1):
            found[name if len(convs) == 1 else f"{name}_conv{number}"] = conv.weight.detach()
    return found


def count_parameters(model: nn.Module) -> int:
    """How many numbers training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
