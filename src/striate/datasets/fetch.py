"""Get the files of a data set from a mirror or the web, verify them, and read them."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from striate.data import arrays
from striate.data.arrays import LabeledImages, LoadedDataset
from striate.data.source import Source
from striate.datasets.registry import DATASETS, DataError, Dataset, File

MIRROR_VARIABLE = "STRIATE_MIRROR"
WEB = ("http://", "https://")
ATTEMPTS = 3
PAUSE_SECONDS = 2.0
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 20
# Of an archive: CIFAR-10's has 9 members, which unpack to 186 million bytes.
MAX_MEMBERS = 100
MAX_UNPACKED_BYTES = 1 << 30


def prepare(name: str, folder: Path, mirror: str | None) -> None:
    """Fetch a registered data set, as `fetch` does, and write it to `folder`."""
    arrays.write(fetch(DATASETS[name], mirror), folder)


def fetch(dataset: Dataset, mirror: str | None) -> LoadedDataset:
    """Fetch, verify and read a data set.

    Args:
        dataset: what to fetch.
        mirror: a folder or an http(s) base URL that is tried before the public addresses.

    Raises:
        DataError: no source has the right files, and the message names each that was tried; or the
            arrays are not what `dataset` says.
    """
    if mirror and "://" in mirror and not mirror.startswith(WEB):
        raise DataError(f"{MIRROR_VARIABLE} is {mirror}; it must be a folder or an http(s) address")
    with tempfile.TemporaryDirectory() as folder:
        _fetch_files(dataset, Path(folder), mirror)
        train, test = dataset.read(Path(folder))
    for split, images, count in zip(("train", "test"), (train, test), dataset.counts, strict=True):
        _check(dataset, split, images, count)
    return LoadedDataset(
        classes=dataset.classes,
        peak=dataset.peak,
        mean=dataset.mean,
        std=dataset.std,
        train=train,
        test=test,
        source=Source(dataset.name, dataset.page, dataset.licence),
    )


def _fetch_files(dataset: Dataset, folder: Path, mirror: str | None) -> None:
    """Fetch the first complete file set: from the mirror, then from the web."""
    failures: list[str] = []
    candidates = [(files, mirror) for files in dataset.file_sets if mirror] + [
        (files, None) for files in dataset.file_sets if all(file.urls for file in files)
    ]
    for files, base in candidates:
        try:
            for file in files:
                urls = (f"{base.rstrip('/')}/{file.path}",) if base else file.urls
                _fetch_file(file, urls, folder / file.path)
        except DataError as error:
            failures.append(str(error))
            continue
        for archive in sorted(folder.glob("*.tar.gz")):
            extract(archive, folder)
        return
    raise DataError(
        f"{dataset.name} could not be fetched:\n"
        + "\n".join(f"  {failure}" for failure in failures)
        + f"\nTo work offline, set {MIRROR_VARIABLE} to a folder or web address that has"
        f" {' or '.join(files[0].path for files in dataset.file_sets)},"
        " or use the data set that needs no network: data.name=digits"
    )


def _fetch_file(file: File, urls: tuple[str, ...], target: Path) -> None:
    """Write the verified bytes of `file` to `target`, from the first URL or path that has them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    for url in urls:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                found = _copy(url, target, file)
            except urllib.error.HTTPError as error:
                failures.append(f"{url}: the server answered {error.code} {error.reason}")
                break
            except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
                if attempt < ATTEMPTS:
                    time.sleep(PAUSE_SECONDS * attempt)
                    continue
                reason = getattr(error, "reason", None) or error or type(error).__name__
                failures.append(f"{url}: {reason} ({ATTEMPTS} attempts)")
            except (OSError, ValueError) as error:
                failures.append(f"{url}: {getattr(error, 'strerror', None) or error}")
                break
            else:
                if found is None:
                    return
                failures.append(f"{url}: not the published file: {found}")
                break
        target.unlink(missing_ok=True)
    raise DataError("\n  ".join(failures))


def _copy(url: str, target: Path, file: File) -> str | None:
    """Copy `url` to `target`, with a progress bar; returns what is wrong with it, if anything."""
    digest, count = hashlib.sha256(), 0
    with (
        _open(url) as source,
        target.open("wb") as sink,
        tqdm(total=file.size, unit="B", unit_scale=True, desc=target.name, disable=None) as bar,
    ):
        while chunk := source.read(CHUNK_BYTES):
            count += len(chunk)
            if count > file.size:  # the answer may be endless
                return f"more than {file.size:,} bytes"
            sink.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
    if count < file.size:
        return f"{count:,} bytes, not {file.size:,}"
    found = digest.hexdigest()
    return None if found == file.sha256 else f"SHA-256 {found}, not {file.sha256}"


@contextmanager
def _open(url: str) -> Iterator[BinaryIO]:
    """Open an http(s) URL or a path."""
    if url.startswith(WEB):
        request = urllib.request.Request(url, headers={"User-Agent": "striate"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
            yield response
    else:
        with open(url, "rb") as source:
            yield source


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar archive into `folder`.

    Raises:
        DataError: the archive is damaged, has too many members or bytes, or a member is a device,
            or lies or links outside `folder`.
    """
    sizes: list[int] = []

    def safe(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
        """`tarfile.data_filter`, but absolute paths are refused instead of made relative."""
        sizes.append(member.size)
        if len(sizes) > MAX_MEMBERS or sum(sizes) > MAX_UNPACKED_BYTES:
            raise tarfile.TarError(
                f"more than {MAX_MEMBERS} members or {MAX_UNPACKED_BYTES:,} bytes"
            )
        if member.name.startswith("/"):
            raise tarfile.AbsolutePathError(member)
        return tarfile.data_filter(member, folder)

    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(folder, filter=safe)  # noqa: S202
    # A damaged header makes the library raise the last two.
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise DataError(f"{archive.name} was refused: {error}") from None


def _check(dataset: Dataset, split: str, found: LabeledImages, count: int) -> None:
    """Refuse arrays that are not what the registry says of a split."""
    images, labels = found
    shape, classes = (count, *dataset.shape), len(dataset.classes)
    if images.shape != shape or images.dtype != np.uint8:
        raise DataError(
            f"{dataset.name}: the {split} images are {images.dtype} {images.shape},"
            f" not uint8 {shape}"
        )
    present = np.unique(labels)
    if labels.shape != (count,) or not np.array_equal(present, np.arange(classes)):
        raise DataError(
            f"{dataset.name}: the {split} labels are {labels.shape} with classes"
            f" {present.tolist()}, not ({count},) with every class from 0 to {classes - 1}"
        )
