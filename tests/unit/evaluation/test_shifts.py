"""Corruptions: against hand-made results, in order of severity, and the same for everybody."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image

from striate.data.tensors import Split
from striate.evaluation import shifts
from striate.evaluation.shifts import CORRUPTIONS, SEVERITIES
from striate.models.normalization import Normalization

COLOUR, DIGIT, TINY = (3, 32, 32), (1, 28, 28), (1, 8, 8)


def drawings(shape, count=20):
    """Bright strokes on a dark ground, uint8 (count, *shape) from 0 to 255."""
    height, width = shape[1:]
    images = torch.zeros(count, *shape, dtype=torch.uint8)
    for number in range(count):
        column = width // 4 + number % (width // 2)
        images[number, :, height // 8 : -height // 8, column : column + 1 + width // 12] = 230
        images[number, 0, height // 2] = 120
    return images


def once(images, name, strength, **drawn):
    """A corruption of images from 0 to 1 with given draws."""
    count, _, height, width = images.shape
    every = {
        "normal": torch.zeros_like(images), "uniform": torch.full((count, 1, height, width), 0.5),
        "place": torch.full((count, 2), 0.5),
    }  # fmt: skip
    return CORRUPTIONS[name].apply(images, strength, shifts.Draws(**every | drawn))


@pytest.mark.parametrize("shape", [COLOUR, DIGIT, TINY, (3, 20, 30)])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_more_severe_images_are_further_from_the_original(name, shape):
    images = drawings(shape)
    drawn = shifts.draws(images)
    distances = []
    for severity in range(1, SEVERITIES + 1):
        changed = shifts.corrupt(images, 255, name, severity, drawn)
        assert (changed.shape, changed.dtype) == (images.shape, torch.uint8)
        distances.append((changed.float() - images.float()).square().mean().item())
    assert distances[-1] > 0
    # Of a few pixels, neighbouring severities may round to the same change.
    assert distances[0] < distances[-1]
    if shape in (COLOUR, DIGIT) and name != "pixelation":  # whose squares may fit a stroke well
        assert distances == sorted(distances)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_values_stay_in_the_range_of_the_data(name):
    images = drawings(TINY) // 16
    drawn = shifts.draws(images)
    for severity in (1, SEVERITIES):
        assert shifts.corrupt(images, 16, name, severity, drawn).max() <= 16


def test_images_are_the_same_for_everybody():
    images = drawings(DIGIT)
    torch.manual_seed(3)
    first = shifts.corrupt(images, 255, "noise", 3, shifts.draws(images))
    torch.manual_seed(4)
    assert first.equal(shifts.corrupt(images, 255, "noise", 3, shifts.draws(images)))


def test_noise_has_its_deviation():
    images = torch.full((50, 1, 28, 28), 128, dtype=torch.uint8)
    changed = shifts.corrupt(images, 255, "noise", 2, shifts.draws(images))
    assert (changed / 255).std().item() == pytest.approx(0.08, rel=0.02)


def test_specks_are_half_black_and_half_white():
    images = torch.full((100, 3, 32, 32), 128, dtype=torch.uint8)
    changed = shifts.corrupt(images, 255, "specks", 5, shifts.draws(images))
    assert [(changed == value).float().mean().item() for value in (0, 255)] == pytest.approx(
        [0.1, 0.1], abs=0.005
    )
    assert (changed.amin(1) == changed.amax(1)).all()  # all channels of a pixel


def test_a_blurred_point_is_a_gaussian():
    images = torch.zeros(1, 1, 33, 33)
    images[0, 0, 16, 16] = 1
    deviation = 1.5 * 33 / 32
    found = once(images, "blur", 1.5)[0, 0]
    offsets = torch.arange(-16, 17)
    expected = torch.exp(-0.5 * (offsets / deviation) ** 2)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    ratio = found[16] / found[16, 16]
    assert torch.allclose(ratio[11:22], expected[11:22], atol=1e-5)


def test_contrast_keeps_the_mean():
    images = torch.rand(4, 3, 8, 8)
    found = once(images, "contrast", 0.4)
    assert torch.allclose(found.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-6)
    assert torch.allclose(found.std((1, 2, 3)), 0.4 * images.std((1, 2, 3)), atol=1e-6)


def test_pixelation_to_half_averages_squares():
    images = torch.rand(2, 3, 8, 8)
    expected = torch.nn.functional.avg_pool2d(images, 2).repeat_interleave(2, 2)
    assert torch.allclose(once(images, "pixelation", 0.5), expected.repeat_interleave(2, 3))


def test_jpeg_keeps_what_its_table_keeps_and_no_more(monkeypatch):
    images = torch.rand(2, 3, 20, 12)  # no multiples of a block
    monkeypatch.setattr(shifts, "QUANTIZATION", ((1,) * 8,) * 8)
    assert (once(images, "jpeg", 50) - images).abs().max() < 4 / 255
    faint = 0.5 + 0.1 * images[:, :, :16, :8]
    flat = once(faint, "jpeg", 0.2)  # in steps of 250 only the mean of a block is left
    assert (flat[:, :, :8].amax((2, 3)) - flat[:, :, :8].amin((2, 3))).max() < 1e-5


def test_jpeg_is_that_of_a_library():
    pixels = np.random.RandomState(0).randint(0, 256, (4, 4)).astype(np.uint8)
    image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=25)
    theirs = np.asarray(Image.open(buffer), np.float32) / 255
    ours = once(torch.from_numpy(np.asarray(image, np.float32) / 255)[None, None], "jpeg", 25)
    assert np.abs(ours[0, 0].numpy().clip(0, 1) - theirs).max() < 3 / 255


def test_a_translation_by_whole_pixels_moves_them():
    images = torch.rand(1, 1, 10, 10)
    moved = once(images, "translation", 0.2, place=torch.zeros(1, 2))  # two pixels to one side
    assert torch.allclose(moved[..., :8], images[..., 2:], atol=1e-5)
    assert torch.allclose(moved[..., 8:], images[..., 9:].expand(1, 1, 10, 2), atol=1e-5)


def test_a_right_angle_turns_an_image():
    images = torch.rand(2, 3, 9, 9)
    place = torch.tensor([[0.1, 0.0], [0.9, 0.0]])  # to one side, and to the other
    found = once(images, "rotation", 90, place=place)
    one, other = ([image.rot90(turns, (1, 2)) for image in images] for turns in (1, 3))
    pairs = ((one[0], other[1]), (other[0], one[1]))
    assert any(torch.allclose(found, torch.stack(pair), atol=1e-5) for pair in pairs)


def test_a_turn_keeps_angles_where_images_are_not_square():
    images = torch.zeros(1, 1, 21, 41)
    images[0, 0, 10, 12:29] = 1  # a bar of 17 pixels in the middle
    found = once(images, "rotation", 90)[0, 0]
    assert found[2:19, 20].min() > 0.9
    assert found.sum() == pytest.approx(17, abs=0.5)


def test_an_occlusion_is_a_grey_square_inside_the_image():
    images = torch.zeros(30, 1, 20, 20)
    place = torch.rand(30, 2, generator=torch.Generator().manual_seed(0))
    found = once(images, "occlusion", 0.3, place=place)
    assert ((found == 0.5).sum((1, 2, 3)) == 36).all()
    assert found[0].equal(once(images, "occlusion", 0.3, place=place)[0])
    assert len({one.numpy().tobytes() for one in found}) > 20


def test_thin_strokes_vanish_and_thick_ones_widen():
    images = torch.zeros(1, 1, 28, 28)
    images[..., 10:13] = 1  # three pixels wide
    assert once(images, "thin", 1.0).sum() == pytest.approx(28, abs=2)
    assert once(images, "thick", 1.0).sum() == 5 * 28


class ByBrightness(torch.nn.Module):
    """Calls an image bright, class 1, if its mean is above 0.5."""

    def forward(self, images):
        mean = images.mean((1, 2, 3)) - 0.5
        return torch.stack([-mean, mean], 1)


def test_a_score_is_the_accuracy_on_the_same_part_for_all():
    labels = torch.arange(40) % 2
    images = (labels * 200).to(torch.uint8)[:, None, None, None].expand(40, 1, 8, 8).contiguous()
    trained = SimpleNamespace(model=ByBrightness(), normalization=Normalization(255, None, None))
    accuracies, examples = shifts.score(
        trained, Split(images, labels), 10, batch_size=3, tta="none"
    )
    assert list(accuracies) == list(CORRUPTIONS)
    assert {len(values) for values in accuracies.values()} == {SEVERITIES}
    assert examples.shape == (12, SEVERITIES, 1, 8, 8)
    assert accuracies["contrast"] == [1.0] * 5  # the mean stays
    assert accuracies["brightness"][0] == 1.0
    assert accuracies["brightness"][-1] == 0.5  # black images are 0.5 now, white ones 1
    again, _ = shifts.score(trained, Split(images, labels), 1000, batch_size=7, tta="none")
    assert again["contrast"] == [1.0] * 5


def test_the_example_of_the_docs_is_a_corruption(monkeypatch):
    monkeypatch.setattr(shifts, "CORRUPTIONS", {})
    examples = re.findall(r"```py\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S)
    (example,) = [code for code in examples if "@corruption(" in code]
    exec(example, vars(shifts) | {})
    images = torch.full((3, 1, 8, 8), 200, dtype=torch.uint8)
    found = shifts.corrupt(images, 255, "haze", 5, shifts.draws(images))
    assert (found < 200).all()
    assert (found > 127).all()
