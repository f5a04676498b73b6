"""Images in device memory, in host memory and on disk: the same bytes, and bounded memory."""

import threading
from collections import deque
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_training import ARCHITECTURE, NO_AUGMENTATION, SETTINGS

from striate.data import tensors
from striate.datasets import catalogue
from striate.errors import UserError
from striate.models import checkpoint, devices, networks
from striate.models.normalization import Normalization
from striate.training import lazy_images, loop, memory
from striate.training.distributed import ALONE, Group

REGIMES = ("device", "host", "disk")
CPU = torch.device("cpu")
EVERYTHING = SimpleNamespace(
    translate=1, flip=True, rotate=5, zoom=0.1, cutout=2, shrink=6, shrink_until=0.5
)
SPEEDRUN = ARCHITECTURE | {"arch": "speedrun", "convs_per_layer": 2, "whiten": 2}
COUNT = 61  # with 12 held out, the last of 4 batches has a single image


def store(folder, channels, count=COUNT):
    """Noise that differs by class, as a data set."""
    random = np.random.default_rng(channels)
    labels = np.arange(count) % 3
    pixels = random.integers(0, 100, (count, channels, 9, 9), np.uint8)
    pixels[labels == 1, :, 3] += 100
    pixels[labels == 2, :, :, 5] += 100
    part = catalogue.Part(pixels, labels)
    moments = (0.5,) * channels, (0.2,) * channels
    catalogue.store(catalogue.Collection("toy", ("a", "b", "c"), 255, *moments, part, part), folder)
    return folder


@pytest.fixture(scope="module", params=[1, 3], ids=["gray", "colour"])
def folder(request, tmp_path_factory):
    return store(tmp_path_factory.mktemp("data"), request.param)


def train(folder, regime, *, device=CPU, val_size=12, architecture=SPEEDRUN, precision="float32",
          **options):  # fmt: skip
    """What stages/train.py does; `regime` may also be the arrays read whole, as `tensors`."""
    normalize = Normalization(255, None, None)
    if regime == "tensors":
        learnt, val = tensors.hold_out(tensors.load_split(folder, "train", device), val_size, 0)
        first = learnt.images[:20]
    else:
        learnt, val = tensors.hold_out(lazy_images.load(folder, "train", device), val_size, 0)
        first = learnt.images[:20].read()
        memory_format = devices.pick_precision(precision, device).memory_format
        learnt = lazy_images.reside(learnt, regime, memory_format)
        val = None if val is None else lazy_images.reside(val, regime)
    torch.manual_seed(0)
    model = networks.build(tuple(first.shape[1:]), 3, architecture).to(device)
    networks.whiten_(model, normalize(first))
    settings = SimpleNamespace(**SETTINGS | {"precision": precision, "capture": "never"})
    options = {"augmentation": EVERYTHING, "keeper": None, "group": ALONE} | options
    rows = list(
        loop.fit(model, learnt, val, settings=settings, normalize=normalize, seed=0, **options)
    )
    return model, rows


def content(model, rows, folder):
    checkpoint.save(model, {}, folder)
    return (folder / "cnn_trained.ckpt").read_bytes(), rows


@pytest.mark.parametrize(
    ("precision", "augmentation"),
    [("float32", EVERYTHING), ("auto", NO_AUGMENTATION), ("bfloat16", EVERYTHING)],
    ids=["float32", "auto", "bfloat16"],
)
def test_wherever_images_lie_the_bytes_are_the_same(folder, tmp_path, precision, augmentation):
    expected, *others = (
        content(*train(folder, regime, precision=precision, augmentation=augmentation), tmp_path)
        for regime in ("tensors", *REGIMES)
    )
    for regime, found in zip(REGIMES, others, strict=True):
        assert found == expected, regime


def test_without_validation_and_with_dropout_too(folder, tmp_path):
    options = {"val_size": 0, "architecture": ARCHITECTURE, "augmentation": NO_AUGMENTATION}
    found = [content(*train(folder, regime, **options), tmp_path) for regime in REGIMES]
    assert found[0] == found[1] == found[2]
    assert "val_loss" not in found[0][1][0]


class StoppingKeeper:
    """Stops a training after so many steps, in the middle of its second epoch."""

    def __init__(self, state=None, steps=0):
        self.state = state
        self.steps = steps
        self.stopping = False

    def due(self):
        self.steps -= 1
        self.stopping = self.steps == 0
        return self.stopping

    def save(self, state, saved):
        self.state = state
        if self.stopping:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("before", "after"), [("disk", "disk"), ("device", "disk"),
                                               ("disk", "host")])  # fmt: skip
def test_a_training_goes_on_within_an_epoch_from_elsewhere(folder, tmp_path, before, after):
    expected = content(*train(folder, "device"), tmp_path)
    stopped = StoppingKeeper(steps=6)
    with pytest.raises(KeyboardInterrupt):
        train(folder, before, keeper=stopped)
    assert (len(stopped.state["rows"]), stopped.state["taken"]) == (1, 2)
    assert content(*train(folder, after, keeper=StoppingKeeper(stopped.state)), tmp_path) == (
        expected
    )


class Part(Group):
    """A process whose others add nothing."""

    def add_(self, tensors):
        pass

    def told(self, value):
        return value

    def gathered(self, value):
        return [value] * self.size


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_of_a_batch_no_more_is_read_than_the_share_of_a_process(folder, monkeypatch, rank):
    group = Part(rank, 3)
    options = {
        "group": group,
        "architecture": ARCHITECTURE | {"norm": "none"},  # which would ask the other processes
        "augmentation": SimpleNamespace(**vars(EVERYTHING) | {"shrink": 0}),
    }
    model, rows = train(folder, "device", **options)
    taken = []
    gathered = lazy_images.Stored._gathered

    def noted(self):
        taken.append(self.places)
        return gathered(self)

    monkeypatch.setattr(lazy_images.Stored, "_gathered", noted)
    other, others = train(folder, "disk", **options)
    assert others == rows
    for name, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    own = [group.share(size) for size in (16, 16, 16, 1)]
    of_an_epoch = [share.part.stop - share.part.start for share in own]
    held = group.share(12).part
    expected = [*of_an_epoch, held.stop - held.start]
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
    gathered = lazy_images.Stored._gathered
    calls = iter(range(100))

    def failing(self):
        if next(calls) == 7:
            raise OSError(5, "Input/output error")
        return gathered(self)

    monkeypatch.setattr(lazy_images.Stored, "_gathered", failing)
    with pytest.raises(OSError, match="Input/output error") as caught:
        train(folder, "disk")
    # The frames that the error holds keep nothing alive.
    assert len(readers()) == before
    del caught


def test_a_training_that_is_given_up_leaves_no_readers(folder):
    before = len(readers())
    learnt, _ = tensors.hold_out(lazy_images.load(folder, "train", CPU), 0, 0)
    model = networks.build(tuple(learnt.images.pixels.shape[1:]), 3, ARCHITECTURE)
    settings = SimpleNamespace(**SETTINGS)

    class EnoughError(Exception):
        pass

    counts = iter(range(100))

    def normalize(pixels):
        if next(counts) == 2:
            raise EnoughError
        return pixels.float()

    arguments = {"settings": settings, "augmentation": NO_AUGMENTATION, "seed": 0}
    with pytest.raises(EnoughError):
        next(loop.fit(model, learnt, None, normalize=normalize, **arguments))
    assert len(readers()) == before
    rows = loop.fit(model, learnt, None, normalize=torch.Tensor.float, **arguments)
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
    part = catalogue.Part(np.zeros((count, 1, 25, 40), np.uint8), np.arange(count) % 2)
    few = catalogue.Part(part.images[:2], part.labels[:2])
    catalogue.store(
        catalogue.Collection("toy", ("a", "b"), 255, (0.5,), (0.2,), part, few), tmp_path
    )

    def own():
        """What this process has, without the files that it maps."""
        lines = Path("/proc/self/status").read_text().splitlines()
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))

    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux")
    before = own()
    learnt, val = tensors.hold_out(lazy_images.load(tmp_path, "train", CPU), 0.1, 0)
    batch = next(learnt.images.batches([torch.arange(0, 50_000, 500)]))
    assert (len(learnt.labels), len(val.labels), len(batch)) == (57_600, 6_400, 100)
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
        content(*train(folder, regime, device=torch.device("cuda"), architecture=ARCHITECTURE,
                       augmentation=NO_AUGMENTATION), tmp_path)
        for regime in REGIMES
    ]  # fmt: skip
    assert found[0] == found[1] == found[2]
