"""A data set, networks and settings whose training takes a fraction of a second."""

import torch
from settings import architecture, settings

from striate.data.tensors import Split

NO_AUGMENTATION = settings().augment
ARCHITECTURE = architecture(layers=1, width=4, kernel_size=3, dropout=0.1)
SPEEDRUN = architecture(
    arch="speedrun", layers=1, width=4, kernel_size=3, dropout=0.1, convs_per_layer=2
)
# Under SGD at a learning rate of 100, its loss soon becomes infinite.
DIVERGING = ARCHITECTURE | {"norm": "none", "activation": "leaky_relu", "dropout": 0.0}
SHORT = {
    "epochs": 3, "batch_size": 16, "learning_rate": 0.01, "precision": "float32", "log_every": 2,
}  # fmt: skip


def training(**changes):
    """The section `training` for three epochs of `bars`, with some keys changed."""
    return settings(**{f"training__{key}": v for key, v in (SHORT | changes).items()}).training


def bars(count, seed=0):
    """Noise with a bright row (class 0), column (class 1) or square (class 2)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    images[labels == 0, :, 2] = 250
    images[labels == 1, :, :, 3] = 250
    images[labels == 2, :, 1:4, 1:4] = 250
    return Split(images, labels)
