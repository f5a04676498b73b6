"""What weights from another task are worth, by the number of images of the new one.

STRIATE_MIRROR=/path/to/mirror python benchmarks/transfer.py

MNIST → digits, and half of CIFAR-10 → the other half: the source learns airplane, automobile, bird,
cat and deer, and the own folder, so to say, holds dog, frog, horse, ship and truck. All train with
the notebook's settings, the target for 300 steps or 5 epochs, whichever is more; three seeds each,
which draw the images, too. The shares are of the target's test images.
"""

import statistics
import sys

import common
import torch

from striate.config import params
from striate.data import arrays, tensors
from striate.models import checkpoint, devices, normalization, prediction
from striate.training import loop, schedule, transfer
from striate.training.task import Task

STEPS, EPOCHS, SEEDS = 300, 5, 3
SIZES = (10, 100, None)  # images of each class; all


def of_classes(split, first, last):
    """The images of a range of classes, which are numbered anew."""
    chosen = (split.labels >= first) & (split.labels < last)
    return tensors.Split(split.images[chosen], split.labels[chosen] - first)


def some(split, size, seed):
    """So many images of each class, drawn by a seed."""
    if size is None:
        return split
    draw = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed))
    labels = split.labels[draw]
    chosen = torch.cat([draw[labels == label][:size] for label in labels.unique()])
    return tensors.Split(split.images[chosen], split.labels[chosen])


def trained(values, manifest, classes, split, seed, first=None, freeze="none"):
    """A network after training, with its normalisation; `first` is a state dict to begin with."""
    steps = schedule.steps_per_epoch(len(split.labels), values["training"]["batch_size"])
    training = values["training"] | {"epochs": max(EPOCHS, -(-STEPS // steps))}
    settings = params.check(values | {"seed": seed, "training": training})
    normalize = normalization.pick_normalization(manifest, settings.data.normalize)
    described = manifest | {"classes": [str(number) for number in range(classes)]}
    torch.manual_seed(seed)
    model = checkpoint.build(checkpoint.describe(values["model"], described, normalize))
    if first is not None:
        transfer.transfer_(model, first)
    transfer.freeze_(model, freeze)
    for _ in loop.fit(model, Task(split, None, settings, normalize)):
        pass
    return model, normalize


def rows(name, source, source_classes, target_name, train, test, classes):
    values = common.params()
    manifest = arrays.load_manifest(common.stored(name))
    target = arrays.load_manifest(common.stored(target_name))
    state = trained(values, manifest, source_classes, source, 0)[0].state_dict()
    for size in SIZES:
        found = {"new": [], "taken": [], "frozen": []}
        for seed in range(SEEDS):
            few = some(train, size, seed)
            for kind, arguments in (
                ("new", {}),
                ("taken", {"first": state}),
                ("frozen", {"first": state, "freeze": "features"}),
            ):
                model, normalize = trained(values, target, classes, few, seed, **arguments)
                logits = prediction.predict(model, test.images, normalize, batch_size=1000)
                found[kind].append(prediction.accuracy(logits, test.labels))
        means = {kind: statistics.mean(shares) for kind, shares in found.items()}
        cells = [
            f"{means[kind]:.2%} ({min(shares):.2%}–{max(shares):.2%})"
            for kind, shares in found.items()
        ]
        gain = f"{100 * (means['taken'] - means['new']):+.2f}"
        yield [str(size or "all"), *cells, gain]
        print(".", end="", file=sys.stderr, flush=True)


def main():
    devices.keep_freed_memory()
    cpu = torch.device("cpu")
    heads = ["new weights", "weights taken", "taken, features frozen", "gain in points"]

    def both(name):
        return [tensors.load_split(common.stored(name), part, cpu) for part in ("train", "test")]

    print(common.header())
    mnist, _ = both("mnist")
    digits = both("digits")
    found = list(rows("mnist", mnist, 10, "digits", *digits, 10))
    print("\n")
    common.table(["MNIST → digits, images of each class", *heads], found)
    train, test = both("cifar10")
    theirs = of_classes(train, 0, 5)
    ours = [of_classes(part, 5, 10) for part in (train, test)]
    found = list(rows("cifar10", theirs, 5, "cifar10", *ours, 5))
    print("\n")
    common.table(["CIFAR-10, one half → the other, images of each class", *heads], found)


if __name__ == "__main__":
    main()
