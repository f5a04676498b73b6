"""The network of the CIFAR-10 speed records, which learns in few steps."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from striate.models.layers import ACTIVATIONS, norm_layers, numbered_layers, roles
from striate.models.registry import Network, register
from striate.models.sizing import channels, check_layers

WHITENING_EPSILON = 5e-4  # keeps patches of almost no variance from being blown up


def identity_layer(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int,
    convs_per_layer: int,
    norm: str,
    activation: str,
) -> nn.Sequential:
    """Convolutions without a bias that begin as a partial identity; the first one is pooled by 2.

    The norms have no learnt scale, and running statistics follow fast, as a training of a few
    hundred steps needs it.

    Args:
        in_channels: channels of the input.
        out_channels: channels of each convolution.
        kernel_size: side of the filters in pixels, odd.
        convs_per_layer: how many convolutions there are.
        norm: as in `norm_layers`.
        activation: a key of `ACTIVATIONS`.
    """
    modules: list[nn.Module] = []
    for number, inputs in enumerate([in_channels] + [out_channels] * (convs_per_layer - 1)):
        conv = nn.Conv2d(inputs, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.dirac_(conv.weight.detach()[:inputs])
        modules.append(conv)
        if number == 0:
            modules.append(nn.MaxPool2d(2))
        for scaled in norm_layers(norm, out_channels):
            if isinstance(scaled, nn.BatchNorm2d):
                scaled.eps, scaled.momentum = 1e-12, 0.4
            scaled.weight.requires_grad_(False)
            modules.append(scaled)
        modules.append(ACTIVATIONS[activation]())
    return nn.Sequential(*modules)


@register("speedrun")
class SpeedNet(Network):
    """A network that learns in few steps: `whiten`, then `layer1` … `layerN`, then `head`.

    After K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv:2404.00498, and the
    later records of that family. `whiten` is a fixed convolution that `fit_to_data` fills in. It
    has no bias, unlike there: without a gradient for it, a step is a sixth faster. The largest
    value of each channel goes to the head.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: how many convolution layers; each halves height and width.
        width: channels of the first layer, doubled from layer to layer, or a list of all.
        kernel_size: side of the filters in pixels, odd.
        convs_per_layer: convolutions in each layer.
        norm: as in `norm_layers`.
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
            layer = identity_layer(
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
        """`whiten`, if there is one, then `layer1` … `layerN`."""
        first = {} if self.whiten is None else {"whiten": self.whiten}
        return first | numbered_layers(self)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Weights of convolutions are filters; the whitening filters do not learn."""
        return roles(self.layers().values(), self.head)

    @torch.no_grad()
    def fit_to_data(self, images: Tensor) -> None:
        """Fill in the whitening layer, if there is one.

        Its filters are the eigenvectors of the covariance of all patches of their size, each
        divided by the root of its eigenvalue, so that outputs are uncorrelated and have equal
        variance; then the negatives of these.

        Args:
            images: normalised training images, float (N, C, H, W).
        """
        if self.whiten is None:
            return
        weight = next(self.whiten.parameters())
        side = weight.shape[2]
        patches = F.unfold(images.contiguous(), side).transpose(1, 2).flatten(0, 1)  # (N·L, C·k·k)
        # On the CPU, because PyTorch 2.11 has no `eigh` for MPS; the matrix is small.
        values, vectors = torch.linalg.eigh((patches.T @ patches / len(patches)).cpu())
        scaled = vectors / (values + WHITENING_EPSILON).sqrt()
        filters = scaled.T.flip(0).view(-1, *weight.shape[1:])
        weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        features = self.features(images)
        largest = F.max_pool2d(features, features.shape[2:]).flatten(1)
        logits: Tensor = self.head(self.dropout(largest))
        return logits
