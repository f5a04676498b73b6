"""Networks of timm on a small own folder: from scratch, and from weights that were learnt before.

    python benchmarks/timm_networks.py

The folder has 200 images of three of scikit-learn's digits, 20 of each class to train on and 140 to
test on, as RGB files of 32×32 pixels. The weights are those of the same network after a training on
the other seven digits, written in timm's format and kept as `striate fetch --from` does. All train
for 300 steps with three seeds on one thread; seconds are the processor's in one training, without
the scoring. Nothing is downloaded.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import common
import numpy as np
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transfer import trained

from striate.data import arrays, tensors
from striate.datasets import image_folder, layouts
from striate.models import devices, prediction, registry, timm_network

NETWORKS = ("test_resnet", "test_vit", "mobilenetv3_small_050")
OWN = (3, 5, 8)  # digits that are easily mistaken
TRAIN, TEST, SEEDS = 60, 140, 3
RECIPE = {"training__batch_size": 20, "training__learning_rate": 0.002, "augment__translate": 2}
CPU = torch.device("cpu")


def write_folder(folder, digits, counts):
    """Write images of some digits, drawn in turn, as the files of an own folder."""
    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.target))
    places = {digit: iter(order[bunch.target[order] == digit]) for digit in digits}
    for part, count in counts.items():
        for number in range(count):
            digit = digits[number % len(digits)]
            place = next(places[digit])
            target = folder / part / str(digit) / f"{place:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            pixels = Image.fromarray((bunch.images[place] * 255 / 16).astype(np.uint8))
            pixels.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB").save(target)


def stored(folder, digits, counts):
    """The manifest, the training set and the test set of such a folder, as the stages see them."""
    write_folder(folder / "images", digits, counts)
    layout, look = layouts.find(folder / "images"), image_folder.Look(None, "crop")
    image_folder.store(layout, look, image_folder.shape_of(layout, look), folder / "data")
    parts = (tensors.load_split(folder / "data", part, CPU) for part in ("train", "test"))
    return arrays.load_manifest(folder / "data"), *parts


def params(name, weights=None):
    """Params of a training, which begins with the weights of a folder."""
    changes = {"data__normalize": "unit", "model__pretrained": True,
               "training__init_from": str(weights)} if weights else {}  # fmt: skip
    return common.params(model__arch=f"timm:{name}", **RECIPE, **changes)


def publish(name, source, folder):
    """Train on the other digits, and keep the weights in a folder."""
    manifest, train, _ = source
    classes = len(manifest["classes"])
    model, _ = trained(params(name, folder), manifest, classes, train, seed=0)
    classifier = timm.create_model(name).pretrained_cfg["classifier"]
    state = model.trunk.net.state_dict()
    state |= {f"{classifier}.{key}": value for key, value in model.head.state_dict().items()}
    file = folder.parent / f"{name}.pth"
    torch.save(state, file)
    timm_network.keep(f"timm:{name}", folder, file)


def measure(name, target, weights, freeze):
    """Accuracies and seconds with each seed."""
    manifest, train, test = target
    values, classes = params(name, weights), len(OWN)
    first = None
    if weights:
        like = registry.build(tuple(manifest["shape"]), classes, values["model"])
        first = timm_network.pretrained_weights(like, weights)
    accuracies, seconds = [], []
    for seed in range(SEEDS):
        begin = time.process_time()
        model, normalize = trained(
            values, manifest, classes, train, seed, first=first, freeze=freeze
        )
        seconds.append(time.process_time() - begin)
        logits = prediction.predict(model, test.images, normalize, batch_size=1000)
        accuracies.append(prediction.accuracy(logits, test.labels))
    return accuracies, seconds


def main():
    devices.keep_freed_memory()
    torch.set_num_threads(1)
    print(f"{common.header()}; timm {timm.__version__}\n")
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        others = [digit for digit in range(10) if digit not in OWN]
        source = stored(Path(scratch, "source"), others, {"train": 1120, "test": 70})
        target = stored(Path(scratch, "target"), OWN, {"train": TRAIN, "test": TEST})
        for name in NETWORKS:
            weights = Path(scratch, name)
            publish(name, source, weights)
            for kind, begin, freeze in (
                ("from scratch", None, "none"),
                ("pretrained", weights, "none"),
                ("pretrained, frozen", weights, "features"),
            ):
                accuracies, seconds = measure(name, target, begin, freeze)
                mean, sd = statistics.mean(accuracies), statistics.stdev(accuracies)
                cells = [f"{100 * mean:.1f} ± {100 * sd:.1f}%", common.spread(seconds, digits=1)]
                rows.append([f"`{name}`", kind, *cells])
                print(*rows[-1], file=sys.stderr, flush=True)
    common.table(["network", "weights", "test accuracy", "seconds"], rows)


if __name__ == "__main__":
    main()
