"""MNIST, and the data sets that are published in its format: Fashion-MNIST and Kuzushiji-MNIST."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from striate.datasets.registry import Dataset, File, register

if TYPE_CHECKING:
    from striate.data.arrays import LabeledImages

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def read(folder: Path, reader: str) -> tuple[LabeledImages, LabeledImages]:
    """Read the four files by torchvision's class of the name `reader`."""
    import torchvision.datasets

    from striate.data.arrays import LabeledImages

    dataset = getattr(torchvision.datasets, reader)
    # With `download`, torchvision unpacks the files that are there.
    splits = (dataset(folder, train=train, download=True) for train in (True, False))
    train, test = (
        LabeledImages(split.data.numpy()[:, None], split.targets.numpy()) for split in splits
    )
    return train, test


def files(
    reader: str, sizes_and_hashes: tuple[tuple[int, str], ...], *hosts: str
) -> tuple[File, ...]:
    """The four files, of these sizes and SHA-256s, where torchvision's class looks for them."""
    return tuple(
        File(f"{reader}/raw/{name}", size, sha256, tuple(f"{host}/{name}" for host in hosts))
        for name, (size, sha256) in zip(FILES, sizes_and_hashes, strict=True)
    )


register(
    Dataset(
        name="mnist",
        classes=tuple("0123456789"),
        shape=(1, 28, 28),
        counts=(60_000, 10_000),
        peak=255,
        mean=(0.1307,),
        std=(0.3081,),
        read=partial(read, reader="MNIST"),
        page="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0",
        file_sets=(
            files(
                "MNIST",
                (
                    (9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
                    (28_881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
                    (1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
                    (4_542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
                ),
                "https://ossci-datasets.s3.amazonaws.com/mnist",
                "http://yann.lecun.com/exdb/mnist",
            ),
        ),
    )
)

register(
    Dataset(
        name="fashion-mnist",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        shape=(1, 28, 28),
        counts=(60_000, 10_000),
        peak=255,
        mean=(0.286,),
        std=(0.353,),
        read=partial(read, reader="FashionMNIST"),
        page="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        file_sets=(
            files(
                "FashionMNIST",
                (
                    (
                        26_421_880,
                        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    ),
                    (29_515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
                    (4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
                    (5_148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
                ),
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            ),
        ),
    )
)

register(
    Dataset(
        name="kmnist",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        shape=(1, 28, 28),
        counts=(60_000, 10_000),
        peak=255,
        mean=(0.1918,),
        std=(0.3483,),
        read=partial(read, reader="KMNIST"),
        page="http://codh.rois.ac.jp/kmnist/",
        licence="CC BY-SA 4.0",
        file_sets=(
            files(
                "KMNIST",
                (
                    (
                        18_165_135,
                        "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                    ),
                    (29_497, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"),
                    (3_041_136, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"),
                    (5_120, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"),
                ),
                "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
            ),
        ),
    )
)
