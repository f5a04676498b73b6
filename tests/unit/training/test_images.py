"""Stored splits, normalisation, batches and augmentation."""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from striate.config import validation
from striate.data import arrays, tensors
from striate.datasets import fetch, registry
from striate.errors import UserError
from striate.models import devices, normalization
from striate.training import augmentation

MANIFEST = {"peak": 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.1, 0.25]}


def settings(**changes):
    return SimpleNamespace(
        **{"translate": 0, "rotate": 0, "zoom": 0, "cutout": 0, "shrink": 0} | changes
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def split(count, shape=(1, 4, 4)):
    values = torch.arange(count * int(np.prod(shape))).reshape(count, *shape) % 256
    return tensors.Split(values.to(torch.uint8), torch.arange(count) % 3)


def test_unit_normalisation_is_that_of_totensor_to_the_last_bit():
    from torchvision.transforms import ToTensor

    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    ours = normalization.pick_normalization(MANIFEST, "unit")(pixels)
    theirs = ToTensor()(pixels[0].permute(1, 2, 0).numpy())
    assert torch.equal(ours[0], theirs)


def test_standard_normalisation_gives_mean_0_and_deviation_1():
    pixels = torch.randint(0, 256, (50, 3, 8, 8), generator=generator(), dtype=torch.uint8)
    unit = pixels.double() / 255
    manifest = {
        "peak": 255,
        "mean": unit.mean((0, 2, 3)).tolist(),
        "std": unit.std((0, 2, 3), correction=0).tolist(),
    }
    scaled = normalization.pick_normalization(manifest, "standard")(pixels).double()
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        scaled.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=0, atol=1e-6
    )


def test_hold_out_divides_the_images_and_keeps_pairs_together():
    everything = split(30)
    train, val = tensors.train_val_split(everything, 0.2, seed=0)
    assert (len(train.labels), len(val.labels)) == (24, 6)
    assert torch.bincount(val.labels).tolist() == [2, 2, 2]
    pairs = {(int(i[0, 0, 0]), int(k)) for i, k in zip(*everything, strict=True)}
    kept = {(int(i[0, 0, 0]), int(k)) for part in (train, val) for i, k in zip(*part, strict=True)}
    assert kept == pairs


def test_hold_out_of_nothing_trains_on_everything():
    everything = split(9)
    assert tensors.train_val_split(everything, 0, seed=0) == (everything, None)
    assert tensors.train_val_split(everything, 0.01, seed=0)[1] is None


def test_hold_out_of_everything_names_the_key():
    with pytest.raises(
        UserError, match=r"data.val_size is 9: 9 of 9 images leave none for training"
    ):
        tensors.train_val_split(split(9), 9, seed=0)


def augment(pixels, changes, seed=0, flipped=None, shrunk=False):
    """Every image augmented, as floats that hold the pixels' own values."""
    every = torch.arange(len(pixels))
    random = augmentation.BatchRandom(generator(seed), len(pixels), slice(None))
    return augmentation.augment(
        pixels, every, flipped, torch.Tensor.float, settings(**changes), random, shrunk=shrunk
    )


def noise(*shape):
    return torch.randint(0, 256, shape, generator=generator(7), dtype=torch.uint8)


def test_without_augmentation_the_chosen_images_are_normalised():
    pixels = noise(9, 3, 8, 8)
    normalize = normalization.pick_normalization(MANIFEST, "standard")
    chosen = torch.tensor([4, 0, 8])
    random = augmentation.BatchRandom(generator(), 3, slice(None))
    taken = augmentation.augment(pixels, chosen, None, normalize, settings(), random)
    assert torch.equal(taken, normalize(pixels[chosen]))


@pytest.mark.parametrize("mode", ["unit", "standard"])
def test_normalisation_does_not_depend_on_the_memory_format(mode):
    pixels, normalize = noise(5, 3, 6, 7), normalization.pick_normalization(MANIFEST, mode)
    innermost = normalize(pixels.contiguous(memory_format=torch.channels_last))
    assert torch.equal(innermost, normalize(pixels))
    assert innermost.is_contiguous(memory_format=torch.channels_last)


def test_the_images_that_are_named_are_flipped():
    pixels = noise(400, 1, 4, 4)
    flipped = augmentation.draw_flipped(400, generator())
    assert 150 < int(flipped.sum()) < 250
    out = augment(pixels, {}, flipped=flipped)
    expected = torch.where(flipped[:, None, None, None], pixels.flip(3), pixels)
    assert torch.equal(out, expected.float())


def test_translate_shifts_each_image_by_whole_pixels_with_a_reflected_border():
    pixels = noise(300, 2, 6, 7)
    out = augment(pixels, {"translate": 2})
    padded = torch.nn.functional.pad(pixels.float(), [2] * 4, mode="reflect")
    shifts = set()
    for image, source in zip(out, padded, strict=True):
        corners = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if torch.equal(image, source[:, row : row + 6, column : column + 7])
        ]
        assert len(corners) == 1
        shifts.add(corners[0])
    assert len(shifts) == 25


def test_shrinking_keeps_what_the_image_shows():
    pixels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    pixels[0, :, :4] = 200
    out = augment(pixels, {"shrink": 4}, shrunk=True)
    assert out.shape == (2, 1, 4, 4)
    assert out[0, 0, :, 0].tolist() == [200, 200, 0, 0]
    assert torch.equal(augment(pixels, {"shrink": 4}), pixels.float())


def test_cutout_zeroes_one_square_inside_each_image():
    out = augment(torch.ones(200, 3, 9, 8, dtype=torch.uint8), {"cutout": 3})
    assert ((out == 0).sum((2, 3)) == 9).all()
    holes = (out[:, 0] == 0).float()
    assert (holes.amax(2).sum(1) == 3).all()
    assert (holes.amax(1).sum(1) == 3).all()
    assert len({tuple(hole.flatten().tolist()) for hole in holes}) == 7 * 6


def test_rotate_turns_about_the_centre_within_the_bounds():
    yy, xx = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    bar = ((yy.abs() < 1.5) & (xx > 0)).byte()[None, None].repeat(200, 1, 1, 1)
    out = augment(bar, {"rotate": 30})[:, 0]
    mass = out.sum((1, 2))
    angles = torch.rad2deg(
        torch.atan2((out * yy).sum((1, 2)) / mass, (out * xx).sum((1, 2)) / mass)
    )
    assert angles.abs().max() < 31
    assert angles.min() < -20
    assert angles.max() > 20


def test_zoom_scales_about_the_centre_within_the_bounds():
    pixels = torch.zeros(300, 1, 32, 32, dtype=torch.uint8)
    pixels[:, :, 8:24, 8:24] = 200
    out = augment(pixels, {"zoom": 0.25})[:, 0] / 200
    sides = out.sum((1, 2)).sqrt()
    assert sides.min() > 16 / 1.25 - 0.5
    assert sides.max() < 16 / 0.75 + 0.5
    assert sides.max() - sides.min() > 6
    torch.testing.assert_close(out, out.flip(1, 2), rtol=0, atol=1e-4)


def test_augmentation_is_drawn_by_seed():
    pixels, flipped = noise(8, 1, 8, 8), augmentation.draw_flipped(8, generator())
    every = {"translate": 2, "rotate": 10, "zoom": 0.1, "cutout": 2}
    first, again, other = (augment(pixels, every, seed, flipped) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == pixels.shape


@pytest.mark.parametrize(("key", "most"), [("translate", 7), ("cutout", 8), ("shrink", 8)])
def test_lengths_that_do_not_fit_the_images_name_the_key(key, most):
    validation.check_augment(settings(**{key: most}), (1, 8, 9))
    assert augment(noise(2, 1, 8, 9), {key: most}, shrunk=key == "shrink").isfinite().all()
    with pytest.raises(UserError, match=f"augment.{key} is {most + 1}, .* value is {most}$"):
        validation.check_augment(settings(**{key: most + 1}), (1, 8, 9))


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A small data set as `prepare` stores it, and the change of it to make."""
    monkeypatch.chdir(tmp_path)
    entry = dataclasses.replace(
        registry.DATASETS["digits"], classes=("a", "b"), shape=(1, 4, 4), counts=(6, 2),
        read=lambda folder: (
            arrays.LabeledImages(np.zeros((6, 1, 4, 4), np.uint8), np.array([0, 1, 0, 1, 1, 0])),
            arrays.LabeledImages(np.zeros((2, 1, 4, 4), np.uint8), np.array([0, 1])),
        ),
    )  # fmt: skip
    monkeypatch.setitem(registry.DATASETS, "toy", entry)
    fetch.prepare("toy", Path("data"), None)

    def put(name, content, **changes):
        """Replace an array of the training part and what the manifest says of it."""
        path = Path("data/train", name)
        np.save(path, content) if isinstance(content, np.ndarray) else path.write_bytes(content)
        manifest = json.loads(Path("data/manifest.json").read_text())
        manifest["train"]["sha256"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest["train"] |= changes
        Path("data/manifest.json").write_text(json.dumps(manifest))

    return put


def read(part="train"):
    return tensors.load_split(Path("data"), part, torch.device("cpu"))


def test_what_was_stored_is_read(stored):
    assert (read().images.shape, read("test").images.shape) == ((6, 1, 4, 4), (2, 1, 4, 4))
    assert read().labels.tolist() == [0, 1, 0, 1, 1, 0]


def test_missing_or_changed_arrays_are_named(stored):
    path = Path("data/train/images.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"^data/train/images.npy cannot be read: it is not the"):
        read()
    path.unlink()
    with pytest.raises(UserError, match=r"^data/train/images.npy .*No such file.*`dvc repro`"):
        read()
    path.mkdir()
    with pytest.raises(UserError, match=r"^data/train/images.npy .*Is a directory"):
        read()


HUGE = b"\x93NUMPY\x01\x00v\x00" + (
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (6, 1, 4000000, 4000000), }".ljust(117)
    + b"\n"
)
LABELS = np.array([0, 1, 0, 1, 1, 0])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("images.npy", np.zeros((6, 4, 4), np.uint8), r"it holds uint8 \(6, 4, 4\), not what"),
        ("images.npy", np.zeros((6, 1, 4, 4)), r"it holds float64"),
        ("images.npy", np.array([{}]), "Python objects"),
        ("images.npy", HUGE, "mmap length is greater than file size"),
        ("images.npy", b"", "cannot be read"),
        ("images.npy", b"PK\x03\x04", "cannot be read"),
        ("images.npy", b"\x93NUMPY", "cannot be read"),
        ("images.npy", HUGE[:80], "cannot be read"),
        ("images.npy", HUGE.replace(b"(", b"["), "cannot be read"),
        ("labels.npy", LABELS[:5], r"it holds int64 \(5,\), not what"),
        ("labels.npy", LABELS.astype(np.int32), "it holds int32"),
        ("labels.npy", LABELS * 10**15, "has other counts of classes than data/manifest.json"),
        ("labels.npy", LABELS - 1, "has other counts of classes than data/manifest.json"),
        ("labels.npy", LABELS * 0, "has other counts of classes than data/manifest.json"),
    ],
)
def test_arrays_that_the_manifest_names_and_that_are_something_else(stored, name, content, said):
    stored(name, content)
    with pytest.raises(UserError, match=rf"^data/train/{name} .*{said}"):
        read()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": 3}, "the name of the data set must be printable text"),
        ({"name": "\x1b[31m"}, "the name of the data set must be printable text"),
        ({"shape": [1, 4]}, "shape must be 3 whole numbers"),
        ({"shape": [1, 4, "4"]}, "shape must be 3 whole numbers"),
        ({"shape": [1, 0, 4]}, "shape must be 3 whole numbers"),
        ({"classes": []}, "classes must be a list of names"),
        ({"classes": "ab"}, "classes must be a list of names"),
        ({"peak": 0}, "peak must be a whole number from 1 to 255"),
        ({"peak": 16.0}, "peak must be a whole number from 1 to 255"),
        ({"mean": [0.1, 0.1]}, "mean must be a list of numbers from 0 to 1, one for each"),
        ({"std": [0.0]}, "std must be above 0"),
        ({"train": {}}, "train must have the keys count, per_class, sha256"),
        ({"test": {"count": 2, "per_class": [2, 0], "sha256": {}}}, "test.per_class must be"),
        ({"test": {"count": 3, "per_class": [1, 1], "sha256": {}}}, "test.count must be the sum"),
        ({"test": {"count": 2, "per_class": [1, 1], "sha256": {}}}, "test.sha256 must have"),
        ({"more": 1}, "its keys must be classes, frame, mean"),
    ],
)
def test_a_faulty_manifest_names_the_key(stored, changes, said):
    path = Path("data/manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=f"^data/manifest.json: {said}.*`dvc repro`"):
        read()


def test_a_manifest_that_is_missing_or_no_json_object_is_named(stored):
    path = Path("data/manifest.json")
    for content in (b"{", b"\xff", b"[]", b"[" * 100_000, b"9" * 10_000):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"^data/manifest.json (cannot|is not valid|must hold)"):
            arrays.load_manifest(Path("data"))
    path.unlink()
    with pytest.raises(UserError, match=r"^data/manifest.json is not there; `dvc repro` makes it"):
        arrays.load_manifest(Path("data"))


@pytest.mark.parametrize("mean", [None, [0.5]])
def test_normalising_leaves_its_input_as_it_was(mean):
    pixels = torch.rand(2, 1, 3, 3) * 255
    before = pixels.clone()
    normalize = normalization.Normalization(255, mean, mean)
    first = normalize(pixels)
    assert torch.equal(pixels, before)
    assert torch.equal(normalize(pixels), first)


@pytest.mark.parametrize("changes", [{"translate": 1}, {}])
def test_where_channels_last_trains_wrongly_a_batch_has_channels_outermost(changes, monkeypatch):
    images = split(20, (3, 8, 8)).images.contiguous(memory_format=torch.channels_last)
    normalize = normalization.pick_normalization(MANIFEST, "standard")

    def batch():
        random = augmentation.BatchRandom(generator(), 5, slice(0, 5))
        return augmentation.augment(
            images, torch.arange(5), None, normalize, settings(**changes), random
        )

    usual = batch()
    assert not usual.is_contiguous()
    monkeypatch.setattr(devices, "needs_contiguous", lambda _: True)
    assert batch().is_contiguous()
    assert torch.equal(batch(), usual)
