"""Lists of file names, as people and editors write them."""

import pytest

from striate.data.lists import read_list
from striate.errors import UserError


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"a b.png\n\nc.png\r\n", ["a b.png", "c.png"]),
        (b"\xef\xbb\xbftrain/b/1.png\n", ["train/b/1.png"]),
        (b"./train/b/1.png \ntrain//c.png", ["train/b/1.png", "train/c.png"]),
        ("x\u2028y.png\n\x0cz.png".encode(), ["x\u2028y.png", "z.png"]),
        (b"", []),
    ],
)
def test_a_list_is_read_line_by_line(tmp_path, content, names):
    (tmp_path / "list.txt").write_bytes(content)
    assert read_list(tmp_path / "list.txt") == names


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_list_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "list.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.leave_out is .*list\.txt, which cannot be read"):
        read_list(path)
