"""Networks of the default params, and the notebook's own."""

from settings import architecture
from torch import nn

from striate.models import registry

SPEEDRUN = {
    "arch": "speedrun", "width": [8, 16], "kernel_size": 3, "convs_per_layer": 2,
    "activation": "gelu", "whiten": 2,
}  # fmt: skip

RESIDUAL = {"convs_per_layer": 2, "residual": True}


def build(shape=(1, 28, 28), classes=10, **changes):
    """A network for images of this shape; `changes` are keys of the section `model`."""
    return registry.build(shape, classes, architecture(**changes))


class Tutorial(nn.Module):
    """The two-layer network of the notebook, put together by hand."""

    def __init__(self, channels, side):
        super().__init__()
        for number, (inputs, outputs) in enumerate([(channels, 16), (16, 32)], start=1):
            block = nn.Sequential(
                nn.Conv2d(inputs, outputs, 5, stride=1, padding=2),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.MaxPool2d(2, 2),
            )
            setattr(self, f"layer{number}", block)
        self.fc = nn.Linear(side * side * 32, 10)

    def forward(self, x):
        return self.fc(self.layer2(self.layer1(x)).flatten(1))
