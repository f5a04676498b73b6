"""Stored splits, normalisation, batches and augmentation."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from striate import images
from striate.errors import UserError

MANIFEST = {"peak": 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.1, 0.25]}


def settings(**changes):
    return SimpleNamespace(**{"translate": 0, "flip": False, "rotate": 0, "cutout": 0} | changes)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def split(count, shape=(1, 4, 4)):
    values = torch.arange(count * int(np.prod(shape))).reshape(count, *shape) % 256
    return images.Split(values.to(torch.uint8), torch.arange(count) % 3)


def test_unit_normalisation_is_that_of_totensor_to_the_last_bit():
    from torchvision.transforms import ToTensor

    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    ours = images.normalization(MANIFEST, "unit")(pixels)
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
    scaled = images.normalization(manifest, "standard")(pixels).double()
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        scaled.std((0, 2, 3), correction=0), torch.ones(3).double(), rtol=0, atol=1e-6
    )


def test_batches_hold_every_image_once_in_an_order_drawn_by_seed():
    batches = list(images.shuffled_batches(split(10), 4, generator()))
    assert [len(batch.labels) for batch in batches] == [4, 4, 2]
    seen = torch.cat([batch.images[:, 0, 0, 0] for batch in batches])
    assert sorted(seen.tolist()) == sorted(split(10).images[:, 0, 0, 0].tolist())
    again = torch.cat([b.labels for b in images.shuffled_batches(split(10), 4, generator())])
    other = torch.cat([b.labels for b in images.shuffled_batches(split(10), 4, generator(1))])
    first = torch.cat([b.labels for b in batches])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_hold_out_divides_the_images_and_keeps_pairs_together():
    everything = split(30)
    train, val = images.hold_out(everything, 0.2, seed=0)
    assert (len(train.labels), len(val.labels)) == (24, 6)
    assert torch.bincount(val.labels).tolist() == [2, 2, 2]
    pairs = {(int(i[0, 0, 0]), int(k)) for i, k in zip(*everything, strict=True)}
    kept = {(int(i[0, 0, 0]), int(k)) for part in (train, val) for i, k in zip(*part, strict=True)}
    assert kept == pairs


def test_hold_out_of_nothing_trains_on_everything():
    everything = split(9)
    assert images.hold_out(everything, 0, seed=0) == (everything, None)
    assert images.hold_out(everything, 0.01, seed=0)[1] is None


def test_hold_out_of_everything_names_the_key():
    with pytest.raises(UserError, match=r"data.val_size is 9: 9 of 9 images leave none over"):
        images.hold_out(split(9), 9, seed=0)


def test_no_augmentation_leaves_the_images_alone():
    inputs = torch.rand(5, 3, 8, 8)
    assert images.augment(inputs, settings(), generator()) is inputs


def test_flip_mirrors_about_half_of_the_images():
    inputs = torch.rand(400, 1, 4, 4)
    out = images.augment(inputs, settings(flip=True), generator())
    mirrored = [torch.equal(a, b.flip(2)) for a, b in zip(out, inputs, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, inputs, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


def test_translate_shifts_each_image_by_whole_pixels_with_a_reflected_border():
    inputs = torch.rand(300, 2, 6, 7)
    out = images.augment(inputs, settings(translate=2), generator())
    padded = torch.nn.functional.pad(inputs, [2] * 4, mode="reflect")
    shifts = set()
    for image, source in zip(out, padded, strict=True):
        places = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if torch.equal(image, source[:, row : row + 6, column : column + 7])
        ]
        assert len(places) == 1
        shifts.add(places[0])
    assert len(shifts) == 25


def test_cutout_zeroes_one_square_inside_each_image():
    out = images.augment(torch.ones(200, 3, 9, 8), settings(cutout=3), generator())
    assert ((out == 0).sum((2, 3)) == 9).all()
    holes = (out[:, 0] == 0).float()
    assert (holes.amax(2).sum(1) == 3).all()
    assert (holes.amax(1).sum(1) == 3).all()
    assert len({tuple(hole.flatten().tolist()) for hole in holes}) == 7 * 6


def test_rotate_turns_about_the_centre_within_the_bounds():
    yy, xx = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    bar = ((yy.abs() < 1.5) & (xx > 0)).float()[None, None].repeat(200, 1, 1, 1)
    out = images.augment(bar, settings(rotate=30), generator())[:, 0]
    mass = out.sum((1, 2))
    angles = torch.rad2deg(
        torch.atan2((out * yy).sum((1, 2)) / mass, (out * xx).sum((1, 2)) / mass)
    )
    assert angles.abs().max() < 31
    assert angles.min() < -20
    assert angles.max() > 20


def test_augmentation_is_drawn_by_seed():
    inputs = torch.rand(8, 1, 8, 8)
    every = settings(translate=2, flip=True, rotate=10, cutout=2)
    first, again, other = (images.augment(inputs, every, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == inputs.shape


@pytest.mark.parametrize(("key", "most"), [("translate", 7), ("cutout", 8)])
def test_lengths_that_do_not_fit_the_images_name_the_key(key, most):
    images.check_augment(settings(**{key: most}), (1, 8, 9))
    images.augment(torch.rand(2, 1, 8, 9), settings(**{key: most}), generator())
    with pytest.raises(UserError, match=f"augment.{key} is {most + 1}, .* value is {most}$"):
        images.check_augment(settings(**{key: most + 1}), (1, 8, 9))


def test_an_absent_device_is_refused_with_those_that_are_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert images.pick_device("auto").type == "cpu"
    with pytest.raises(UserError, match="training.device is cuda.*one of auto, cpu$"):  # noqa: RUF043
        images.pick_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert images.pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert images.pick_device("auto").type == "cuda"


def test_missing_or_broken_arrays_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        images.load_split(tmp_path, torch.device("cpu"))
    np.save(tmp_path / "images.npy", np.zeros((2, 1, 4, 4), np.uint8))
    (tmp_path / "labels.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=f"{tmp_path} cannot be read"):
        images.load_split(tmp_path, torch.device("cpu"))
    with pytest.raises(UserError, match=r"manifest.json is not there; `dvc repro` makes it"):
        images.load_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json cannot be read"):
        images.load_manifest(tmp_path)
