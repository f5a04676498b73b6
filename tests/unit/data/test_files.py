"""Files are there whole or not at all."""

import os
import socket
import subprocess
import sys

import pytest

from striate.data import files


def test_a_file_is_written_with_the_folders_that_it_needs(tmp_path):
    files.write(tmp_path / "a/b/c", b"new")
    assert (tmp_path / "a/b/c").read_bytes() == b"new"
    assert list((tmp_path / "a/b").iterdir()) == [tmp_path / "a/b/c"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, step):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    path = tmp_path / "kept"
    files.write(path, b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_are_on_the_disk_before_their_name_is(tmp_path, monkeypatch):
    done = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), replace(a, b)))
    files.write(tmp_path / "file", b"new")
    assert done == ["sync", "replace"]


def test_what_a_killed_process_was_writing_goes_and_what_a_living_one_writes_stays(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    host = socket.gethostname()
    names = {
        f".a[1].{host}.{killed.pid}.partial": False,
        f".a[1].{host}.{os.getppid()}.partial": True,
        f".a[1].elsewhere.{killed.pid}.partial": True,
        f".a[1].b.{host}.{killed.pid}.partial": True,
        f".a[1].{host}.b.{killed.pid}.partial": True,
    }
    for name in names:
        (tmp_path / name).touch()
    files.write(tmp_path / "a[1]", b"new")
    kept = {name for name, stays in names.items() if stays}
    assert {path.name for path in tmp_path.iterdir()} == kept | {"a[1]"}
