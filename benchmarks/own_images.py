"""Storing a folder of images, beside an epoch of ImageFolder: images a second and memory.

    python benchmarks/own_images.py --images 200000 [--folder FOLDER]

Makes JPEG files of mixed sizes, then by turns stores them with 64×64 pixels, and reads them once by
ImageFolder and a DataLoader with as many workers as processors, resized and cropped to the same
size. No process of a store may take more than 1 GiB for data; the memory that is told is the most
of all processes together, where what they share counts once. `striate data` looks at the same
folder. Then a store is killed twice, and the last one's bytes are compared with those of the first.
"""

import argparse
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from striate.datasets import image_folder, layouts

SIDE, LIMIT, CLASSES = 64, 1 << 30, 10


def make(folder, start, end):
    """Write images of 40 to 400 pixels a side, each of them another one."""
    for number in range(start, end):
        random = np.random.RandomState(number)
        width, height = random.randint(40, 401, 2).tolist()
        small = Image.fromarray(random.randint(0, 256, (8, 8, 3), np.uint8))
        target = (
            folder / ("test" if number % 10 == 0 else "train") / f"class{random.randint(CLASSES)}"
        )
        target.mkdir(parents=True, exist_ok=True)
        image = small.resize((width, height), Image.Resampling.BICUBIC)
        image.save(target / f"{number:07}.jpg", quality=85)


def limited():
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))


def store(folder, data):
    look = image_folder.Look((SIDE, SIDE), "crop")
    layout = image_folder.divided(layouts.find(folder), 0.2)
    report = image_folder.store(layout, look, image_folder.shape_of(layout, look), data)
    return sum(report.counts.values())


def image_folder_epoch(folder):
    import torch
    from torchvision import datasets, transforms

    shown = transforms.Compose(
        [transforms.Resize(SIDE), transforms.CenterCrop(SIDE), transforms.PILToTensor()]
    )
    count = 0
    for part in ("train", "test"):
        images = datasets.ImageFolder(folder / part, shown)
        loader = torch.utils.data.DataLoader(images, 256, num_workers=os.cpu_count())
        count += sum(len(labels) for _, labels in loader)
    return count


def look(folder, data):
    command = [Path(sys.executable).parent / "striate", "data", folder, "--to", data / "look.html"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sum(path.is_file() for path in folder.rglob("*"))


RUN = {"store": store, "epoch": lambda folder, _: image_folder_epoch(folder), "look": look}


def one(what, folder, data):
    """Run one of the three; print images and seconds as JSON."""
    begin = time.perf_counter()
    count = RUN[what](folder, data)
    seconds = time.perf_counter() - begin
    print(json.dumps({"count": count, "seconds": seconds}))


def started(what, folder, data):
    command = [sys.executable, __file__, "--one", what, "--folder", folder, "--data", data]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        preexec_fn=limited if what == "store" else None,
    )  # fmt: skip


def memory(process):
    """The most that a process and those that it has started take together until it ends, in MiB."""
    most = 0
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid)]
            family += family[0].children(recursive=True)
            most = max(most, sum(one.memory_full_info().pss for one in family))
        except psutil.Error:  # one of them has just ended
            pass
        time.sleep(0.1)
    return most / 2**20


def digest(data):
    found = hashlib.sha256()
    for path in sorted(data.rglob("*")):
        if path.is_file():
            found.update(path.relative_to(data).as_posix().encode())
            with path.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--one", choices=RUN)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments.folder, arguments.data)
        return
    from common import header, table  # which take PyTorch, and with it memory

    print(header() + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder, data = arguments.folder or Path(scratch, "images"), Path(scratch, "data")
        if not folder.exists():
            step = 1000
            with ProcessPoolExecutor() as pool:
                for start in range(0, arguments.images, step):
                    pool.submit(make, folder, start, min(start + step, arguments.images))
        rows = []
        for _ in range(arguments.rounds):
            for what in RUN:
                shutil.rmtree(data, ignore_errors=True)
                process = started(what, folder, data)
                most = memory(process)
                found = json.loads(process.communicate()[0])
                rate = found["count"] / found["seconds"]
                rows.append([
                    what, f"{found['count']:,}", f"{found['seconds']:.0f}", f"{rate:,.0f}",
                    f"{most:.0f}",
                ])  # fmt: skip
                if what == "store":
                    whole, seconds = digest(data), found["seconds"]
        table(["", "images", "seconds", "images a second", "MiB"], rows)
        shutil.rmtree(data, ignore_errors=True)
        for part in (0.3, 0.4):
            process = started("store", folder, data)
            time.sleep(part * seconds)
            process.send_signal(signal.SIGKILL)
            process.wait()
            stored = sum(f.stat().st_size for f in data.rglob("images.npy"))
            print(f"\nkilled with {stored / 2**20:,.0f} MiB stored", end="")
        last = json.loads(started("store", folder, data).communicate()[0])
        same = "the same bytes" if digest(data) == whole else "OTHER BYTES"
        print(f"\nthe rest took {last['seconds']:.0f} s: {same}")


if __name__ == "__main__":
    main()
