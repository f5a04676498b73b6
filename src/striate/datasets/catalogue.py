"""The catalogue of data sets: where the bytes come from, how they are verified and stored.

To add a data set, add one entry, and a function that reads its verified files into arrays where
none of those here does.
"""

import hashlib
import json
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from striate.data.framing import frame
from striate.data.splits import stratified_split
from striate.errors import UserError

MIRROR_VARIABLE = "STRIATE_MIRROR"
WEB = ("http://", "https://")
ATTEMPTS = 3
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20
# Of an archive: CIFAR-10's has 9 members, which unpack to 186 million bytes.
MOST_MEMBERS = 100
MOST_UNPACKED_BYTES = 1 << 30


class DataError(UserError):
    """Data cannot be had, or is not what the catalogue says."""


class Part(NamedTuple):
    """Images as published, uint8 (N, C, H, W), and their classes, int64 (N,)."""

    images: np.ndarray
    labels: np.ndarray


class Collection(NamedTuple):
    """A data set that was read, with what its manifest says of it."""

    name: str
    classes: tuple[str, ...]
    peak: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Part
    test: Part
    twins: tuple[tuple[str, str], ...] = ()  # training and test files with the same pixels
    contradictions: tuple[tuple[str, str], ...] = ()  # likewise, files of different classes
    frame: dict[str, Any] | None = None  # if it is not to be taken from the training images
    left_out: Mapping[str, int] = {}  # files in a person's folder that are no pictures, by kind


@dataclass(frozen=True)
class File:
    """A published file: its place below a mirror, bytes, SHA-256, and public addresses."""

    path: str
    size: int
    sha256: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """One entry of the catalogue."""

    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # channels, height, width
    counts: tuple[int, int]  # training images, test images
    peak: int  # the largest pixel value
    mean: tuple[float, ...]  # of each channel over the training images, divided by `peak`
    std: tuple[float, ...]
    forms: tuple[tuple[File, ...], ...]  # ways in which it is published; any one will do
    read: Callable[[Path], tuple[Part, Part]]  # verified files → training and test part
    page: str  # where it is described
    licence: str  # as its publisher states it


def _read_digits(folder: Path) -> tuple[Part, Part]:
    """The digits inside scikit-learn, which come unsplit; the split is fixed here."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    train, test = stratified_split(labels, 360, seed=0)
    return Part(images[train], labels[train]), Part(images[test], labels[test])


def _read_mnist(folder: Path, kind: str = "MNIST") -> tuple[Part, Part]:
    """MNIST, or a data set of torchvision that was published in the same form."""
    import torchvision.datasets

    reader = getattr(torchvision.datasets, kind)
    parts = (reader(folder, train=train, download=True) for train in (True, False))
    train, test = (Part(part.data.numpy()[:, None], part.targets.numpy()) for part in parts)
    return train, test


def _read_cifar(folder: Path, kind: str = "CIFAR10") -> tuple[Part, Part]:
    # The batches are pickles, and reading one runs what it says. They are safe to read because
    # their SHA-256, or that of their archive, was compared with the catalogue's before.
    import torchvision.datasets

    reader = getattr(torchvision.datasets, kind)
    parts = (reader(folder, train=train) for train in (True, False))
    train, test = (
        Part(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets))
        for part in parts
    )
    return train, test


HOSTS = {
    "MNIST": (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "http://yann.lecun.com/exdb/mnist",
    ),
    "FashionMNIST": ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
    "KMNIST": ("http://codh.rois.ac.jp/kmnist/dataset/kmnist",),
}


def _mnist_file(name: str, size: int, sha256: str, kind: str = "MNIST") -> File:
    addresses = tuple(f"{host}/{name}.gz" for host in HOSTS[kind])
    return File(f"{kind}/raw/{name}.gz", size, sha256, addresses)


def _cifar10_file(name: str, size: int, sha256: str) -> File:
    return File(f"cifar-10-batches-py/{name}", size, sha256)


DIGIT_NAMES = tuple("0123456789")
CIFAR100_NAMES = (
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

CATALOGUE: dict[str, Dataset] = {
    "digits": Dataset(
        classes=DIGIT_NAMES,
        shape=(1, 8, 8),
        counts=(1437, 360),
        peak=16,
        mean=(0.3058,),
        std=(0.3766,),
        forms=((),),
        read=_read_digits,
        page="https://archive.ics.uci.edu/dataset/80",
        licence="CC BY 4.0",
    ),
    "mnist": Dataset(
        classes=DIGIT_NAMES,
        shape=(1, 28, 28),
        counts=(60_000, 10_000),
        peak=255,
        mean=(0.1307,),
        std=(0.3081,),
        forms=(
            (
                _mnist_file(
                    "train-images-idx3-ubyte",
                    9_912_422,
                    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                ),
                _mnist_file(
                    "train-labels-idx1-ubyte",
                    28_881,
                    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                ),
                _mnist_file(
                    "t10k-images-idx3-ubyte",
                    1_648_877,
                    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                ),
                _mnist_file(
                    "t10k-labels-idx1-ubyte",
                    4_542,
                    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                ),
            ),
        ),
        read=_read_mnist,
        page="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0",
    ),
    "cifar10": Dataset(
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
        std=(0.2470, 0.2435, 0.2616),
        forms=(
            (
                File(
                    "cifar-10-python.tar.gz",
                    170_498_071,
                    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
                    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                ),
            ),
            (
                _cifar10_file(
                    "data_batch_1",
                    31_035_704,
                    "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
                ),
                _cifar10_file(
                    "data_batch_2",
                    31_035_320,
                    "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
                ),
                _cifar10_file(
                    "data_batch_3",
                    31_035_999,
                    "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
                ),
                _cifar10_file(
                    "data_batch_4",
                    31_035_696,
                    "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
                ),
                _cifar10_file(
                    "data_batch_5",
                    31_035_623,
                    "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
                ),
                _cifar10_file(
                    "test_batch",
                    31_035_526,
                    "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
                ),
                _cifar10_file(
                    "batches.meta",
                    158,
                    "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb",
                ),
            ),
        ),
        read=_read_cifar,
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated",
    ),
    "fashion-mnist": Dataset(
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
        mean=(0.2860,),
        std=(0.3530,),
        forms=(
            (
                _mnist_file(
                    "train-images-idx3-ubyte",
                    26_421_880,
                    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                    "FashionMNIST",
                ),
                _mnist_file(
                    "train-labels-idx1-ubyte",
                    29_515,
                    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                    "FashionMNIST",
                ),
                _mnist_file(
                    "t10k-images-idx3-ubyte",
                    4_422_102,
                    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                    "FashionMNIST",
                ),
                _mnist_file(
                    "t10k-labels-idx1-ubyte",
                    5_148,
                    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                    "FashionMNIST",
                ),
            ),
        ),
        read=partial(_read_mnist, kind="FashionMNIST"),
        page="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
    ),
    "kmnist": Dataset(
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        shape=(1, 28, 28),
        counts=(60_000, 10_000),
        peak=255,
        mean=(0.1918,),
        std=(0.3483,),
        forms=(
            (
                _mnist_file(
                    "train-images-idx3-ubyte",
                    18_165_135,
                    "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                    "KMNIST",
                ),
                _mnist_file(
                    "train-labels-idx1-ubyte",
                    29_497,
                    "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
                    "KMNIST",
                ),
                _mnist_file(
                    "t10k-images-idx3-ubyte",
                    3_041_136,
                    "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
                    "KMNIST",
                ),
                _mnist_file(
                    "t10k-labels-idx1-ubyte",
                    5_120,
                    "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
                    "KMNIST",
                ),
            ),
        ),
        read=partial(_read_mnist, kind="KMNIST"),
        page="http://codh.rois.ac.jp/kmnist/",
        licence="CC BY-SA 4.0",
    ),
    "cifar100": Dataset(
        classes=tuple(CIFAR100_NAMES.split()),
        shape=(3, 32, 32),
        counts=(50_000, 10_000),
        peak=255,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        forms=(
            (
                File(
                    "cifar-100-python.tar.gz",
                    169_001_437,
                    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
                    ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
                ),
            ),
        ),
        read=partial(_read_cifar, kind="CIFAR100"),
        page="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence="none stated",
    ),
}


def prepare(name: str, folder: Path, mirror: str | None) -> None:
    """Fetch, verify and store one data set of the catalogue, as `fetch` and `store` do."""
    store(fetch(name, mirror), folder)


def fetch(name: str, mirror: str | None) -> Collection:
    """Fetch, verify and read one data set of the catalogue.

    Args:
        name: a key of `CATALOGUE`.
        mirror: a folder or an http(s) base address that is tried before the public addresses.

    Raises:
        DataError: no source gave the right bytes; the message names each that was tried.
    """
    entry = CATALOGUE[name]
    if mirror and "://" in mirror and not mirror.startswith(WEB):
        raise DataError(f"{MIRROR_VARIABLE} is {mirror}; it must be a folder or an http(s) address")
    with tempfile.TemporaryDirectory() as downloads:
        _fetch_any_form(name, entry, Path(downloads), mirror)
        train, test = entry.read(Path(downloads))
    _check(name, entry, train, test)
    return Collection(name, entry.classes, entry.peak, entry.mean, entry.std, train, test)


def _fetch_any_form(name: str, dataset: Dataset, folder: Path, mirror: str | None) -> None:
    """Fetch all files of the first form that some source has: the mirror first, then the web."""
    failures: list[str] = []
    tries = [(form, True) for form in dataset.forms if mirror] + [
        (form, False) for form in dataset.forms if all(file.addresses for file in form)
    ]
    for form, use_mirror in tries:
        try:
            for file in form:
                addresses = (_below(mirror, file.path),) if use_mirror else file.addresses
                _fetch_file(file, addresses, folder / file.path)
        except DataError as error:
            failures.append(str(error))
            continue
        for archive in sorted(folder.glob("*.tar.gz")):
            extract(archive, folder)
        return
    raise DataError(
        f"{name} could not be fetched:\n"
        + "\n".join(f"  {failure}" for failure in failures)
        + f"\nTo work offline, set {MIRROR_VARIABLE} to a folder or web address that has"
        f" {' or '.join(form[0].path for form in dataset.forms)},"
        " or use the data set that needs no network: data.name=digits"
    )


def _below(mirror: str | None, path: str) -> str:
    return f"{(mirror or '').rstrip('/')}/{path}"


def _fetch_file(file: File, addresses: tuple[str, ...], target: Path) -> None:
    """Write the verified bytes of `file` to `target`, from the first address that has them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for address in addresses:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found = _copy(address, target, file)
            except urllib.error.HTTPError as error:
                failures.append(f"{address}: the server answered {error.code} {error.reason}")
                break
            except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
                if attempt < ATTEMPTS:
                    time.sleep(PAUSE_SECONDS * attempt)
                    continue
                reason = getattr(error, "reason", None) or error or type(error).__name__
                failures.append(f"{address}: {reason} ({ATTEMPTS} attempts)")
            except (OSError, ValueError) as error:
                failures.append(f"{address}: {getattr(error, 'strerror', None) or error}")
                break
            else:
                if found is None:
                    return
                failures.append(f"{address}: not the published file: {found}")
                break
        target.unlink(missing_ok=True)
    raise DataError("\n  ".join(failures))


def _copy(address: str, target: Path, file: File) -> str | None:
    """Copy one address to a file, with a progress bar; says what is wrong with what came."""
    digest, count = hashlib.sha256(), 0
    with (
        _opened(address) as source,
        target.open("wb") as sink,
        tqdm(total=file.size, unit="B", unit_scale=True, desc=target.name, disable=None) as bar,
    ):
        while chunk := source.read(CHUNK_BYTES):
            count += len(chunk)
            if count > file.size:  # it may have no end
                return f"more than {file.size:,} bytes"
            sink.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
    if count < file.size:
        return f"{count:,} bytes, not {file.size:,}"
    found = digest.hexdigest()
    return None if found == file.sha256 else f"SHA-256 {found}, not {file.sha256}"


@contextmanager
def _opened(address: str) -> Iterator[BinaryIO]:
    """Open a path or an http(s) address."""
    if address.startswith(WEB):
        request = urllib.request.Request(address, headers={"User-Agent": "striate"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            yield answer
    else:
        with open(address, "rb") as source:
            yield source


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar archive into `folder`.

    Raises:
        DataError: a member is a device, or it or its link would lie outside `folder`, or the
            archive is broken, or has more members or bytes than any data set.
    """
    sizes: list[int] = []

    def inside(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
        """The filter `data`, which by itself would make an absolute path relative."""
        sizes.append(member.size)
        if len(sizes) > MOST_MEMBERS or sum(sizes) > MOST_UNPACKED_BYTES:
            raise tarfile.TarError(
                f"more than {MOST_MEMBERS} members or {MOST_UNPACKED_BYTES:,} bytes"
            )
        if member.name.startswith("/"):
            raise tarfile.AbsolutePathError(member)
        return tarfile.data_filter(member, folder)

    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(folder, filter=inside)  # noqa: S202
    # A faulty header makes the library raise the last two.
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise DataError(f"{archive.name} was refused: {error}") from None


def _check(name: str, dataset: Dataset, train: Part, test: Part) -> None:
    for part, count, label in zip((train, test), dataset.counts, ("train", "test"), strict=True):
        expected = (count, *dataset.shape)
        if part.images.shape != expected or part.images.dtype != np.uint8:
            raise DataError(
                f"{name}: the {label} images are {part.images.dtype} {part.images.shape},"
                f" not uint8 {expected}"
            )
        present = np.unique(part.labels)
        if part.labels.shape != (count,) or not np.array_equal(
            present, np.arange(len(dataset.classes))
        ):
            raise DataError(
                f"{name}: the {label} labels are {part.labels.shape} with classes"
                f" {present.tolist()}, not ({count},) with every class"
                f" from 0 to {len(dataset.classes) - 1}"
            )


def store(collection: Collection, folder: Path) -> None:
    """Write the arrays and the manifest, complete or not at all.

    Args:
        collection: what is written.
        folder: receives `train/` and `test/`, each with `images.npy` (uint8, (N, C, H, W)) and
            `labels.npy` (int64, (N,)), and `manifest.json`.

    Raises:
        DataError: `folder` cannot be written.
    """
    try:
        _store(collection, folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from None


def _store(collection: Collection, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as scratch:
        manifest: dict[str, object] = {
            "name": collection.name,
            "shape": collection.train.images.shape[1:],
            "classes": collection.classes,
            "peak": collection.peak,
            "mean": collection.mean,
            "std": collection.std,
            "frame": collection.frame or frame(collection.train.images, collection.peak),
        }
        for label, part in (("train", collection.train), ("test", collection.test)):
            new = Path(scratch, label)
            new.mkdir()
            _save(new / "images.npy", part.images)
            _save(new / "labels.npy", part.labels.astype(np.int64))
            manifest[label] = {
                "count": len(part.labels),
                "per_class": np.bincount(part.labels, minlength=len(collection.classes)).tolist(),
                "sha256": {path.name: _sha256(path) for path in sorted(new.iterdir())},
            }
        Path(scratch, "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        for label in ("train", "test"):
            if (folder / label).exists():
                shutil.rmtree(folder / label)
        for path in Path(scratch).iterdir():
            path.rename(folder / path.name)


def _save(path: Path, array: np.ndarray) -> None:
    # Into a file that it may also read, NumPy writes by Python's means, whose errors say why.
    with path.open("w+b") as stream:
        np.save(stream, array)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
