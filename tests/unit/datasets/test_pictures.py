"""Any picture is brought to what a network takes, and what is none is named."""

import io
import re
import struct
import warnings

import numpy as np
import pytest
from PIL import Image, ImageDraw

from striate.data import framing
from striate.datasets import image_reading
from striate.datasets.image_reading import ImageReadError
from striate.serving import preprocess

SHAPE, DARK = (1, 28, 28), {"background": "dark", "extent": 0.7143}
LIGHT = DARK | {"background": "light"}


def bar(size=(200, 300), place=(90, 40, 110, 240), ink=0, paper=255, mode="L"):
    """An upright bar on plain paper."""
    picture = Image.new(mode, size, paper)
    ImageDraw.Draw(picture).rectangle(place, fill=ink)
    return picture


def prepared(picture, frame=DARK, shape=SHAPE, peak=255):
    return preprocess.prepare(picture, shape, peak, frame)


def saved(picture, path, **options):
    picture.save(path, **options)
    return image_reading.read(path)


def box(pixels):
    """First and last row and column of what is at least half as bright as can be."""
    rows, columns = np.nonzero(pixels[0] >= pixels.max() / 2)
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_the_frame_of_images_says_background_and_extent():
    images = np.zeros((5, 1, 10, 10), np.uint8)
    images[:, :, 2:8, 4:6] = 16
    assert framing.frame(images, 16) == {"background": "dark", "extent": 0.6}
    assert framing.frame(16 - images, 16) == {"background": "light", "extent": 0.6}
    assert framing.frame(images.repeat(3, 1), 16) == framing.WHOLE
    assert framing.frame(images * 0 + 8, 16) == framing.WHOLE
    assert framing.frame(images * 0, 16) == framing.WHOLE


@pytest.mark.parametrize(
    "picture",
    [
        bar(),
        bar(ink=255, paper=0),
        bar(ink=90, paper=140),
        bar(place=(5, 5, 25, 205)),
        bar((900, 1200), (700, 900, 726, 1160)),
        bar(mode="RGB", ink=(200, 30, 30), paper=(250, 250, 230)),
    ],
    ids=["dark on light", "light on dark", "faint", "in a corner", "small", "coloured"],
)
def test_what_is_drawn_is_brought_to_the_middle_at_full_strength(picture):
    pixels = prepared(picture)
    assert pixels.shape == SHAPE
    assert pixels.dtype == np.uint8
    assert pixels.max() == 255
    assert pixels[0, 0].max() == pixels[0, :, 0].max() == 0
    top, bottom, left, right = box(pixels)
    assert bottom - top + 1 in (19, 20, 21)  # 0.7143 of 28
    assert right - left + 1 <= 3
    assert (top + bottom) / 2 == pytest.approx(13.5, abs=1)
    assert (left + right) / 2 == pytest.approx(13.5, abs=1)
    light = prepared(picture, LIGHT)
    assert (light == 255 - pixels).all()


def test_uneven_light_and_noise_are_paper():
    random = np.random.RandomState(0)
    values = np.asarray(bar((200, 200), (90, 40, 110, 160)), np.float32)
    lit = values * np.linspace(0.5, 1, 200)[None] + random.normal(0, 6, values.shape)
    pixels = prepared(Image.fromarray(lit.clip(0, 255).astype(np.uint8)))
    top, bottom, left, right = box(pixels)
    assert bottom - top + 1 in (19, 20, 21)
    assert right - left + 1 <= 5
    assert np.median(pixels) == 0


def test_an_image_that_is_the_networks_already_stays_as_it_is():
    random = np.random.RandomState(0)
    own = np.zeros((28, 28), np.uint8)
    own[4:24, 10:15] = random.randint(1, 256, (20, 5))
    assert (prepared(Image.fromarray(own))[0] == own).all()
    assert (prepared(Image.fromarray(255 - own), LIGHT)[0] == 255 - own).all()
    pixels = random.randint(0, 256, (3, 32, 32), dtype=np.uint8)
    same = Image.fromarray(pixels.transpose(1, 2, 0))
    assert (prepared(same, framing.WHOLE, (3, 32, 32)) == pixels).all()


def test_pixels_reach_the_peak_and_no_further():
    assert prepared(bar(), peak=16).max() == 16


def test_of_a_picture_without_plain_background_the_middle_is_taken():
    picture = Image.new("RGB", (96, 32), "red")
    picture.paste("blue", (32, 0, 64, 32))
    pixels = prepared(picture, framing.WHOLE, (3, 32, 32))
    assert pixels.shape == (3, 32, 32)
    assert (pixels[2] == 255).all()
    assert (pixels[0] == 0).all()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_blank_picture_is_background(level):
    assert prepared(Image.new("L", (300, 200), level)).max() == 0
    assert prepared(Image.new("L", (1, 1), level)).shape == SHAPE


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    turned = saved(bar().rotate(90, expand=True), tmp_path / "a.jpg", exif=exif)
    assert turned.size == (200, 300)
    assert np.abs(np.asarray(turned, int) - np.asarray(bar(), int)).mean() < 2


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixel_gives_the_same(mode, tmp_path):
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(bar(), np.uint16) * 257)
    else:
        picture = bar().convert(mode)
    path = tmp_path / f"a.{'tiff' if mode == 'CMYK' else 'png'}"
    found = saved(picture, path)
    assert found.mode in ("L", "RGB")
    assert np.abs(prepared(found).astype(int) - prepared(bar())).max() <= 2


@pytest.mark.parametrize("ink", [0, 255])
def test_what_is_transparent_is_paper(ink, tmp_path):
    picture = Image.new("RGBA", (200, 300), (0, 0, 0, 0))
    ImageDraw.Draw(picture).rectangle((90, 40, 110, 240), fill=(ink, ink, ink, 255))
    pixels = prepared(saved(picture, tmp_path / "a.png"))
    assert np.abs(pixels.astype(int) - prepared(bar())).max() <= 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is not an image, or is damaged"),
        (b"hello", "it is not an image, or is damaged"),
        ("half", "cannot be read: "),
        ("bomb", "it has too many pixels"),
        (None, "No such file or directory"),
    ],
)
def test_what_is_no_picture_is_named(content, said, tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    if isinstance(content, str):
        buffer = io.BytesIO()
        bar().save(buffer, "png")
        whole = buffer.getvalue()
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else whole)
        if content == "bomb":
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageReadError, match=rf"^{path} cannot be read: .*") as caught:
        image_reading.read(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bomb_between_warning_and_error_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    bar().save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200 * 300 - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageReadError, match="too many pixels"):
            image_reading.read(path)


def test_hidden_files_and_other_endings_are_passed_over(tmp_path):
    for name in ("b/c.JPG", "a.png", ".hidden.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = image_reading.list_images(tmp_path)
    assert found.files == [tmp_path / "a.png", tmp_path / "b/c.JPG"]
    assert found.skipped == {"hidden": 1, ".txt": 1}


@pytest.mark.parametrize(
    ("kind", "full"), [("F", 1), ("I;16", 65_535), ("I;16B", 65_535), ("I", 65_535), ("12", 4_095)]
)
@pytest.mark.parametrize("part", [1, 0.02])
def test_black_and_white_follow_from_the_type_of_the_pixels(tmp_path, kind, full, part):
    """Not from the largest value of one picture."""
    values = np.rint(np.linspace(0, part, 64) * 255).reshape(8, 8)
    stored = values / 255 * full
    path = tmp_path / "x.tif"
    if kind == "12":
        write_tiff(path, stored.astype(int), bits=12)
    else:
        types = {"F": "<f4", "I;16": "<u2", "I;16B": ">u2", "I": "<i4"}
        Image.fromarray(stored.astype(types[kind])).save(path)
    with Image.open(path) as opened:
        assert opened.mode == (kind if kind != "12" else "I;16")
    assert (np.asarray(image_reading.read(path)) == values).all()


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([0, np.nan], "<f4", "x.tif has pixels that are not finite (NaN or infinity)"),
        ([0, -np.inf], "<f4", "x.tif has pixels that are not finite"),
        ([0, 1.3], "<f4", "x.tif has floats from 0 to 1.3 as pixels; they must be from 0 to 1:"),
        ([0, 255], "<f4", "x.tif has floats from 0 to 255 as pixels; they must be from 0 to 1:"),
        ([-0.2, 1], "<f4", "x.tif has floats from -0.2 to 1 as"),
        ([-1, 5], "<i4", "x.tif has integers from -1 to 5 as pixels; they must be from 0 to"),
        ([0, 70_000], "<i4", "x.tif has integers from 0 to 70,000 as pixels; they must be from 0"),
    ],
)
def test_values_that_their_type_does_not_explain_are_refused_by_name(tmp_path, values, kind, said):
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([values], kind)).save(path)
    with pytest.raises(ImageReadError, match=re.escape(said)) as caught:
        image_reading.read(path)
    assert "\n" not in str(caught.value)


def test_floats_that_rounding_took_beyond_1_are_white(tmp_path):
    Image.fromarray(np.array([[-1e-6, 1.0000001]], np.float32)).save(tmp_path / "x.tif")
    assert np.asarray(image_reading.read(tmp_path / "x.tif")).tolist() == [[0, 255]]


def test_bytes_with_a_sign_are_refused_and_white_may_be_0(tmp_path):
    values = np.array([[0, 255, 65_535, 257]])
    write_tiff(tmp_path / "x.tif", values, bits=16, white_is_zero=True)
    assert np.asarray(image_reading.read(tmp_path / "x.tif")).tolist() == [[255, 254, 0, 254]]
    write_tiff(tmp_path / "x.tif", np.array([[1, 100]]), bits=8, signed=True)
    with pytest.raises(ImageReadError, match=r"x\.tif has signed pixels of 8 bits; save them"):
        image_reading.read(tmp_path / "x.tif")


def write_tiff(path, values, bits, white_is_zero=False, signed=False):
    """A TIFF of a kind that Pillow reads and does not write."""
    height, width = values.shape
    digits = "".join(f"{value:012b}" for value in values.ravel())
    content = (
        int(digits, 2).to_bytes(len(digits) // 8, "big")
        if bits == 12
        else values.astype(f"<u{bits // 8}").tobytes()
    )
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 0,
            277: 1, 278: height, 279: len(content), 339: 1 + signed}  # fmt: skip
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    path.write_bytes(head + entries + bytes(4) + content)
