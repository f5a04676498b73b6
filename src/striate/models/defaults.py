"""Default values of the section `model`, and what older checkpoints mean that lack its keys."""

from pathlib import Path
from typing import Any

RANDOM = Path("weights/random")  # as `training.init_from`: begin with random weights

# What older checkpoints mean, which do not name these keys. It must not change.
FIRST: dict[str, Any] = {
    "arch": "convnet", "whiten": 0, "residual": False, "pool": "max", "skips": True,
    "pretrained": False,
}  # fmt: skip
# The committed values, and those of older experiments that lack a key.
DEFAULTS: dict[str, Any] = FIRST | {
    "layers": 2, "width": 16, "kernel_size": 5, "convs_per_layer": 1, "norm": "batch",
    "activation": "relu", "dropout": 0, "orientations": 8, "patch": 2, "heads": 4,
}  # fmt: skip
# Keys that came later: `model.json` omits them where they have these values, and so stays the same.
IMPLIED = {key: value for key, value in FIRST.items() if key not in ("arch", "whiten")}
