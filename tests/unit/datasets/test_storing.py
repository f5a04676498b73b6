"""Storing own images: it goes on after a kill, with the same bytes, and holds few in memory."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from multiprocessing.context import SpawnProcess

import numpy as np
import psutil
import pytest
from PIL import Image
from stored_images import read

from striate.datasets import image_folder, layouts, parallel_reading
from striate.datasets.registry import DataError

COUNT = 60


@pytest.fixture
def images(tmp_path):
    random = np.random.RandomState(0)
    root = tmp_path / "images"
    for part, count in (("train", COUNT), ("test", COUNT // 3)):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.randint(0, 256, (20, 30, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:03}.png")
    return root


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def store_some(monkeypatch, images, data, count, size=16):
    """Store, but stop at the image with that number; returns the files that were read."""
    seen, whole = [], image_folder._pixels

    def pixels(file, image, shape):
        if len(seen) == count:
            raise KeyboardInterrupt
        seen.append(file)
        return whole(file, image, shape)

    with monkeypatch.context() as patch:
        patch.setattr(image_folder, "_pixels", pixels)
        with suppress(KeyboardInterrupt):
            read(images, size, folder=data)
    return seen


def test_a_store_goes_on_where_it_was_stopped_twice_with_the_same_bytes(
    images, tmp_path, monkeypatch
):
    read(images, 16, folder=tmp_path / "whole")
    data, seen = tmp_path / "data", []
    for count in (50, 45):
        seen += store_some(monkeypatch, images, data, count)
        assert not (data / "manifest.json").exists()
    seen += store_some(monkeypatch, images, data, 10**9)
    assert content(data) == content(tmp_path / "whole")
    # What had reached the disk was not read again; up to a buffer of 8 KiB is lost with a kill.
    assert len({*seen}) == 2 * (COUNT + COUNT // 3)
    assert len(seen) - len({*seen}) <= 2 * (8192 // (3 * 16 * 16) + 1)


@pytest.mark.parametrize("change", ["file", "size", "resize", "torn"])
def test_what_is_of_other_files_or_torn_is_not_kept(images, tmp_path, monkeypatch, change):
    data = tmp_path / "data"
    store_some(monkeypatch, images, data, 90)
    size, resize = 16, "crop"
    if change == "file":
        Image.new("RGB", (30, 20)).save(images / "train/a/003.png")
    elif change == "size":
        size = 12
    elif change == "resize":
        resize = "pad"
    else:
        stored = data / ".partial/train/images.npy"
        stored.write_bytes(stored.read_bytes()[:-100])
    read(images, size, resize=resize, folder=data)
    read(images, size, resize=resize, folder=tmp_path / "whole")
    assert content(data) == content(tmp_path / "whole")


def test_a_file_that_cannot_be_read_leaves_no_blank_image_behind(images, tmp_path):
    data, bad = tmp_path / "data", images / "train/b/010.png"
    good = bad.read_bytes()
    times = os.stat(bad)
    bad.write_bytes(good[:200] + bytes(len(good) - 200))
    os.utime(bad, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match=r"train/b/010\.png"):
        read(images, 16, folder=data)
    # Mended without a change of size or time, so that the next store goes on.
    bad.write_bytes(good)
    os.utime(bad, ns=(times.st_atime_ns, times.st_mtime_ns))
    read(images, 16, folder=data)
    read(images, 16, folder=tmp_path / "whole")
    assert content(data) == content(tmp_path / "whole")


def test_the_old_data_stay_until_the_new_ones_are_whole(images, tmp_path, monkeypatch):
    data = tmp_path / "data"
    read(images, 16, folder=data)
    before = content(data)
    store_some(monkeypatch, images, data, 30, size=8)
    kept = {name: value for name, value in content(data).items() if ".partial" not in name}
    assert kept == before


@pytest.mark.parametrize("fewest", [0, 1000])
def test_only_a_few_images_are_in_memory(images, tmp_path, monkeypatch, fewest):
    """Of 160 of 150 KB, as many as processes or threads are ahead of what is written."""
    monkeypatch.setattr(parallel_reading, "PROCESSES_FROM", fewest)
    monkeypatch.setattr(image_folder, "MOST_BYTES", 2 * 224 * 224 * 3)
    monkeypatch.setattr(parallel_reading, "cores", lambda: 2)
    look = image_folder.Look((224, 224), "stretch")
    layout = image_folder.divided(layouts.find(images), 0.2)
    shape = image_folder.shape_of(layout, look)
    tracemalloc.start()
    image_folder.store(layout, look, shape, tmp_path / "data")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ahead = 2 * 2 + 2  # parts that are read, and the one that is written
    assert most < (ahead + 2) * 2 * 224 * 224 * 3 + 500_000


def test_processes_store_the_same_bytes_and_name_the_same_files(images, tmp_path, monkeypatch):
    read(images, 16, folder=tmp_path / "threads")
    monkeypatch.setattr(parallel_reading, "PROCESSES_FROM", 0)
    read(images, 16, folder=tmp_path / "processes")
    assert content(tmp_path / "processes") == content(tmp_path / "threads")
    (images / "train/b/010.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/b/010\.png"):
        read(images, 16, folder=tmp_path / "processes")


def test_threads_read_where_no_process_can_be_started(images, tmp_path, monkeypatch):
    start, started, left = SpawnProcess.start, [], []

    def refuse(process):
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        started.append(process)
        start(process)

    class Threads(parallel_reading.ThreadPoolExecutor):
        def __init__(self, *arguments):
            left.extend(multiprocessing.active_children())
            super().__init__(*arguments)

    read(images, 16, folder=tmp_path / "threads")
    monkeypatch.setattr(parallel_reading, "PROCESSES_FROM", 0)
    monkeypatch.setattr(parallel_reading, "cores", lambda: 2)
    monkeypatch.setattr(parallel_reading, "ThreadPoolExecutor", Threads)
    monkeypatch.setattr(SpawnProcess, "start", refuse)
    read(images, 16, folder=tmp_path / "refused")
    assert content(tmp_path / "refused") == content(tmp_path / "threads")
    assert len(started) == 1
    assert left == []


def broken(number):
    if number == 7:
        raise ZeroDivisionError("a bug")
    return number


def test_what_a_process_raises_is_raised_here(monkeypatch):
    monkeypatch.setattr(parallel_reading, "PROCESSES_FROM", 0)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(parallel_reading.in_order(broken, range(10), at_once=2))
    assert list(parallel_reading.in_order(broken, range(7), at_once=2)) == [*range(7)]
    assert multiprocessing.active_children() == []


# Stores images of 196 KB a part by processes; each takes so many seconds to read.
STORE = """
import signal, sys, time
from pathlib import Path
from striate.datasets import image_folder, image_reading, layouts, parallel_reading
from striate.errors import exit_on_error
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    parallel_reading.PROCESSES_FROM = 0
    look = image_folder.Look((64, 64), "crop")
    layout = layouts.find(Path(sys.argv[1]))
    with exit_on_error():
        print("begin", flush=True)
        image_folder.store(layout, look, (3, 64, 64), Path(sys.argv[2]))
elif sys.argv[1:]:
    read, seconds = image_reading.read, float(sys.argv[3])
    image_reading.read = lambda file: (time.sleep(seconds), read(file))[1]
"""


@pytest.fixture
def storing(images, tmp_path):
    """Start a store; when it has begun."""

    def start(seconds):
        (tmp_path / "store.py").write_text(STORE)
        process = subprocess.Popen(
            [sys.executable, tmp_path / "store.py", images, tmp_path / "data", str(seconds)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert process.stdout.readline() == "begin\n"
        return process

    return start


def wait_for_images(tmp_path):
    stored = tmp_path / "data/.partial/train/images.npy"
    deadline = time.monotonic() + 60
    while not stored.exists() or not stored.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def readers_of(process):
    family = psutil.Process(process.pid).children(recursive=True)
    return family, [one for one in family if "spawn_main" in " ".join(one.cmdline())]


@pytest.mark.parametrize("wait", [0, 0.2, 0.4, 0.7, 1.0, "images"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupted_store_ends_at_once_and_in_a_line(storing, tmp_path, wait, times):
    process = storing(0.01)
    wait_for_images(tmp_path) if wait == "images" else time.sleep(wait)
    family, _ = readers_of(process)
    for number in range(times):
        time.sleep(0.02 * number)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C
    _, said = process.communicate(timeout=20)
    assert "spawn" not in said, said  # nothing of the processes that read
    if times == 1:
        assert (process.returncode, said) == (130, "interrupted: give the same command again\n")
    assert psutil.wait_procs(family, timeout=20)[1] == []


@pytest.mark.parametrize("number", range(6))
def test_the_kill_of_a_process_that_reads_is_told(storing, tmp_path, number):
    process = storing(0.02)
    wait_for_images(tmp_path)
    family, readers = readers_of(process)
    time.sleep(0.03 * number)
    readers[number % len(readers)].kill()
    _, said = process.communicate(timeout=20)
    assert said.startswith("error: a process that reads images was killed")
    assert said.count("\n") == 1
    assert psutil.wait_procs(family, timeout=20)[1] == []


def test_no_process_is_left_when_a_store_is_killed(storing, tmp_path):
    process = storing(0.05)
    wait_for_images(tmp_path)
    family, readers = readers_of(process)
    assert readers
    process.kill()
    assert process.communicate() == ("", "")  # also of those that read
    assert psutil.wait_procs(family, timeout=20)[1] == []
