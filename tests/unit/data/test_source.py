"""data/source.json: where a data set comes from."""

import json

import numpy as np
import pytest

from striate.data import arrays, source
from striate.errors import UserError


def write(folder, origin):
    images = arrays.LabeledImages(np.zeros((2, 1, 4, 4), np.uint8), np.arange(2))
    arrays.write(
        arrays.LoadedDataset(origin, ("a", "b"), 255, (0.5,), (0.2,), images, images), folder
    )


def test_the_source_is_read_as_written(tmp_path):
    write(tmp_path, source.Source("toy", "https://example.org/toy", "CC0"))
    assert source.read(tmp_path) == {
        "name": "toy", "page": "https://example.org/toy", "licence": "CC0",
    }  # fmt: skip


def test_own_images_have_neither_page_nor_licence(tmp_path):
    write(tmp_path, source.Source("folder"))
    assert source.read(tmp_path) == {"name": "folder", "page": None, "licence": None}


def test_the_licence_does_not_change_what_identifies_the_data(tmp_path):
    for licence in ("CC0", "MIT"):
        write(tmp_path / licence, source.Source("toy", "https://example.org/toy", licence))
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in ("CC0", "MIT")]
    assert manifests[0] == manifests[1]


def test_older_data_have_no_source(tmp_path):
    write(tmp_path, source.Source("toy"))
    (tmp_path / "source.json").unlink()
    assert source.read(tmp_path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        json.dumps({"name": "toy", "page": "x"}).encode(),
        json.dumps({"name": None, "page": None, "licence": None}).encode(),
        json.dumps({"name": "toy", "page": 1, "licence": None}).encode(),
        json.dumps({"name": "toy", "page": "a\nb", "licence": None}).encode(),
        json.dumps({"name": "toy", "page": None, "licence": None, "more": "x"}).encode(),
    ],
)
def test_a_damaged_source_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "source.json").write_bytes(content)
    with pytest.raises(UserError) as caught:
        source.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/source.json ")
    assert "\n" not in str(caught.value)
