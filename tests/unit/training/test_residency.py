"""Images in device memory, in host memory and on disk: the same bytes, and bounded memory."""

import threading
from collections import deque
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CONVNET, SPEEDRUN, UNIT, settings

from striate.data import arrays, tensors
from striate.data.source import Source
from striate.errors import UserError
from striate.models import checkpoint, devices, registry
from striate.training import lazy_images, loop, memory
from striate.training.distributed import Group
from striate.training.task import Task

REGIMES = ("device", "host", "disk")
CPU = torch.device("cpu")
EVERYTHING = {"translate": 1, "flip": True, "rotate": 5, "zoom": 0.1, "cutout": 2, "shrink": 6,
              "shrink_until": 0.5}  # fmt: skip
MIXED = EVERYTHING | {"mixup": 0.4, "cutmix": 1.0}
WHITENED = SPEEDRUN | {"whiten": 2}
COUNT = 61  # with 12 held out, the last of 4 batches has a single image


def store(folder, channels, count=COUNT):
    """Noise that differs by class, as a data set."""
    random = np.random.default_rng(channels)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 100, (count, channels, 9, 9), np.uint8)
    pixels[labels == 1, :, 3] += 100
    pixels[labels == 2, :, :, 5] += 100
    part = arrays.LabeledImages(pixels, labels)
    moments = (0.5,) * channels, (0.2,) * channels
    arrays.write(
        arrays.LoadedDataset(Source("toy"), ("a", "b", "c"), 255, *moments, part, part), folder
    )
    return folder


@pytest.fixture(scope="module", params=[1, 3], ids=["gray", "colour"])
def folder(request, tmp_path_factory):
    return store(tmp_path_factory.mktemp("data"), request.param)


def train(folder, regime, *, device=CPU, val_size=12, architecture=WHITENED, precision="float32",
          augment=EVERYTHING, **options):  # fmt: skip
    """What stages/train.py does; `regime` may also be the arrays read whole, as `tensors`."""
    if regime == "tensors":
        train_set, val = tensors.train_val_split(
            tensors.load_split(folder, "train", device), val_size, 0
        )
        first = train_set.images[:20]
    else:
        train_set, val = tensors.train_val_split(
            lazy_images.load(folder, "train", device), val_size, 0
        )
        first = train_set.images[:20].read()
        memory_format = devices.pick_precision(precision, device).memory_format
        train_set = lazy_images.reside(train_set, regime, memory_format)
        val = None if val is None else lazy_images.reside(val, regime)
    torch.manual_seed(0)
    model = registry.build(tuple(first.shape[1:]), 3, architecture).to(device)
    model.fit_to_data(UNIT(first))
    params = settings(augment, precision=precision, capture="never")
    return model, list(loop.fit(model, Task(train_set, val, params, UNIT), **options))


def content(model, rows, folder):
    checkpoint.save(model, {}, folder)
    return (folder / "cnn_trained.ckpt").read_bytes(), rows


@pytest.mark.parametrize(
    ("precision", "augment"),
    [
        ("float32", EVERYTHING),
        ("auto", {}),
        ("bfloat16", EVERYTHING),
        ("float32", MIXED),
        ("bfloat16", MIXED),
    ],
    ids=["float32", "auto", "bfloat16", "mixed-float32", "mixed-bfloat16"],
)
def test_wherever_images_lie_the_bytes_are_the_same(folder, tmp_path, precision, augment):
    expected, *others = (
        content(*train(folder, regime, precision=precision, augment=augment), tmp_path)
        for regime in ("tensors", *REGIMES)
    )
    for regime, found in zip(REGIMES, others, strict=True):
        assert found == expected, regime


def test_without_validation_and_with_dropout_too(folder, tmp_path):
    options = {"val_size": 0, "architecture": CONVNET, "augment": {}}
    found = [content(*train(folder, regime, **options), tmp_path) for regime in REGIMES]
    assert found[0] == found[1] == found[2]
    assert "val_loss" not in found[0][1][0]


class StoppingCheckpointer:
    """Stops a training after so many steps, in the middle of its second epoch."""

    def __init__(self, snapshot=None, steps=0):
        self.snapshot = snapshot
        self.steps = steps
        self.stop_requested = False

    def is_due(self):
        self.steps -= 1
        self.stop_requested = self.steps == 0
        return self.stop_requested

    def save(self, snapshot, label):
        self.snapshot = snapshot
        if self.stop_requested:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("before", "after"), [("disk", "disk"), ("device", "disk"),
                                               ("disk", "host")])  # fmt: skip
def test_a_training_resumes_within_an_epoch_from_elsewhere(folder, tmp_path, before, after):
    expected = content(*train(folder, "device"), tmp_path)
    stopped = StoppingCheckpointer(steps=6)
    with pytest.raises(KeyboardInterrupt):
        train(folder, before, checkpointer=stopped)
    assert (len(stopped.snapshot["rows"]), stopped.snapshot["steps_done"]) == (1, 2)
    resumed = StoppingCheckpointer(stopped.snapshot)
    assert content(*train(folder, after, checkpointer=resumed), tmp_path) == expected


class Part(Group):
    """A process whose others add nothing."""

    def all_reduce(self, tensors):
        pass

    def broadcast_(self, tensors):
        pass

    def broadcast(self, value):
        return value

    def all_gather(self, value):
        return [value] * self.size


@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "mixed"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_of_a_batch_no_more_is_read_than_a_process_needs(folder, monkeypatch, rank, mixed):
    group = Part(rank, 3)
    options = {
        "group": group,
        "architecture": CONVNET | {"norm": "none"},  # which would ask the other processes
        "augment": (MIXED if mixed else EVERYTHING) | {"shrink": 0},
    }
    model, rows = train(folder, "device", **options)
    taken = []
    read_batch = lazy_images.Stored._read_batch

    def noted(self):
        taken.append(self.indices)
        return read_batch(self)

    monkeypatch.setattr(lazy_images.Stored, "_read_batch", noted)
    other, others = train(folder, "disk", **options)
    assert others == rows
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    *parts, val = (group.rank_slice(size) for size in (16, 16, 16, 1, 12))
    # A mixed image needs the one before it.
    expected = [part.stop - part.start + mixed for part in parts] + [val.stop - val.start]
    # First come the images for whitening, then three epochs with validation.
    assert sorted(map(len, taken[1:])) == sorted(expected * 3)


def batches_of(folder, count, size=5):
    everything = lazy_images.load(folder, "train", CPU).images
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))[:count]
    return everything, order.split(size)


def test_batches_hold_the_images_that_are_named_in_their_order(folder):
    pixels = tensors.load_split(folder, "train", CPU).images
    everything, wanted = batches_of(folder, COUNT)
    for where in (everything, everything.in_memory()):
        for which, batch in zip(wanted, where.batches(wanted), strict=True):
            assert torch.equal(batch, pixels[which])
    chosen = torch.tensor([9, 3, 4, 60])
    some = everything[chosen][1:]
    assert len(some) == 3
    assert torch.equal(some.read(), pixels[chosen][1:])
    assert torch.equal(torch.cat(list(some.split(2))), pixels[chosen][1:])
    innermost = everything.read(torch.channels_last)
    assert torch.equal(innermost, pixels)
    assert innermost.stride() == pixels.contiguous(memory_format=torch.channels_last).stride()


def test_a_few_batches_are_read_ahead_and_no_more(folder):
    everything, wanted = batches_of(folder, COUNT)
    asked = deque()

    def noted():
        for which in wanted:
            asked.append(which)
            yield which

    reading = everything.batches(noted())
    assert not asked
    for number in range(1, 5):
        next(reading)
        assert len(asked) == number + lazy_images.AHEAD
    reading.close()


def readers():
    return [thread for thread in threading.enumerate() if thread is not threading.main_thread()]


@pytest.mark.parametrize("end", ["exhausted", "closed", "failed"])
def test_readers_end_with_what_they_read_for(folder, monkeypatch, end):
    before = len(readers())
    everything, wanted = batches_of(folder, COUNT)
    reading = everything.batches(wanted)
    next(reading)
    assert len(readers()) > before
    if end == "exhausted":
        assert len(list(reading)) == len(wanted) - 1
    elif end == "closed":
        reading.close()
    else:
        with pytest.raises(ValueError, match="thrown"):
            reading.throw(ValueError("thrown"))
    assert len(readers()) == before


def test_what_cannot_be_read_ends_the_training_with_its_message(folder, monkeypatch):
    before = len(readers())
    read_batch = lazy_images.Stored._read_batch
    calls = iter(range(100))

    def failing(self):
        if next(calls) == 7:
            raise OSError(5, "Input/output error")
        return read_batch(self)

    monkeypatch.setattr(lazy_images.Stored, "_read_batch", failing)
    with pytest.raises(OSError, match="Input/output error") as caught:
        train(folder, "disk")
    # The frames that the error holds keep nothing alive.
    assert len(readers()) == before
    del caught


def test_a_training_that_is_given_up_leaves_no_readers(folder):
    before = len(readers())
    train_set, _ = tensors.train_val_split(lazy_images.load(folder, "train", CPU), 0, 0)
    model = registry.build(tuple(train_set.images.pixels.shape[1:]), 3, CONVNET)

    class EnoughError(Exception):
        pass

    counts = iter(range(100))

    def normalize(pixels):
        if next(counts) == 2:
            raise EnoughError
        return pixels.float()

    with pytest.raises(EnoughError):
        next(loop.fit(model, Task(train_set, None, settings(), normalize)))
    assert len(readers()) == before
    rows = loop.fit(model, Task(train_set, None, settings(), torch.Tensor.float))
    next(rows)
    rows.close()
    assert len(readers()) == before


def test_a_changed_file_is_not_mapped(tmp_path):
    folder = store(tmp_path, 1)
    path = folder / "train/images.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"train/images.npy cannot be read: it is not the file"):
        lazy_images.load(folder, "train", CPU)


def test_only_what_is_taken_is_in_memory(tmp_path):
    """The map of 64 MB of zeros, of which a batch is read, adds less than a tenth of it."""
    count = 64_000
    part = arrays.LabeledImages(np.zeros((count, 1, 25, 40), np.uint8), np.arange(count) % 2)
    few = arrays.LabeledImages(part.images[:2], part.labels[:2])
    arrays.write(
        arrays.LoadedDataset(Source("toy"), ("a", "b"), 255, (0.5,), (0.2,), part, few), tmp_path
    )

    def own():
        """What this process has, without the files that it maps."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))

    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux")
    before = own()
    train_set, val = tensors.train_val_split(lazy_images.load(tmp_path, "train", CPU), 0.1, 0)
    batch = next(train_set.images.batches([torch.arange(0, 50_000, 500)]))
    assert (len(train_set.labels), len(val.labels), len(batch)) == (57_600, 6_400, 100)
    assert own() - before < 6_400_000


# Which regime is chosen


def system(root, available, groups=(), line="0::/a/b"):
    """The files of a system with so much memory, and of control groups with limits."""
    files = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {available >> 10} kB\n",
             "proc/self/cgroup": f"3:cpu,cpuacct:/a\n{line}\n"}  # fmt: skip
    files |= dict(chain.from_iterable(groups))
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(group, most, used, cached):
    folder = f"sys/fs/cgroup/{group}"
    return [
        (f"{folder}/memory.max", f"{most}\n"),
        (f"{folder}/memory.current", f"{used}\n"),
        (f"{folder}/memory.stat", f"anon 9\nactive_file {cached}\ninactive_file 1000\n"),
    ]


def v1(group, most, used, cached):
    folder = f"sys/fs/cgroup/memory/{group}"
    stat = f"active_file 5\ntotal_active_file {cached}\ntotal_inactive_file 1000\n"
    return [
        (f"{folder}/memory.limit_in_bytes", f"{most}\n"),
        (f"{folder}/memory.usage_in_bytes", f"{used}\n"),
        (f"{folder}/memory.stat", stat),
    ]


FREE = 1 << 30


@pytest.mark.parametrize(
    ("groups", "line", "expected"),
    [
        ([], "0::/a/b", FREE),
        ([v2("a/b", 900_000, 500_000, 99_000)], "0::/a/b", 500_000),
        ([v2("a/b", "max", 500_000, 0), v2("a", 700_000, 600_000, 9_000)], "0::/a/b", 110_000),
        ([v2("a/b", 2 << 40, 500_000, 0)], "0::/a/b", FREE),
        ([v2("a/b", 900_000, 950_000, 0)], "0::/a/b", 0),
        # A container that sees its group as the root.
        ([v2(".", 900_000, 500_000, 99_000)], "0::/elsewhere", 500_000),
        ([v1("a/b", 900_000, 500_000, 99_000)], "4:memory:/a/b", 500_000),
        ([v1("a", 700_000, 600_000, 9_000)], "4:hugetlb,memory:/a/b", 110_000),
        ([v1(".", 900_000, 500_000, 99_000)], "4:memory:/docker/1f", 500_000),
        ([v1("a/b", 2**63 - 4096, 500_000, 99_000)], "4:memory:/a/b", FREE),
    ],
)
def test_free_memory_is_what_the_system_and_each_limit_leave(tmp_path, groups, line, expected):
    assert memory.free_memory(system(tmp_path, FREE, groups, line)) == expected


def test_a_system_without_such_files_has_all_of_its_memory(tmp_path):
    assert memory.free_memory(tmp_path) > 1 << 27
    assert 1 << 20 < memory.free_memory() <= memory.free_memory(tmp_path)


def test_auto_takes_the_first_place_with_twice_the_room(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (400, 10_000))
    cuda = torch.device("cuda")
    for size, on_cpu, on_cuda in [
        (200, "device", "device"), (201, "device", "host"), (500, "device", "host"),
        (501, "disk", "disk"),
    ]:  # fmt: skip
        assert memory.pick_residency("auto", size, CPU) == on_cpu
        assert memory.pick_residency("auto", size, cuda) == on_cuda
    assert memory.pick_residency("auto", 201, CPU, processes=4) == "disk"
    assert memory.pick_residency("auto", 200, cuda, processes=4) == "device"
    assert memory.pick_residency("disk", 1, CPU) == "disk"


def test_host_and_device_are_one_on_a_cpu_and_too_little_room_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 10 << 20)
    assert memory.pick_residency("host", 10 << 20, CPU) == "device"
    assert memory.pick_residency("disk", 99 << 20, CPU) == "disk"
    for name in ("device", "host"):
        with pytest.raises(UserError, match=rf"^data.residency is {name}, and 99 MiB .* 10 MiB"):
            memory.pick_residency(name, 99 << 20, CPU)


@pytest.mark.gpu
def test_on_cuda_images_that_are_sent_batch_by_batch_give_the_same_bytes(folder, tmp_path):
    devices.set_deterministic(True)
    found = [
        content(*train(folder, regime, device=torch.device("cuda"), architecture=CONVNET,
                       augment={}), tmp_path)
        for regime in REGIMES
    ]  # fmt: skip
    assert found[0] == found[1] == found[2]
