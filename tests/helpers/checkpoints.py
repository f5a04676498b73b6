"""A network of random weights for images of 8×8 pixels, and its checkpoint."""

import torch
from settings import architecture

from striate.models import checkpoint
from striate.models.normalization import Normalization

CPU = torch.device("cpu")
ARCHITECTURE = architecture(layers=2, width=4, kernel_size=3)
MANIFEST = {
    "name": "stripes",
    "shape": [1, 8, 8],
    "classes": ["a", "b", "c"],
    "peak": 255,
    "mean": [0.5],
    "std": [0.2],
    "frame": {"background": "dark", "extent": 0.75},
}
MIXED = MANIFEST | {"frame": {"background": "mixed", "extent": 1.0}}
CONFIDENCE = {"temperature": 2.0, "energy": -1.46}


def describe(manifest=MANIFEST):
    """What model.json says of the network, as a dict."""
    return checkpoint.describe(ARCHITECTURE, manifest, Normalization(255, [0.5], [0.2]))


def make_network(folder, confidence=CONFIDENCE):
    """Save the network, which takes pictures as they are; returns what is loaded from `folder`."""
    torch.manual_seed(0)
    description = describe(MIXED)
    checkpoint.save(checkpoint.build(description), description | {"confidence": confidence}, folder)
    return checkpoint.load(folder, CPU)
