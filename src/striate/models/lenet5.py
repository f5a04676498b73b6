"""LeNet-5, the network of 1998."""

from __future__ import annotations

from torch import Tensor, nn

from striate.models.layers import numbered_layers, roles
from striate.models.registry import Network, register
from striate.models.sizing import LENET5_WIDTHS, lenet5_padding, lenet5_sides


@register("lenet5")
class LeNet5(Network):
    """`layer1` (C1 and S2), `layer2` (C3 and S4), `layer3` (C5), `layer4` (F6), then `head`.

    Y. LeCun et al., "Gradient-based learning applied to document recognition", Proceedings of the
    IEEE, 1998: tanh and average pooling. Three parts have the form that is common today: each map
    of C3 sees all maps of S2, pooling has no weights, and the output is linear.

    Each side of an image is padded with zeros to the next multiple of 16: 28 to 32 as in the paper,
    8 to 16. The filters of C5 cover what is left of it, 5×5 of 32×32 and 1×1 of 16×16.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        in_channels, *size = shape
        c1, c3, c5, f6 = LENET5_WIDTHS
        (top, bottom), (left, right) = (lenet5_padding(side) for side in size)
        self.layer1 = nn.Sequential(
            nn.ZeroPad2d((left, right, top, bottom)),
            nn.Conv2d(in_channels, c1, 5),
            nn.Tanh(),
            nn.AvgPool2d(2),
        )
        self.layer2 = nn.Sequential(nn.Conv2d(c1, c3, 5), nn.Tanh(), nn.AvgPool2d(2))
        self.layer3 = nn.Sequential(nn.Conv2d(c3, c5, lenet5_sides(size)), nn.Tanh())
        self.layer4 = nn.Sequential(nn.Flatten(), nn.Linear(c5, f6), nn.Tanh())
        self.head = nn.Linear(f6, classes)

    def layers(self) -> dict[str, nn.Module]:
        """`layer1` … `layer4`."""
        return numbered_layers(self)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Weights of all layers are filters, that of `head` is the head."""
        return roles(self.layers().values(), self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits
