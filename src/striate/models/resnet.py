"""The residual network for small images, with and without its skip connections."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from striate.models.layers import Residual, numbered_layers, roles
from striate.models.registry import Network, register
from striate.models.sizing import STAGES, channels


class PadChannels(nn.Module):
    """A skip connection without parameters: every `stride`-th pixel, and zeros in new channels."""

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C + new channels, ⌈H / stride⌉, ⌈W / stride⌉)."""
        pixels = images[:, :, :: self.stride, :: self.stride]
        return F.pad(pixels, (0, 0, 0, 0, 0, self.new_channels))


def block(inputs: int, outputs: int, stride: int, *, skip: bool) -> nn.Sequential:
    """Two 3×3 convolutions, each normalised, and a skip connection around both.

    Args:
        inputs: channels of the input.
        outputs: channels of both convolutions.
        stride: of the first convolution.
        skip: whether there is a skip connection.
    """
    convs: nn.Module = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(outputs),
    )
    if skip:
        changes = stride > 1 or inputs != outputs
        convs = Residual(convs, PadChannels(outputs - inputs, stride) if changes else None)
    return nn.Sequential(convs, nn.ReLU())


@register("resnet")
class ResNet(Network):
    """`stem`, `stage1` … `stage3` of `layers` blocks each, the mean of each channel, and `head`.

    The form for CIFAR-10 of K. He et al., "Deep Residual Learning for Image Recognition",
    arXiv:1512.03385, section 4.2, with skip connections without parameters (option A). The paper's
    ResNet-20, 32, 44 and 56 have 3, 5, 7 and 9 `layers`: 6 · `layers` + 2 layers with weights.
    `stage2` and `stage3` each halve height and width, rounding up, so that images of any size fit.
    Convolutions begin as K. He et al. propose in arXiv:1502.01852.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: blocks in each stage.
        width: channels of the first stage, doubled from stage to stage.
        dropout: probability that a feature is dropped before the linear layer.
        skips: whether blocks have skip connections; without them it is the paper's plain network.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        layers: int,
        width: int,
        dropout: float,
        skips: bool,
    ) -> None:
        super().__init__()
        widths = channels(width, STAGES)
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        for number, (inputs, outputs) in enumerate(pairwise([width, *widths]), start=1):
            first = block(inputs, outputs, 1 if number == 1 else 2, skip=skips)
            rest = [block(outputs, outputs, 1, skip=skips) for _ in range(layers - 1)]
            self.add_module(f"stage{number}", nn.Sequential(first, *rest))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def layers(self) -> dict[str, nn.Module]:
        """`stem`, `stage1`, `stage2`, `stage3`."""
        return {"stem": self.stem} | numbered_layers(self, "stage")

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Weights of convolutions are filters, that of `head` is the head."""
        return roles(self.layers().values(), self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        logits: Tensor = self.head(self.dropout(self.features(images).mean((2, 3))))
        return logits
