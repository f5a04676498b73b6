"""The residual network for small images, with and without its shortcuts."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from striate.models.layers import roles
from striate.models.registry import Network, register
from striate.models.sizing import STAGES, channels


class Block(nn.Module):
    """Two 3×3 convolutions, each normalised, and a shortcut past both.

    Args:
        inputs: channels of the input.
        outputs: channels of both convolutions.
        stride: of the first convolution.
        skip: whether there is a shortcut. It has no parameters: it takes every `stride`-th pixel
            and fills the new channels with zeros.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, skip: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.new_channels, self.stride, self.skip = outputs - inputs, stride, skip

    def forward(self, images: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        inside = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(images)))))
        return F.relu(inside + self.shortcut(images) if self.skip else inside)

    def shortcut(self, images: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, ⌈H / stride⌉, ⌈W / stride⌉), without parameters."""
        if self.stride > 1:
            images = images[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            images = F.pad(images, (0, 0, 0, 0, 0, self.new_channels))
        return images


@register("resnet")
class ResNet(Network):
    """`stem`, `stage1` … `stage3` of `layers` blocks each, the mean of each channel, and `head`.

    The form for CIFAR-10 of K. He et al., "Deep Residual Learning for Image Recognition",
    arXiv:1512.03385, section 4.2, with its shortcuts without parameters (option A). The paper's
    ResNet-20, 32, 44 and 56 have 3, 5, 7 and 9 `layers`: 6 · `layers` + 2 layers with weights.
    `stage2` and `stage3` each halve height and width, rounding up, so that images of any size fit.
    Convolutions begin as K. He et al. propose in arXiv:1502.01852.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: blocks in each stage.
        width: channels of the first stage, doubled from stage to stage.
        dropout: probability that a feature is dropped before the linear layer.
        skips: whether blocks have shortcuts; without them it is the paper's plain network.
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
            first = Block(inputs, outputs, 1 if number == 1 else 2, skip=skips)
            rest = [Block(outputs, outputs, 1, skip=skips) for _ in range(layers - 1)]
            self.add_module(f"stage{number}", nn.Sequential(first, *rest))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)

    def layers(self) -> dict[str, nn.Module]:
        """`stem`, `stage1`, `stage2`, `stage3`."""
        stages = {f"stage{number}": self.get_submodule(f"stage{number}") for number in (1, 2, 3)}
        return {"stem": self.stem} | stages

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Weights of convolutions are filters, that of `head` is the head."""
        return roles(self.layers().values(), self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        features = images
        for layer in self.layers().values():
            features = layer(features)
        logits: Tensor = self.head(self.dropout(features.mean((2, 3))))
        return logits
