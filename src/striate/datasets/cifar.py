"""CIFAR-10 and CIFAR-100: colour images of 32×32 pixels."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from striate.datasets.registry import Dataset, File, register

if TYPE_CHECKING:
    from striate.data.arrays import LabeledImages

PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge "
    "bus butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud "
    "cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox "
    "girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree "
    "pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray "
    "road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel "
    "streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm "
)


def read(folder: Path, reader: str) -> tuple[LabeledImages, LabeledImages]:
    """Read the batches by torchvision's class of the name `reader`.

    The batches are pickles, which can run code when they are read. They are safe because their
    SHA-256, or that of their archive, was verified.
    """
    import numpy as np
    import torchvision.datasets

    from striate.data.arrays import LabeledImages

    dataset = getattr(torchvision.datasets, reader)
    splits = (dataset(folder, train=train) for train in (True, False))
    train, test = (
        LabeledImages(
            np.ascontiguousarray(split.data.transpose(0, 3, 1, 2)), np.array(split.targets)
        )
        for split in splits
    )
    return train, test


def _batch(name: str, size: int, sha256: str) -> File:
    """A file of CIFAR-10's archive, as a mirror may have it unpacked."""
    return File(f"cifar-10-batches-py/{name}", size, sha256)


register(
    Dataset(
        name="cifar10",
        classes=(
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
        shape=(3, 32, 32),
        counts=(50_000, 10_000),
        peak=255,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.2435, 0.2616),
        read=partial(read, reader="CIFAR10"),
        page=PAGE,
        licence="none stated",
        file_sets=(
            (
                File(
                    "cifar-10-python.tar.gz",
                    170_498_071,
                    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                ),
            ),
            (
                _batch(
                    "data_batch_1",
                    31_035_704,
                    "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
                ),
                _batch(
                    "data_batch_2",
                    31_035_320,
                    "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
                ),
                _batch(
                    "data_batch_3",
                    31_035_999,
                    "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
                ),
                _batch(
                    "data_batch_4",
                    31_035_696,
                    "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
                ),
                _batch(
                    "data_batch_5",
                    31_035_623,
                    "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
                ),
                _batch(
                    "test_batch",
                    31_035_526,
                    "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
                ),
                _batch(
                    "batches.meta",
                    158,
                    "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb",
                ),
            ),
        ),
    )
)

register(
    Dataset(
        name="cifar100",
        classes=tuple(CIFAR100_CLASSES.split()),
        shape=(3, 32, 32),
        counts=(50_000, 10_000),
        peak=255,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        read=partial(read, reader="CIFAR100"),
        page=PAGE,
        licence="none stated",
        file_sets=(
            (
                File(
                    "cifar-100-python.tar.gz",
                    169_001_437,
                    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
                    ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
                ),
            ),
        ),
    )
)
