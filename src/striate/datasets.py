"""The catalogue of data sets: where the bytes come from, how they are verified and stored.

To add a data set, write a function that reads its verified files into arrays, and one entry.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from striate.errors import UserError
from striate.splits import stratified_split

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


def _read_digits(folder: Path) -> tuple[Part, Part]:
    """The digits inside scikit-learn, which come unsplit; the split is fixed here."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    train, test = stratified_split(labels, 360, seed=0)
    return Part(images[train], labels[train]), Part(images[test], labels[test])


def _read_mnist(folder: Path) -> tuple[Part, Part]:
    from torchvision.datasets import MNIST

    parts = (MNIST(folder, train=train, download=True) for train in (True, False))
    train, test = (Part(part.data.numpy()[:, None], part.targets.numpy()) for part in parts)
    return train, test


def _read_cifar10(folder: Path) -> tuple[Part, Part]:
    # The batches are pickles, and reading one runs what it says. They are safe to read because
    # their SHA-256, or that of their archive, was compared with the catalogue's before.
    from torchvision.datasets import CIFAR10

    parts = (CIFAR10(folder, train=train) for train in (True, False))
    train, test = (
        Part(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.array(part.targets))
        for part in parts
    )
    return train, test


def _mnist_file(name: str, size: int, sha256: str) -> File:
    hosts = ("https://ossci-datasets.s3.amazonaws.com/mnist", "http://yann.lecun.com/exdb/mnist")
    addresses = tuple(f"{host}/{name}.gz" for host in hosts)
    return File(f"MNIST/raw/{name}.gz", size, sha256, addresses)


def _cifar10_file(name: str, size: int, sha256: str) -> File:
    return File(f"cifar-10-batches-py/{name}", size, sha256)


DIGIT_NAMES = tuple("0123456789")

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
        read=_read_cifar10,
    ),
}


def prepare(name: str, folder: Path, mirror: str | None) -> None:
    """Fetch, verify and store one data set.

    Args:
        name: a key of `CATALOGUE`.
        folder: receives `train/` and `test/`, each with `images.npy` (uint8, (N, C, H, W)) and
            `labels.npy` (int64, (N,)), and `manifest.json`. Nothing is written before all is
            verified.
        mirror: a folder or an http(s) base address that is tried before the public addresses.

    Raises:
        DataError: no source gave the right bytes, and the message names each that was tried; or
            `folder` cannot be written.
    """
    dataset = CATALOGUE[name]
    if mirror and "://" in mirror and not mirror.startswith(WEB):
        raise DataError(f"{MIRROR_VARIABLE} is {mirror}; it must be a folder or an http(s) address")
    with tempfile.TemporaryDirectory() as downloads:
        _fetch_any_form(name, dataset, Path(downloads), mirror)
        train, test = dataset.read(Path(downloads))
    _check(name, dataset, train, test)
    try:
        _store(name, dataset, folder, train, test)
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror or error}") from None


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


def _store(name: str, dataset: Dataset, folder: Path, train: Part, test: Part) -> None:
    """Write the arrays and the manifest, complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as scratch:
        manifest: dict[str, object] = {
            "name": name,
            "shape": dataset.shape,
            "classes": dataset.classes,
            "peak": dataset.peak,
            "mean": dataset.mean,
            "std": dataset.std,
        }
        for label, part in (("train", train), ("test", test)):
            new = Path(scratch, label)
            new.mkdir()
            _save(new / "images.npy", part.images)
            _save(new / "labels.npy", part.labels.astype(np.int64))
            manifest[label] = {
                "count": len(part.labels),
                "per_class": np.bincount(part.labels, minlength=len(dataset.classes)).tolist(),
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
