"""The convnet behind a fixed first layer of Gabor filters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from striate.models.convnet import ConvNet
from striate.models.layers import ACTIVATIONS, numbered_layers
from striate.models.registry import register
from striate.models.sizing import GABOR_PHASES

# Of a wave as a fraction of the filter's side; of the envelope across the bars as a fraction of the
# wave, a bandwidth of 1.5 octaves, and along them as a multiple of that.
WAVELENGTH, DEVIATION, ELONGATION = 0.8, 0.39, 2.0


def gabor_filters(side: int, orientations: int) -> Tensor:
    """Gabor functions, waves under a Gaussian envelope (J. Daugman, 1985).

    Their sum is 0, so that even grey gives no response, and their Euclidean norm is 1.

    Args:
        side: of the filters in pixels, odd, 3 or more.
        orientations: how many there are, in equal steps over half a turn; the first is upright.

    Returns:
        Float (orientations · 4, side, side): for each orientation an even and an odd filter, then
        their negatives.
    """
    reach = torch.arange(side, dtype=torch.float64) - side // 2
    down, right = torch.meshgrid(reach, reach, indexing="ij")
    found = []
    for number in range(orientations):
        angle = math.pi * number / orientations
        across = right * math.cos(angle) + down * math.sin(angle)
        along = down * math.cos(angle) - right * math.sin(angle)
        wavelength = WAVELENGTH * side
        deviation = DEVIATION * wavelength
        envelope = torch.exp(-(across**2 + (along / ELONGATION) ** 2) / (2 * deviation**2))
        for quarter in range(GABOR_PHASES):
            wave = torch.cos(2 * math.pi * across / wavelength - math.pi * quarter / 2)
            wave = wave - (envelope * wave).sum() / envelope.sum()
            found.append(envelope * wave / (envelope * wave).norm())
    return torch.stack(found).float()


@register("gabor")
class GaborNet(ConvNet):
    """`gabor`, which does not learn; then `layer1` … `layerN` and `fc` as in `ConvNet`.

    Its filters are the formula of J. Daugman, "Uncertainty relation for resolution in space,
    spatial frequency, and orientation optimized by two-dimensional visual cortical filters", 1985,
    for the simple cells of D. Hubel and T. Wiesel, "Receptive fields, binocular interaction and
    functional architecture in the cat's visual cortex", 1962. Each channel of an image is filtered
    by itself; the size stays the same, so images need a side of 2^layers pixels or more.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        orientations: of the filters, each in four phases, for each channel of an image.
        layers: as all that follow an argument of `ConvNet`.

    Raises:
        UserError: an image of this shape cannot be halved so often.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        orientations: int,
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
        in_channels, *size = shape
        filters = gabor_filters(kernel_size, orientations)
        outputs = in_channels * len(filters)
        super().__init__(
            (outputs, size[0], size[1]), classes, layers=layers, width=width,
            kernel_size=kernel_size, convs_per_layer=convs_per_layer, norm=norm,
            activation=activation, dropout=dropout, residual=residual, pool=pool,
        )  # fmt: skip
        conv = nn.Conv2d(
            in_channels, outputs, kernel_size, padding=kernel_size // 2, groups=in_channels,
            bias=False,
        )  # fmt: skip
        conv.weight = nn.Parameter(filters.repeat(in_channels, 1, 1)[:, None], requires_grad=False)
        self.gabor = nn.Sequential(conv, ACTIVATIONS[activation]())

    def layers(self) -> dict[str, nn.Module]:
        """`gabor`, then `layer1` … `layerN`."""
        return {"gabor": self.gabor} | numbered_layers(self)
