"""The network that mixes patches by convolutions alone."""

from torch import Tensor, nn

from striate.models.layers import Residual, numbered_layers, roles
from striate.models.registry import Network, register
from striate.models.sizing import check_patch


def activate_and_normalize(conv: nn.Conv2d) -> nn.Sequential:
    """A convolution, GELU and batch norm."""
    return nn.Sequential(conv, nn.GELU(), nn.BatchNorm2d(conv.out_channels))


def mixer(width: int, kernel_size: int) -> nn.Sequential:
    """Mixes pixels within each channel, with a skip connection, then channels within each pixel.

    Args:
        width: channels of input and output.
        kernel_size: side of the filters that mix pixels, odd.
    """
    pixels = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
    channels = nn.Conv2d(width, width, 1)
    return nn.Sequential(Residual(activate_and_normalize(pixels)), activate_and_normalize(channels))


@register("convmixer")
class ConvMixer(Network):
    """`stem` cuts patches, `layer1` … `layerN` mix them; the mean of each channel, and `head`.

    A. Trockman and J. Z. Kolter, "Patches Are All You Need?", arXiv:2201.09792; there its size is
    written ConvMixer-`width`/`layers`. The patches must tile the image: `patch` divides height and
    width. All layers keep the size that the stem leaves, height / `patch` × width / `patch`. For
    images of 32×32 pixels the paper has ConvMixer-256/8 with patches of one pixel and kernels of 9.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: how many layers mix, each pixels and then channels.
        width: channels of all layers.
        kernel_size: side in patches of the filters that mix pixels, odd.
        patch: side of a patch in pixels.
        dropout: probability that a feature is dropped before the linear layer.

    Raises:
        UserError: the patches do not tile an image of this shape.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        layers: int,
        width: int,
        kernel_size: int,
        patch: int,
        dropout: float,
    ) -> None:
        super().__init__()
        check_patch(patch, shape[1:])
        self.stem = activate_and_normalize(nn.Conv2d(shape[0], width, patch, stride=patch))
        for number in range(1, layers + 1):
            self.add_module(f"layer{number}", mixer(width, kernel_size))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def layers(self) -> dict[str, nn.Module]:
        """`stem`, then `layer1` … `layerN`."""
        return {"stem": self.stem} | numbered_layers(self)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Weights of convolutions are filters, that of `head` is the head."""
        return roles(self.layers().values(), self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        logits: Tensor = self.head(self.dropout(self.features(images).mean((2, 3))))
        return logits
