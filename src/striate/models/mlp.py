"""The multilayer perceptron: what a network without convolutions can do."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from striate.models.layers import ACTIVATIONS, ImageLinear, norm_layers, numbered_layers, roles
from striate.models.registry import Network, register
from striate.models.sizing import equal_widths


@register("mlp")
class MLP(Network):
    """`layer1` … `layerN`, each linear, norm, activation and dropout; then `head`.

    D. Rumelhart, G. Hinton and R. Williams, "Learning representations by back-propagating errors",
    Nature, 1986. It takes images of every size; each unit of the first layer sees all pixels.

    Args:
        shape: channels, height and width of an image.
        classes: how many outputs there are.
        layers: how many hidden layers.
        width: units of each hidden layer, or a list of all.
        norm: as in `norm_layers`.
        activation: a key of `ACTIVATIONS`.
        dropout: probability that a hidden unit is dropped.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        layers: int,
        width: int | list[int],
        norm: str,
        activation: str,
        dropout: float,
    ) -> None:
        super().__init__()
        widths = equal_widths(width, layers)
        hidden = [nn.Linear(inputs, outputs) for inputs, outputs in pairwise(widths)]
        for number, linear in enumerate([ImageLinear(shape, widths[0]), *hidden], start=1):
            layer = nn.Sequential(
                linear,
                *norm_layers(norm, linear.out_features, image=False),
                ACTIVATIONS[activation](),
                nn.Dropout(dropout),
            )
            self.add_module(f"layer{number}", layer)
        self.head = nn.Linear(widths[-1], classes)

    def layers(self) -> dict[str, nn.Module]:
        """`layer1` … `layerN`."""
        return numbered_layers(self)

    def parameter_roles(self) -> dict[str, list[nn.Parameter]]:
        """Weights of hidden layers are filters, that of `head` is the head."""
        return roles(self.layers().values(), self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images, float (N, C, H, W) → logits, (N, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits
