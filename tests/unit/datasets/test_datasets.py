"""The data sets: what is registered, the real files, and every way in which fetching can fail."""

import contextlib
import dataclasses
import errno
import gzip
import hashlib
import io
import json
import os
import pickle
import resource
import runpy
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
import yaml
from paths import ROOT
from sklearn.datasets import load_digits

from striate.data import arrays, source, tensors
from striate.data.arrays import LabeledImages
from striate.datasets import fetch
from striate.datasets.fetch import prepare
from striate.datasets.registry import DATASETS, DataError, Dataset, File
from striate.errors import UserError

STORED = ["images.npy", "labels.npy"]
FILES = ["manifest.json", "source.json", "test", "train", "val"]


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def published(path, content, *addresses):
    return File(path, len(content), sha256(content), addresses)


def contents(folder):
    """Every file below a folder, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def load(folder):
    """The stored training and test part, as the later stages read them."""
    cpu = torch.device("cpu")
    return tuple(
        LabeledImages(*(tensor.numpy() for tensor in tensors.load_split(folder, part, cpu)))
        for part in ("train", "test")
    )


def moments(pixels, peak):
    """Mean and standard deviation of each channel, from a histogram: exact and small."""
    found = []
    for channel in range(pixels.shape[1]):
        counts = sum(
            np.bincount(some[:, channel].ravel(), minlength=256)
            for some in np.array_split(pixels, 20)
        )
        values = np.arange(256) / peak
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        found.append((round(float(mean), 4), round(float(variance**0.5), 4)))
    means, deviations = zip(*found, strict=True)
    return means, deviations


def assert_stored(name, folder):
    """The folder holds what the registry says, and its manifest says what the folder holds."""
    entry = DATASETS[name]
    assert sorted(contents(folder)) == sorted(
        [
            "manifest.json",
            "source.json",
            *(f"{part}/{file}" for part in ("train", "test") for file in STORED),
        ]
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == arrays.load_manifest(folder)
    assert list(manifest) == [
        "name",
        "shape",
        "classes",
        "peak",
        "mean",
        "std",
        "frame",
        "train",
        "test",
    ]
    assert manifest["name"] == name
    assert source.read(folder) == {"name": name, "page": entry.page, "licence": entry.licence}
    assert manifest["shape"] == list(entry.shape)
    assert manifest["classes"] == list(entry.classes)
    assert manifest["peak"] == entry.peak
    assert (manifest["mean"], manifest["std"]) == (list(entry.mean), list(entry.std))
    for label, part, count in zip(("train", "test"), load(folder), entry.counts, strict=True):
        assert (part.images.dtype, part.labels.dtype) == (np.uint8, np.int64)
        assert part.images.shape == (count, *entry.shape)
        assert part.labels.shape == (count,)
        assert manifest[label] == {
            "count": count,
            "per_class": [
                int((part.labels == number).sum()) for number in range(len(entry.classes))
            ],
            "sha256": {
                file: hashlib.sha256((folder / label / file).read_bytes()).hexdigest()
                for file in STORED
            },
        }


# Digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    prepare("digits", folder, None)
    return folder


def test_digits_are_stored_as_the_registry_says(digits):
    assert_stored("digits", digits)
    train, test = load(digits)
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    assert (train.images.min(), train.images.max()) == (0, DATASETS["digits"].peak)
    assert moments(train.images, 16) == (DATASETS["digits"].mean, DATASETS["digits"].std)


def test_digits_are_divided_by_class_and_the_division_is_frozen(digits):
    train, test = load(digits)
    assert np.bincount(train.labels).tolist() == [
        142, 145, 142, 146, 145, 146, 145, 143, 139, 144
    ]  # fmt: skip
    assert np.bincount(test.labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert train.labels[:12].tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 0, 1, 2, 4]
    assert test.labels[:12].tolist() == [3, 7, 3, 9, 0, 8, 7, 0, 8, 0, 3, 3]


def test_digits_are_those_of_scikit_learn_each_in_one_part(digits):
    bunch = load_digits()
    published = {
        (image.astype(np.uint8).tobytes(), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    train, test = (
        {(image.tobytes(), int(label)) for image, label in zip(*part, strict=True)}
        for part in load(digits)
    )
    assert (len(train), len(test)) == (1437, 360)
    assert train | test == published
    assert not train & test


def test_digits_come_out_byte_for_byte_alike_and_need_no_mirror(digits, tmp_path):
    prepare("digits", tmp_path / "again", None)
    prepare("digits", tmp_path / "mirrored", str(tmp_path / "nowhere"))
    assert contents(tmp_path / "again") == contents(digits)
    assert contents(tmp_path / "mirrored") == contents(digits)


# What is registered, against torchvision's


def test_mnist_files_are_those_of_torchvision(mirror):
    source = torchvision.datasets.MNIST
    (form,) = DATASETS["mnist"].file_sets
    for file, (name, checksum) in zip(form, source.resources, strict=True):
        content = (mirror / file.path).read_bytes()
        assert md5(content) == checksum
        addresses = [f"{site}{name}" for site in source.mirrors]
        assert file == published(f"MNIST/raw/{name}", content, *addresses)


def test_cifar10_files_are_those_of_torchvision(mirror):
    source = torchvision.datasets.CIFAR10
    (archive,), unpacked = DATASETS["cifar10"].file_sets
    assert (archive.path, archive.urls) == (source.filename, (source.url,))
    assert archive.size == 170_498_071
    meta = (source.meta["filename"], source.meta["md5"])
    listed = [*source.train_list, *source.test_list, meta]
    for file, (name, checksum) in zip(unpacked, listed, strict=True):
        content = (mirror / file.path).read_bytes()
        assert md5(content) == checksum
        assert file == published(f"{source.base_folder}/{name}", content)


def test_cifar10_classes_are_those_of_the_published_file(mirror):
    published = pickle.loads((mirror / "cifar-10-batches-py" / "batches.meta").read_bytes())
    assert DATASETS["cifar10"].classes == tuple(published["label_names"])


def test_digit_classes_are_the_digits():
    for name in ("digits", "mnist"):
        assert DATASETS[name].classes == tuple("0123456789")


@pytest.mark.parametrize("name", DATASETS)
def test_every_entry_describes_each_channel(name):
    entry = DATASETS[name]
    assert len(entry.mean) == len(entry.std) == entry.shape[0]


# The real files


@pytest.fixture(scope="module")
def mnist(mirror, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mnist")
    prepare("mnist", folder, str(mirror))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def cifar10(mirror, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar10")
    prepare("cifar10", folder, str(mirror))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_mnist_is_what_the_registry_and_stock_torchvision_say(mnist, mirror, tmp_path):
    assert_stored("mnist", mnist)
    train, test = load(mnist)
    assert (len(train.labels), len(test.labels)) == (60_000, 10_000)
    assert moments(train.images, 255) == ((0.1307,), (0.3081,))
    assert train.images.max() == DATASETS["mnist"].peak
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    shutil.copytree(mirror / "MNIST", tmp_path / "MNIST", copy_function=shutil.copyfile)
    for part, ours in ((True, train), (False, test)):
        stock = torchvision.datasets.MNIST(tmp_path, train=part, download=True)
        assert (ours.images[:, 0] == stock.data.numpy()).all()
        assert (ours.labels == stock.targets.numpy()).all()
        picture, label = stock[9]
        assert (ours.images[9, 0] == np.asarray(picture)).all()
        assert ours.labels[9] == label


@pytest.mark.slow
def test_mnist_is_the_published_bytes_without_their_headers(mnist, mirror):
    for part, name in zip(load(mnist), ("train", "t10k"), strict=True):
        raw = mirror / "MNIST" / "raw"
        pixels = gzip.decompress((raw / f"{name}-images-idx3-ubyte.gz").read_bytes())[16:]
        classes = gzip.decompress((raw / f"{name}-labels-idx1-ubyte.gz").read_bytes())[8:]
        assert part.images.tobytes() == pixels
        assert part.labels.tolist() == list(classes)


@pytest.mark.slow
def test_cifar10_is_what_the_registry_and_stock_torchvision_say(cifar10, mirror):
    assert_stored("cifar10", cifar10)
    train, test = load(cifar10)
    assert (len(train.labels), len(test.labels)) == (50_000, 10_000)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert moments(train.images, 255) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    assert train.images.max() == DATASETS["cifar10"].peak
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    for part, ours in ((True, train), (False, test)):
        stock = torchvision.datasets.CIFAR10(mirror, train=part)
        assert tuple(stock.classes) == DATASETS["cifar10"].classes
        assert (ours.images == stock.data.transpose(0, 3, 1, 2)).all()
        assert (ours.labels == stock.targets).all()
        picture, label = stock[7]
        assert (ours.images[7].transpose(1, 2, 0) == np.asarray(picture)).all()
        assert ours.labels[7] == label


# Small files of the published formats, read by the real readers


@pytest.fixture
def tiny_mnist(monkeypatch, tmp_path):
    return make_tiny_mnist(monkeypatch, tmp_path, "mnist", "MNIST")


def make_tiny_mnist(monkeypatch, tmp_path, entry_name, kind):
    """A mirror of 20 training and 10 test images, as MNIST and its like are published."""
    random = np.random.RandomState(0)
    folder = tmp_path / "mirror" / kind / "raw"
    folder.mkdir(parents=True)
    parts, files = [], []
    for name, count in (("train", 20), ("t10k", 10)):
        part = LabeledImages(
            random.randint(0, 256, (count, 1, 28, 28), dtype=np.uint8), np.arange(count) % 10
        )
        for suffix, header, values in (
            ("images-idx3", struct.pack(">4i", 0x803, count, 28, 28), part.images),
            ("labels-idx1", struct.pack(">2i", 0x801, count), part.labels.astype(np.uint8)),
        ):
            path = folder / f"{name}-{suffix}-ubyte.gz"
            path.write_bytes(gzip.compress(header + values.tobytes()))
            files.append(published(f"{kind}/raw/{path.name}", path.read_bytes()))
        parts.append(part)
    resources = [(path.name, md5(path.read_bytes())) for path in sorted(folder.iterdir())]
    monkeypatch.setattr(getattr(torchvision.datasets, kind), "resources", resources)
    entry = dataclasses.replace(DATASETS[entry_name], counts=(20, 10), file_sets=(tuple(files),))
    monkeypatch.setitem(DATASETS, entry_name, entry)
    return SimpleNamespace(mirror=tmp_path / "mirror", parts=parts)


@pytest.fixture
def tiny_cifar10(monkeypatch, tmp_path):
    """Two mirrors of 50 training and 10 test images: one has the archive, one its files."""
    source = torchvision.datasets.CIFAR10
    random = np.random.RandomState(0)
    folder = tmp_path / "files" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batches = []
    for name, _ in [*source.train_list, *source.test_list]:
        batch = LabeledImages(
            random.randint(0, 256, (10, 3, 32, 32), dtype=np.uint8), random.permutation(10)
        )
        stored = {"data": batch.images.reshape(10, -1), "labels": batch.labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(stored))
        batches.append(batch)
    names = {"label_names": list(DATASETS["cifar10"].classes)}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    archive = tmp_path / "archive" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)

    def checksum(name):
        return md5((folder / name).read_bytes())

    for key in ("train_list", "test_list"):
        renewed = [[name, checksum(name)] for name, _ in getattr(source, key)]
        monkeypatch.setattr(source, key, renewed)
    monkeypatch.setattr(source, "meta", source.meta | {"md5": checksum("batches.meta")})
    entry = DATASETS["cifar10"]
    file_sets = (
        (published(archive.name, archive.read_bytes()),),
        tuple(
            published(file.path, (folder.parent / file.path).read_bytes())
            for file in entry.file_sets[1]
        ),
    )
    entry = dataclasses.replace(entry, counts=(50, 10), file_sets=file_sets)
    monkeypatch.setitem(DATASETS, "cifar10", entry)
    train = LabeledImages(*(np.concatenate(values) for values in zip(*batches[:5], strict=True)))
    return SimpleNamespace(
        archive=archive.parent, files=tmp_path / "files", parts=[train, batches[5]]
    )


def assert_parts(folder, expected):
    for ours, theirs in zip(load(folder), expected, strict=True):
        assert ours.images.shape == theirs.images.shape
        assert (ours.images == theirs.images).all()
        assert (ours.labels == theirs.labels).all()


def test_a_small_mnist_is_read(tiny_mnist, tmp_path):
    prepare("mnist", tmp_path / "data", str(tiny_mnist.mirror))
    assert_stored("mnist", tmp_path / "data")
    assert_parts(tmp_path / "data", tiny_mnist.parts)


LIKE_MNIST = {"fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}


@pytest.mark.parametrize("name", LIKE_MNIST)
def test_what_is_published_like_mnist_is_read_like_it(monkeypatch, tmp_path, name):
    tiny = make_tiny_mnist(monkeypatch, tmp_path, name, LIKE_MNIST[name])
    prepare(name, tmp_path / "data", str(tiny.mirror))
    assert_stored(name, tmp_path / "data")
    assert_parts(tmp_path / "data", tiny.parts)


@pytest.mark.parametrize("name", ["mnist", *LIKE_MNIST])
def test_files_like_those_of_mnist_are_where_torchvision_says(name):
    source = getattr(torchvision.datasets, LIKE_MNIST.get(name, "MNIST"))
    (form,) = DATASETS[name].file_sets
    known = {f"{site}{file}" for site in source.mirrors for file, _ in source.resources}
    assert {address.replace("http:", "https:") for file in form for address in file.urls} <= {
        address.replace("http:", "https:") for address in known
    }
    assert {Path(file.path).name for file in form} == {file for file, _ in source.resources}


def test_classes_are_those_of_torchvision():
    assert DATASETS["fashion-mnist"].classes == tuple(torchvision.datasets.FashionMNIST.classes)
    assert DATASETS["kmnist"].classes == tuple(torchvision.datasets.KMNIST.classes)


def test_a_small_cifar100_is_read(monkeypatch, tmp_path):
    source, name = torchvision.datasets.CIFAR100, "cifar-100-python"
    random = np.random.RandomState(0)
    folder = tmp_path / name
    folder.mkdir()
    parts = []
    for file, count in (("train", 200), ("test", 100)):
        part = LabeledImages(
            random.randint(0, 256, (count, 3, 32, 32), dtype=np.uint8), np.arange(count) % 100
        )
        stored = {"data": part.images.reshape(count, -1), "fine_labels": part.labels.tolist()}
        (folder / file).write_bytes(pickle.dumps(stored))
        parts.append(part)
    names = {"fine_label_names": list(DATASETS["cifar100"].classes)}
    (folder / "meta").write_bytes(pickle.dumps(names))
    archive = tmp_path / "mirror" / f"{name}.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, name)
    for key in ("train_list", "test_list"):
        renewed = [[file, md5((folder / file).read_bytes())] for file, _ in getattr(source, key)]
        monkeypatch.setattr(source, key, renewed)
    renewed = source.meta | {"md5": md5((folder / "meta").read_bytes())}
    monkeypatch.setattr(source, "meta", renewed)
    entry = DATASETS["cifar100"]
    (original,) = entry.file_sets
    assert (original[0].path, original[0].urls) == (source.filename, (source.url,))
    form = (published(archive.name, archive.read_bytes()),)
    entry = dataclasses.replace(entry, counts=(200, 100), file_sets=(form,))
    monkeypatch.setitem(DATASETS, "cifar100", entry)
    prepare("cifar100", tmp_path / "data", str(archive.parent))
    assert_stored("cifar100", tmp_path / "data")
    assert_parts(tmp_path / "data", parts)


@pytest.mark.parametrize("form", ["archive", "files"])
def test_a_small_cifar10_is_read_from_either_form(tiny_cifar10, tmp_path, form):
    prepare("cifar10", tmp_path / "data", str(getattr(tiny_cifar10, form)))
    assert_stored("cifar10", tmp_path / "data")
    assert_parts(tmp_path / "data", tiny_cifar10.parts)


def test_a_corrupt_archive_gives_way_to_the_files(tiny_cifar10, tmp_path):
    whole = (tiny_cifar10.archive / "cifar-10-python.tar.gz").read_bytes()
    (tiny_cifar10.files / "cifar-10-python.tar.gz").write_bytes(whole[: len(whole) // 2])
    prepare("cifar10", tmp_path / "data", str(tiny_cifar10.files))
    assert_parts(tmp_path / "data", tiny_cifar10.parts)


def test_the_error_names_what_was_missing_of_either_form(tiny_cifar10, tmp_path):
    missing = tiny_cifar10.files / "cifar-10-batches-py" / "data_batch_4"
    missing.unlink()
    with pytest.raises(DataError) as caught:
        prepare("cifar10", tmp_path / "data", str(tiny_cifar10.files))
    assert str(caught.value) == (
        "cifar10 could not be fetched:\n"
        f"  {tiny_cifar10.files}/cifar-10-python.tar.gz: No such file or directory\n"
        f"  {missing}: No such file or directory\n"
        "To work offline, set STRIATE_MIRROR to a folder or web address that has"
        " cifar-10-python.tar.gz or cifar-10-batches-py/data_batch_1,"
        " or use the data set that needs no network: data.name=digits"
    )
    assert not (tmp_path / "data").exists()


def spoil(path, others, random):
    """Change a published file: cut it, turn a bit, put another in its place, let it grow."""
    content = path.read_bytes()
    place = random.randint(len(content))
    path.write_bytes([
        content[:place],
        content[:place] + bytes([content[place] ^ 1 << random.randint(8)]) + content[place + 1 :],
        others[random.randint(len(others))].read_bytes(),
        content + random.bytes(1 + random.randint(1000)),
        random.bytes(16) + content[16:],
        bytes(len(content)),
        pickle.dumps(Evil()),
    ][random.randint(7)])  # fmt: skip


class Evil:
    """What runs code when a pickle of it is read."""

    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_any_change_of_a_published_file_is_refused_by_name(
    tiny_mnist, tiny_cifar10, digits, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    mirror = {"mnist": tiny_mnist.mirror, "cifar10": tiny_cifar10.files}[name]
    shutil.copytree(digits, tmp_path / "data")
    stored = contents(tmp_path / "data")
    files = [mirror / file.path for file in DATASETS[name].file_sets[-1]]
    for seed in range(50):
        random = np.random.RandomState(seed)
        path = files[random.randint(len(files))]
        before = path.read_bytes()
        spoil(path, [other for other in files if other != path], random)
        with pytest.raises(DataError) as caught:
            prepare(name, tmp_path / "data", str(mirror))
        assert f"{path}: not the published file: " in str(caught.value)
        assert contents(tmp_path / "data") == stored
        path.write_bytes(before)
    assert not Path("executed").exists()
    prepare(name, tmp_path / "data", str(mirror))


# Archives


def member(name, content=None, **fields):
    """An entry of a tar archive: a file with `content`, or what `fields` make of it."""
    header = tarfile.TarInfo(name)
    header.size = len(content or b"")
    for field, value in fields.items():
        setattr(header, field, value)
    return header, content


def pack(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for header, content in members:
            tar.addfile(header, content and io.BytesIO(content))
    return path


def test_an_archive_is_unpacked(tmp_path):
    archive = pack(
        tmp_path / "good.tar.gz",
        member("folder", type=tarfile.DIRTYPE, mode=0o755),
        member("folder/file", b"content"),
        member("folder/link", type=tarfile.SYMTYPE, linkname="file"),
    )
    fetch.extract(archive, tmp_path / "into")
    assert contents(tmp_path / "into") == {"folder/file": b"content", "folder/link": b"content"}


OUTSIDE = {
    "a parent folder": [member("../evil", b"evil")],
    "a parent folder, deeper": [member("good/../../evil", b"evil")],
    "an absolute path": [member("{outside}/evil", b"evil")],
    "a relative link": [member("link", type=tarfile.SYMTYPE, linkname="../evil")],
    "an absolute link": [member("link", type=tarfile.SYMTYPE, linkname="{outside}/evil")],
    "a hard link": [member("link", type=tarfile.LNKTYPE, linkname="../victim")],
    "a file behind a link": [
        member("link", type=tarfile.SYMTYPE, linkname=".."),
        member("link/evil", b"evil"),
    ],
    "a device": [member("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "a pipe": [member("pipe", type=tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_member_that_lies_outside_is_refused(tmp_path, case):
    outside = tmp_path / "outside"
    (outside / "into").mkdir(parents=True)
    (outside / "victim").write_bytes(b"unharmed")
    members = [
        (header.replace(name=header.name.format(outside=outside), deep=False), content)
        for header, content in OUTSIDE[case]
    ]
    for header, _ in members:
        header.linkname = header.linkname.format(outside=outside)
    archive = pack(tmp_path / "bad.tar.gz", *members)
    with pytest.raises(DataError, match=r"^bad\.tar\.gz was refused: "):
        fetch.extract(archive, outside / "into")
    assert contents(outside) == {"victim": b"unharmed"}


def test_a_broken_archive_is_refused(tmp_path):
    noise = np.random.RandomState(0).bytes(30_000)
    whole = pack(tmp_path / "whole.tar.gz", member("file", noise)).read_bytes()
    begun = zlib.compressobj(wbits=31)  # in a gzip envelope
    begun = begun.compress(gzip.decompress(whole)[:20_000]) + begun.flush(zlib.Z_FULL_FLUSH)
    for fault, content in {
        "empty": b"",
        "other": b"not an archive",
        "short": whole[: len(whole) // 2],
        "mangled": begun + b"\xff" * 100,  # no block begins so
    }.items():
        archive = tmp_path / f"{fault}.tar.gz"
        archive.write_bytes(content)
        with pytest.raises(DataError, match=rf"^{fault}\.tar\.gz was refused: "):
            fetch.extract(archive, tmp_path / "into")


@pytest.mark.parametrize(
    "members",
    [
        [member("zeros", bytes(20_001))],
        [member("zeros", bytes(10_000)), member("more", bytes(10_001))],
        [member(f"file{number}", b"x") for number in range(101)],
    ],
)
def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path, monkeypatch, members):
    monkeypatch.setattr(fetch, "MAX_UNPACKED_BYTES", 20_000)
    archive = pack(tmp_path / "bomb.tar.gz", *members)
    with pytest.raises(DataError, match=r"^bomb\.tar\.gz was refused: more than 100 members or"):
        fetch.extract(archive, tmp_path / "into")
    assert sum(map(len, contents(tmp_path / "into").values())) <= 20_000


def test_any_change_of_an_archive_stays_inside_the_folder(tmp_path):
    """Headers with any byte changed are unpacked, or refused by name, and reach nothing else."""
    plain = gzip.decompress(pack(
        tmp_path / "plain.tar.gz",
        member("folder", type=tarfile.DIRTYPE, mode=0o755),
        member("folder/file", b"content", pax_headers={"comment": "kept", "mtime": "1.5"}),
        member("folder/" + "long" * 50, b"more"),
        member("folder/link", type=tarfile.SYMTYPE, linkname="file"),
    ).read_bytes())  # fmt: skip
    outside = tmp_path / "outside"
    outside.mkdir()
    for seed in range(200):
        random = np.random.RandomState(seed)
        changed = bytearray(plain)
        header = 512 * random.choice(
            [n for n in range(len(plain) // 512) if any(plain[n * 512 :][:512])]
        )
        for place in header + random.randint(0, 512, 1 + seed % 4):
            changed[place] = random.randint(256)
        if seed % 2:  # with a checksum that is right, which lets a change pass
            total = sum(changed[header : header + 512]) - sum(changed[header + 148 :][:8]) + 8 * 32
            changed[header + 148 : header + 156] = b"%06o\0 " % total
        archive = tmp_path / "changed.tar.gz"
        archive.write_bytes(gzip.compress(bytes(changed), 1))
        with contextlib.suppress(DataError):
            fetch.extract(archive, outside / "into")
        assert {path.name for path in outside.iterdir()} <= {"into"}
        shutil.rmtree(outside / "into", ignore_errors=True)


def test_an_archive_refused_is_no_data(tiny_cifar10, tmp_path, monkeypatch):
    archive = tiny_cifar10.archive / "cifar-10-python.tar.gz"
    pack(archive, member("../evil", b"evil"))
    file_sets = ((published(archive.name, archive.read_bytes()),),)
    entry = dataclasses.replace(DATASETS["cifar10"], file_sets=file_sets)
    monkeypatch.setitem(DATASETS, "cifar10", entry)
    with pytest.raises(DataError, match=r"^cifar-10-python\.tar\.gz was refused: '\.\./evil'"):
        prepare("cifar10", tmp_path / "data", str(tiny_cifar10.archive))
    assert not (tmp_path / "data").exists()


# Addresses, mirrors and failures, on a data set of six images of four pixels


PIXELS = bytes(range(24))


def read_toy(folder):
    pixels = np.frombuffer((folder / "toy" / "pixels").read_bytes(), np.uint8)
    pixels = pixels.reshape(6, 1, 2, 2)
    labels = np.array([0, 1, 0, 1, 0, 1])
    return LabeledImages(pixels[:4], labels[:4]), LabeledImages(pixels[4:], labels[4:])


@pytest.fixture
def toy(monkeypatch):
    """Put the data set `toy` in the registry; call it to give its file public addresses."""

    def publish(*addresses, **changes):
        entry = Dataset(
            name="toy",
            classes=("even", "odd"),
            shape=(1, 2, 2),
            counts=(4, 2),
            peak=255,
            mean=(0.0294,),
            std=(0.0181,),
            file_sets=((published("toy/pixels", PIXELS, *addresses),),),
            read=read_toy,
            page="https://example.org/toy",
            licence="none",
        )
        monkeypatch.setitem(DATASETS, "toy", dataclasses.replace(entry, **changes))

    publish()
    return publish


@pytest.fixture
def folder_mirror(tmp_path):
    path = tmp_path / "mirror" / "toy" / "pixels"
    path.parent.mkdir(parents=True)
    path.write_bytes(PIXELS)
    return tmp_path / "mirror"


@pytest.fixture(autouse=True)
def no_litter(monkeypatch, tmp_path_factory):
    """Downloads go to a folder of the test's own, which is empty in the end."""
    folder = tmp_path_factory.mktemp("downloads")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that were asked for, in seconds; none is made."""
    asked = []
    monkeypatch.setattr(fetch.time, "sleep", asked.append)
    return asked


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        answers = self.server.answers.get(self.path)
        if answers is None:
            self.send_error(404)
        else:
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            answer(self)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    """Plays what `answers` lists for each path, the last of them for ever."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers = {}
        self.asked = []
        self.closing = threading.Event()

    def handle_error(self, request, address):
        pass  # clients that leave early are meant


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


def reply(body, status=200, size=None, **headers):
    def answer(handler):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body) if size is None else size))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def reset(handler):
    """Break the connection, as a dying server does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def stall(handler):
    handler.server.closing.wait(10)


def chunks_without_an_end(handler):
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"18\r\n" + PIXELS[:10])
    handler.close_connection = True


def without_an_end(handler):
    """Send what a file that never ends would, until the other side hangs up."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(ConnectionError):
        while not handler.server.closing.is_set():
            handler.wfile.write(bytes(1 << 16))


def test_an_endless_answer_leaves_no_more_than_the_file_on_the_disk(
    toy, server, tmp_path, monkeypatch
):
    server.answers["/toy/pixels"] = [without_an_end]
    monkeypatch.setattr(fetch, "CHUNK_BYTES", 10)
    (form,) = DATASETS["toy"].file_sets
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: None)
    with pytest.raises(DataError, match="more than 24 bytes"):
        fetch._fetch_file(form[0], (f"{server.url}/toy/pixels",), tmp_path / "pixels")
    assert (tmp_path / "pixels").stat().st_size <= 24


@pytest.fixture
def closed_port():
    """An address on this machine at which nobody answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def failure(folder, mirror):
    """Prepare `toy` in vain; gives what was tried and checks that nothing was written."""
    with pytest.raises(DataError) as caught:
        prepare("toy", folder, mirror)
    assert not folder.exists()
    first, *tried, last = str(caught.value).splitlines()
    assert first == "toy could not be fetched:"
    assert last == (
        "To work offline, set STRIATE_MIRROR to a folder or web address that has toy/pixels,"
        " or use the data set that needs no network: data.name=digits"
    )
    return [line.removeprefix("  ") for line in tried]


def assert_toy(folder):
    assert sorted(contents(folder)) == [
        "manifest.json", "source.json", "test/images.npy", "test/labels.npy",
        "train/images.npy", "train/labels.npy",
    ]  # fmt: skip
    train, test = load(folder)
    assert train.images.tobytes() + test.images.tobytes() == PIXELS


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_a_mirror_may_be_a_folder_with_or_without_slash(toy, folder_mirror, tmp_path, slashes):
    prepare("toy", tmp_path / "data", f"{folder_mirror}{slashes}")
    assert_toy(tmp_path / "data")


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_a_mirror_may_be_a_web_address_with_or_without_slash(toy, server, tmp_path, slashes):
    server.answers["/base/toy/pixels"] = [reply(PIXELS)]
    prepare("toy", tmp_path / "data", f"{server.url}/base{slashes}")
    assert_toy(tmp_path / "data")
    assert server.asked == ["/base/toy/pixels"]


def test_the_mirror_comes_before_the_public_addresses(toy, server, tmp_path):
    toy(f"{server.url}/public/pixels")
    server.answers["/mirror/toy/pixels"] = server.answers["/public/pixels"] = [reply(PIXELS)]
    prepare("toy", tmp_path / "one", f"{server.url}/mirror")
    assert server.asked == ["/mirror/toy/pixels"]
    del server.answers["/mirror/toy/pixels"]
    prepare("toy", tmp_path / "two", f"{server.url}/mirror")
    assert server.asked == ["/mirror/toy/pixels", "/mirror/toy/pixels", "/public/pixels"]
    prepare("toy", tmp_path / "three", None)
    prepare("toy", tmp_path / "four", "")
    assert server.asked[3:] == ["/public/pixels", "/public/pixels"]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert_toy(tmp_path / "one")


def test_the_second_public_address_is_tried_when_the_first_fails(toy, server, tmp_path, pauses):
    toy(f"{server.url}/first", f"{server.url}/second")
    server.answers |= {"/first": [reply(b"wrong")], "/second": [reply(PIXELS)]}
    prepare("toy", tmp_path / "data", None)
    assert_toy(tmp_path / "data")
    assert server.asked == ["/first", "/second"]
    assert pauses == []


def test_a_redirect_to_a_web_address_is_followed(toy, server, tmp_path):
    server.answers["/toy/pixels"] = [reply(b"", 302, Location=f"{server.url}/moved")]
    server.answers["/moved"] = [reply(PIXELS)]
    prepare("toy", tmp_path / "data", server.url)
    assert_toy(tmp_path / "data")


REFUSALS = {
    "absent": (None, "the server answered 404 Not Found"),
    "broken server": (reply(b"", 500), "the server answered 500 Internal Server Error"),
    "wrong bytes": (
        reply(PIXELS[::-1]),
        f"not the published file: SHA-256 {sha256(PIXELS[::-1])}, not {sha256(PIXELS)}",
    ),
    "nothing": (reply(b""), "not the published file: 0 bytes, not 24"),
    "cut half-way": (
        reply(PIXELS[:12], size=24),
        "not the published file: 12 bytes, not 24",
    ),
    "one byte more": (reply(PIXELS + b"x"), "not the published file: more than 24 bytes"),
    "no end": (without_an_end, "not the published file: more than 24 bytes"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_an_answer_that_is_not_the_file_is_named_and_never_used(
    toy, server, tmp_path, pauses, case
):
    answer, reason = REFUSALS[case]
    if answer:
        server.answers["/toy/pixels"] = [answer]
    assert failure(tmp_path / "data", server.url) == [f"{server.url}/toy/pixels: {reason}"]
    assert server.asked == ["/toy/pixels"]
    assert pauses == []


def test_a_redirect_to_a_local_file_is_refused(toy, server, tmp_path):
    server.answers["/toy/pixels"] = [reply(b"", 302, Location="file:///etc/hostname")]
    (line,) = failure(tmp_path / "data", server.url)
    assert line.startswith(f"{server.url}/toy/pixels: the server answered 302 Found")
    assert "file:///etc/hostname' is not allowed" in line


def test_a_connection_that_breaks_is_tried_again(toy, server, tmp_path, pauses):
    server.answers["/toy/pixels"] = [reset, chunks_without_an_end, reply(PIXELS)]
    prepare("toy", tmp_path / "data", server.url)
    assert_toy(tmp_path / "data")
    assert server.asked == ["/toy/pixels"] * 3
    assert pauses == [fetch.PAUSE_SECONDS, 2 * fetch.PAUSE_SECONDS]


@pytest.mark.parametrize(
    ("answer", "reason"), [(stall, "timed out"), (chunks_without_an_end, "IncompleteRead")]
)
def test_a_connection_that_breaks_every_time_is_named(
    toy, server, tmp_path, monkeypatch, answer, reason
):
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.1)
    server.answers["/toy/pixels"] = [answer]
    (line,) = failure(tmp_path / "data", server.url)
    assert line.startswith(f"{server.url}/toy/pixels: {reason}")
    assert line.endswith(f"({fetch.ATTEMPTS} attempts)")
    assert server.asked == ["/toy/pixels"] * fetch.ATTEMPTS


def test_every_address_is_named_with_its_reason(toy, server, closed_port, tmp_path, pauses):
    toy(f"{closed_port}/one", f"{server.url}/two", f"{closed_port}/three")
    refused = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    refused = f"{refused} ({fetch.ATTEMPTS} attempts)"
    assert failure(tmp_path / "data", str(tmp_path / "nowhere")) == [
        f"{tmp_path}/nowhere/toy/pixels: No such file or directory",
        f"{closed_port}/one: {refused}",
        f"{server.url}/two: the server answered 404 Not Found",
        f"{closed_port}/three: {refused}",
    ]
    once = [fetch.PAUSE_SECONDS * attempt for attempt in range(1, fetch.ATTEMPTS)]
    assert pauses == once * 2


def test_a_file_without_public_addresses_is_sought_in_the_mirror_only(toy, tmp_path):
    assert failure(tmp_path / "data", str(tmp_path)) == [
        f"{tmp_path}/toy/pixels: No such file or directory"
    ]


def test_a_mirror_that_is_no_address_is_named(toy, tmp_path):
    mirror = "http://[bad"
    assert failure(tmp_path / "data", mirror) == [f"{mirror}/toy/pixels: Invalid IPv6 URL"]


@pytest.mark.parametrize("mirror", ["s3://bucket", "ftp://host/folder", "file:///etc"])
def test_a_mirror_of_another_kind_is_refused_at_once(toy, tmp_path, mirror):
    with pytest.raises(DataError) as caught:
        prepare("toy", tmp_path / "data", mirror)
    assert str(caught.value) == (
        f"STRIATE_MIRROR is {mirror}; it must be a folder or an http(s) address"
    )
    assert not (tmp_path / "data").exists()


def test_a_corrupt_file_in_a_folder_is_named(toy, folder_mirror, tmp_path):
    (folder_mirror / "toy" / "pixels").write_bytes(PIXELS[:-1])
    assert failure(tmp_path / "data", str(folder_mirror)) == [
        f"{folder_mirror}/toy/pixels: not the published file: 23 bytes, not 24"
    ]


def test_a_folder_in_the_place_of_a_file_is_named(toy, folder_mirror, tmp_path):
    (folder_mirror / "toy" / "pixels").unlink()
    (folder_mirror / "toy" / "pixels").mkdir()
    assert failure(tmp_path / "data", str(folder_mirror)) == [
        f"{folder_mirror}/toy/pixels: Is a directory"
    ]


# What is stored, or is not


def test_new_data_replaces_all_of_the_old(toy, folder_mirror, digits, tmp_path):
    shutil.copytree(digits, tmp_path / "data")
    (tmp_path / "data" / "train" / "stray.npy").touch()
    prepare("toy", tmp_path / "data", str(folder_mirror))
    assert_toy(tmp_path / "data")
    assert arrays.load_manifest(tmp_path / "data")["name"] == "toy"


def test_a_failure_leaves_existing_data_as_they_were(toy, digits, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(digits, folder)
    before = contents(folder)
    with pytest.raises(DataError, match="toy could not be fetched"):
        prepare("toy", folder, str(tmp_path / "nowhere"))
    toy(read=lambda folder: (LabeledImages(np.zeros(0), np.zeros(0)),) * 2, file_sets=((),))
    with pytest.raises(DataError, match="toy: the train images"):
        prepare("toy", folder, None)
    assert contents(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == FILES


def test_a_file_that_cannot_be_written_in_full_leaves_existing_data_as_they_were(digits, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(digits, folder)
    before = contents(folder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(UserError, match=r"data cannot be written: File too large$"):
            prepare("digits", folder, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == FILES


@pytest.mark.parametrize("taken", ["data", "data/train", "data/manifest.json", "data/source.json"])
def test_what_lies_in_the_place_of_the_data_is_named(toy, folder_mirror, tmp_path, taken):
    path = tmp_path / taken
    if taken.endswith(".json"):
        (path / "folder").mkdir(parents=True)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("in the way")
    with pytest.raises(UserError, match="data cannot be written: "):
        prepare("toy", tmp_path / "data", str(folder_mirror))
    assert path.exists()
    assert list(tmp_path.rglob(".partial-*")) == []


TRAIN = LabeledImages(np.zeros((4, 1, 2, 2), np.uint8), np.array([0, 1, 0, 1]))
TEST = LabeledImages(np.zeros((2, 1, 2, 2), np.uint8), np.array([0, 1]))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "train",
            {"images": np.zeros((4, 1, 3, 3), np.uint8)},
            "images are uint8 (4, 1, 3, 3), not uint8 (4, 1, 2, 2)",
        ),
        (
            "train",
            {"images": np.zeros((4, 2, 2), np.uint8)},
            "images are uint8 (4, 2, 2), not uint8 (4, 1, 2, 2)",
        ),
        (
            "train",
            {"images": TRAIN.images[:3]},
            "images are uint8 (3, 1, 2, 2), not uint8 (4, 1, 2, 2)",
        ),
        (
            "test",
            {"images": np.zeros((2, 1, 2, 2), np.float32)},
            "images are float32 (2, 1, 2, 2), not uint8 (2, 1, 2, 2)",
        ),
        (
            "test",
            {"labels": np.array([0, 1, 1])},
            "labels are (3,) with classes [0, 1], not (2,) with every class from 0 to 1",
        ),
        (
            "train",
            {"labels": np.array([0, 1, 2, 1])},
            "labels are (4,) with classes [0, 1, 2], not (4,) with every class from 0 to 1",
        ),
        (
            "train",
            {"labels": np.array([0, 1, -1, 1])},
            "labels are (4,) with classes [-1, 0, 1], not (4,) with every class from 0 to 1",
        ),
        (
            "test",
            {"labels": np.array([1, 1])},
            "labels are (2,) with classes [1], not (2,) with every class from 0 to 1",
        ),
        (
            "test",
            {"labels": np.array([[0, 1]])},
            "labels are (1, 2) with classes [0, 1], not (2,) with every class from 0 to 1",
        ),
    ],
)
def test_arrays_that_are_not_what_the_registry_says_are_refused(
    toy, tmp_path, part, changes, message
):
    parts = {"train": TRAIN, "test": TEST}
    parts[part] = parts[part]._replace(**changes)
    toy(file_sets=((),), read=lambda folder: tuple(parts.values()))
    with pytest.raises(DataError) as caught:
        prepare("toy", tmp_path / "data", None)
    assert str(caught.value) == f"toy: the {part} {message}"
    assert not (tmp_path / "data").exists()


# The stage


@pytest.fixture
def workplace(monkeypatch, tmp_path):
    """Enter a folder with a params.yaml; call it to choose the data set."""
    folder = tmp_path / "workplace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    values = yaml.safe_load((ROOT / "params.yaml").read_text())

    def choose(name):
        values["data"]["name"], values["model"]["layers"] = name, 1  # toy images are small
        (folder / "params.yaml").write_text(yaml.safe_dump(values))
        return folder

    return choose


def run_stage(folder, **environment):
    """Run the stage as DVC does."""
    return subprocess.run(
        [sys.executable, ROOT / "stages" / "download.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run_stage_here():
    """Run the stage inside this process, where the registry has small entries."""
    runpy.run_path(str(ROOT / "stages" / "download.py"), run_name="__main__")


def test_the_stage_stores_the_data_set_that_params_name(workplace, digits):
    folder = workplace("digits")
    answer = run_stage(folder)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == "digits: 1,437 training and 360 test images in data/\n"
    assert sorted(path.name for path in folder.iterdir()) == ["data", "params.yaml"]
    assert contents(folder / "data") == contents(digits)


@pytest.mark.slow
def test_the_stage_finds_a_relative_mirror_from_the_root_that_dvc_names(
    workplace, mirror, mnist, tmp_path
):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mirror").symlink_to(mirror)
    folder = workplace("mnist")
    answer = run_stage(folder, DVC_ROOT=str(tmp_path / "root"), STRIATE_MIRROR="mirror")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == "mnist: 60,000 training and 10,000 test images in data/\n"
    assert contents(folder / "data") == contents(mnist)


def test_a_relative_mirror_starts_at_the_root_that_dvc_names(
    tiny_mnist, workplace, monkeypatch, capsys
):
    folder = workplace("mnist")
    monkeypatch.setenv("STRIATE_MIRROR", tiny_mnist.mirror.name)
    with pytest.raises(SystemExit) as caught:
        run_stage_here()
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[:2] == [
        "error: mnist could not be fetched:",
        "  mirror/MNIST/raw/train-images-idx3-ubyte.gz: No such file or directory",
    ]
    assert not (folder / "data").exists()
    monkeypatch.setenv("DVC_ROOT", str(tiny_mnist.mirror.parent))
    run_stage_here()
    assert_parts(folder / "data", tiny_mnist.parts)


def test_a_relative_mirror_starts_here_where_dvc_names_no_root(tiny_mnist, workplace, monkeypatch):
    folder = workplace("mnist")
    monkeypatch.setenv("STRIATE_MIRROR", "../mirror")
    run_stage_here()
    assert_parts(folder / "data", tiny_mnist.parts)


def test_an_absolute_mirror_or_a_web_address_is_taken_as_it_is(
    toy, folder_mirror, server, workplace, monkeypatch
):
    folder = workplace("digits")
    monkeypatch.setitem(DATASETS, "digits", DATASETS["toy"])
    monkeypatch.setenv("DVC_ROOT", "/nowhere")
    monkeypatch.setenv("STRIATE_MIRROR", str(folder_mirror))
    run_stage_here()
    assert_toy(folder / "data")
    server.answers["/toy/pixels"] = [reply(PIXELS)]
    monkeypatch.setenv("STRIATE_MIRROR", f"{server.url}/")
    run_stage_here()
    assert server.asked == ["/toy/pixels"]
    assert_toy(folder / "data")
