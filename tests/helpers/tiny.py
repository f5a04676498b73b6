"""A training that takes a moment: few images of 6×6 pixels, and the committed params made small."""

import torch
from paths import ROOT

from striate.config import params
from striate.data.tensors import Split
from striate.models import registry
from striate.models.normalization import Normalization
from striate.training.task import Task

PARAMS = params.load(ROOT / "params.yaml")
TRAINING = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "precision": "float32",
            "log_every": 2}  # fmt: skip
CONVNET = {
    "arch": "convnet",
    "layers": 1,
    "width": 4,
    "kernel_size": 3,
    "convs_per_layer": 1,
    "norm": "batch",
    "activation": "relu",
    "dropout": 0.1,
    "whiten": 0,
}
SPEEDRUN = CONVNET | {"arch": "speedrun", "convs_per_layer": 2}
RESIDUAL = CONVNET | {"convs_per_layer": 2, "residual": True, "pool": "stride"}
MLP = {"arch": "mlp", "layers": 2, "width": 16, "norm": "batch", "activation": "relu",
       "dropout": 0.1}  # fmt: skip
LENET5 = {"arch": "lenet5"}
GABOR = CONVNET | {"arch": "gabor", "orientations": 4}
RESNET = CONVNET | {"arch": "resnet", "skips": True}
CONVMIXER = CONVNET | {"arch": "convmixer", "layers": 2, "width": 8, "patch": 1}
TIMM = {"arch": "timm:test_resnet", "dropout": 0.1, "pretrained": True}
VIT = CONVNET | {"arch": "vit", "layers": 2, "width": 8, "patch": 2, "heads": 2}
RECURRENT = CONVNET | {"arch": "recurrent", "layers": 2, "width": 8}
NETWORKS = {
    "convnet": CONVNET, "residual": RESIDUAL, "speedrun": SPEEDRUN, "mlp": MLP, "lenet5": LENET5,
    "gabor": GABOR, "resnet": RESNET, "plain": RESNET | {"skips": False}, "convmixer": CONVMIXER,
    "recurrent": RECURRENT, "vit": VIT, "timm": TIMM,
}  # fmt: skip
UNIT = Normalization(255, None, None)


def changed(section, **changes):
    """A section of params with other values, also such as params.yaml would not take."""
    assert changes.keys() <= type(section).model_fields.keys()
    return section.model_copy(update=changes)


def settings(augment=None, seed=0, **training):
    """All params; keywords are those of the section `training`."""
    return changed(
        PARAMS, seed=seed, training=changed(PARAMS.training, **TRAINING | training),
        augment=changed(PARAMS.augment, **augment or {}),
    )  # fmt: skip


def bars(count, seed=0):
    """Noise with a bright row (class 0), column (class 1) or square (class 2)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 60, (count, 1, 6, 6), generator=generator, dtype=torch.uint8)
    images[labels == 0, :, 2] = 250
    images[labels == 1, :, :, 3] = 250
    images[labels == 2, :, 1:4, 1:4] = 250
    return Split(images, labels)


def task(train=None, val=None, **options):
    """50 images in four batches an epoch, the last of two; options are those of `settings`."""
    return Task(train or bars(50), val, settings(**options), UNIT)


def network(architecture=CONVNET, seed=0):
    """A network for `bars` with the random weights of that seed."""
    torch.manual_seed(seed)
    return registry.build((1, 6, 6), 3, architecture)
