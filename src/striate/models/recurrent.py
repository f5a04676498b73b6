"""The network of few parameters, which applies one convolution again and again."""

from torch import Tensor, nn

from striate.models.layers import ACTIVATIONS, norm_layers, roles
from striate.models.registry import Network, register
from striate.models.sizing import HALVINGS, check_layers


class RepeatedConv(nn.Conv2d):
    """A convolution that is applied several times in a step.

    In a class of its own, its weights are left to autocast (see `striate.training.lowered`), which
    adds up the gradients of all times in float32.
    """


class Recurrent(nn.Module):
    """A separable convolution, applied again and again, each time with a norm of its own.

    A separable convolution mixes pixels within each channel, then channels within each pixel (F.
    Chollet, arXiv:1610.02357). Features pass each time by a skip connection, and are pooled by 2
    once, halfway.

    Args:
        width: channels of input and output.
        kernel_size: side of the filters that mix pixels, odd.
        layers: how often the convolution is applied.
        norm: as in `norm_layers`.
        activation: a key of `ACTIVATIONS`.
    """

    def __init__(
        self, width: int, kernel_size: int, layers: int, norm: str, activation: str
    ) -> None:
        super().__init__()
        self.pixels = RepeatedConv(
            width, width, kernel_size, padding=kernel_size // 2, groups=width, bias=False
        )
        self.channels = RepeatedConv(width, width, 1, bias=False)
        self.norms = nn.ModuleList(nn.Sequential(*norm_layers(norm, width)) for _ in range(layers))
        self.activation = ACTIVATIONS[activation]()
        self.pool = nn.MaxPool2d(2)

    def forward(self, features: Tensor) -> Tensor:
        """(N, width, H, W) → (N, width, ⌊H / 2⌋, ⌊W / 2⌋)."""
        halfway = (len(self.norms) + 1) // 2
        for number, norm in enumerate(self.norms, start=1):
            features = features + self.activation(norm(self.channels(self.pixels(features))))
            if number == halfway:
                features = self.pool(features)
        return features


@register("recurrent")
class RecurrentNet(Network):
    """`stem`, then `recurrent`, `place` and `head`: a network of few parameters.

    After M. Liang and X. Hu, "Recurrent convolutional neural network for object recognition", CVPR
    2015, whose layers apply one convolution again and again. `stem` halves the image by averaging,
    then convolves. `place` weighs the rows of each channel and then its columns, to one feature a
    channel: as many weights as rows and columns, where a linear layer has one for each pixel.
    Images need a side of 4 pixels or more.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: how often the convolution is applied.
        width: channels of all layers.
        kernel_size: side of the convolution filters in pixels, odd.
        norm: as in `norm_layers`.
        activation: a key of `ACTIVATIONS`.
        dropout: probability that a feature is dropped before the linear layer.

    Raises:
        UserError: an image of this shape is too small.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        layers: int,
        width: int,
        kernel_size: int,
        norm: str,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        in_channels, *size = shape
        check_layers(HALVINGS, size)
        self.stem = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(in_channels, width, kernel_size, padding=kernel_size // 2, bias=False),
            *norm_layers(norm, width),
            ACTIVATIONS[activation](),
        )
        self.recurrent = Recurrent(width, kernel_size, layers, norm, activation)
        rows, columns = (side >> HALVINGS for side in size)
        self.place = nn.Sequential(
            nn.Conv2d(width, width, (rows, 1), groups=width, bias=False),
            nn.Conv2d(width, width, (1, columns), groups=width, bias=False),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def layers(self) -> dict[str, nn.Module]:
        """`stem`, `recurrent`, `place`."""
        return {"stem": self.stem, "recurrent": self.recurrent, "place": self.place}

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Weights of convolutions are filters, that of `head` is the head."""
        return roles(self.layers().values(), self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        logits: Tensor = self.head(self.dropout(self.features(images).flatten(1)))
        return logits
