"""Several processes train one network: what each takes, what they add up to, and how they end."""

import contextlib
import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import psutil
import pytest
import torch
import yaml
from clones import without_waits
from tiny import CONVNET, NETWORKS, bars, network, task

from striate.config import params
from striate.data import json_csv
from striate.errors import UserError
from striate.models import devices, registry, sizing
from striate.training import distributed, loop, norms, torchrun, transfer

ROOT = Path(__file__).parents[3]
KILLS = os.environ.get("STRIATE_KILLS", "")
PLAIN = CONVNET | {"norm": "none", "dropout": 0.0}
# Of the others, each batch norm of a process that has one image would see a single value.
OTHER_NORMS = {"residual": "group", "mlp": "layer", "recurrent": "group"}
EVERY = {"translate": 1, "flip": True, "rotate": 5, "zoom": 0.1, "cutout": 1}
TECHNIQUES = {
    "augment": EVERY | {"mixup": 0.4, "cutmix": 1.0}, "clip": 0.5, "accumulate": 2, "ema": 0.9,
}  # fmt: skip


class Threads:
    """A group whose processes are threads of this one."""

    rank_slice = distributed.Group.rank_slice

    def __init__(self, rank, size, slots, barrier):
        self.rank, self.size, self.slots, self.barrier = rank, size, slots, barrier

    def all_gather(self, value):
        self.slots[self.rank] = value
        self.barrier.wait(60)
        found = list(self.slots)
        self.barrier.wait(60)
        return found

    def broadcast(self, value):
        return copy.deepcopy(self.all_gather(value)[0])

    def broadcast_(self, tensors):
        for tensor, first in zip(tensors, self.broadcast(tensors), strict=True):
            tensor.copy_(first)

    def all_reduce(self, tensors):
        found = self.all_gather([tensor.clone() for tensor in tensors])
        for number, tensor in enumerate(tensors):
            tensor.copy_(sum(parts[number] for parts in found))


def test_what_a_rank_draws_otherwise_is_the_main_ranks(monkeypatch):
    """As other models of GPUs do, for many images."""

    class Odd(Threads):
        def broadcast_(self, tensors):
            if self.rank:
                tensors[0].copy_(tensors[0].flip(0))
            super().broadcast_(tensors)

    monkeypatch.setitem(globals(), "Threads", Odd)
    one, two = fit(1, augment={"flip": True}), fit(2, augment={"flip": True})
    for rows in (found[1] for found in two):
        assert [loss for row in rows for _, loss in row["step_losses"]] == pytest.approx(
            [loss for row in one[0][1] for _, loss in row["step_losses"]], abs=1e-5
        )


def fit(size, checkpointers=None, architecture=PLAIN, **options):
    """Train by so many threads; returns for each of them its weights, its rows and its failure."""
    slots, barrier = [None] * size, threading.Barrier(size)
    found = [None] * size

    def member(rank):
        group = Threads(rank, size, slots, barrier) if size > 1 else distributed.SINGLE_PROCESS
        rows, failure = [], None
        try:
            own = checkpointers[rank] if checkpointers else None
            for row in loop.fit(replicas[rank], images, checkpointer=own, group=group):
                rows.append(row)
        except BaseException as error:
            failure = error
        found[rank] = replicas[rank].state_dict(), rows, failure

    images = task(val=bars(30, seed=1), **{"log_every": 1} | options)
    replicas = [network(architecture) for _ in range(size)]
    members = [threading.Thread(target=member, args=(rank,)) for rank in range(size)]
    for thread in members:
        thread.start()
    for thread in members:
        thread.join(120)
    return found


def step_losses(rows):
    return [loss for row in rows for _, loss in row["step_losses"]]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100, 1437])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_every_image_of_a_batch_is_taken_once(count, size):
    parts = [range(count)[distributed.Group(rank, size).rank_slice(count)] for rank in range(size)]
    assert [index for part in parts for index in part] == list(range(count))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "label_smoothing": 0.1, "schedule": "cosine"},
        {"class_weights": "balanced", "label_smoothing": 0.1},
        {"augment": EVERY, "keep": "best"},
        {"augment": EVERY, "batch_size": 7},  # one image is left to the last step
        TECHNIQUES,
        TECHNIQUES | {"batch_size": 7},
    ],
    ids=[
        "adam",
        "sgd",
        "weighted",
        "augmented",
        "left over",
        "techniques",
        "techniques, left over",
    ],
)
def test_each_step_has_the_loss_that_one_process_has(size, changes):
    ((_, expected, _),) = fit(1, **changes)
    for weights, rows, failure in fit(size, **changes):
        assert failure is None
        assert len(step_losses(rows)) == len(step_losses(expected))
        for ours, theirs in zip(step_losses(rows), step_losses(expected), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)
        for row, single in zip(rows, expected, strict=True):
            assert row["train_accuracy"] == single["train_accuracy"]
            assert row["val_accuracy"] == single["val_accuracy"]
            assert row["val_loss"] == pytest.approx(single["val_loss"], abs=1e-5)
        assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_all_end_with_the_same_network_and_the_same_rows(name):
    architecture = NETWORKS[name] | {"dropout": 0.0}
    if name in OTHER_NORMS:
        architecture = architecture | {"norm": OTHER_NORMS[name]}
    if name == "timm":
        architecture = architecture | {"arch": "timm:test_nfnet"}  # which has no batch norms
    # One image is left to the last step, and none to three of four processes.
    (first, rows, failure), *others = fit(4, architecture=architecture, batch_size=7, epochs=2)
    assert failure is None
    unnormalized = name in OTHER_NORMS or name in ("lenet5", "vit", "timm")
    assert any(key.endswith("running_var") for key in first) != unnormalized
    assert all(value.isfinite().all() for value in first.values())
    for weights, other_rows, _ in others:
        assert other_rows == rows
        assert all(torch.equal(first[name], weights[name]) for name in first)


def test_a_norm_without_synchronisation_keeps_the_mean_of_what_the_processes_saw():
    model = registry.build((1, 6, 6), 3, CONVNET)
    assert not norms.synchronize_(model, torch.device("cpu"))
    mean, var = norms.running_statistics(model)
    assert mean.shape == var.shape == (4,)
    transfer.freeze_(model, "features")
    norms.train_(model)
    assert norms.running_statistics(model) == []  # a frozen norm changes nothing
    assert norms.synchronize_(registry.build((1, 6, 6), 3, PLAIN), torch.device("cpu"))


class Checkpointer:
    """Holds the states of a process in memory, and asks to save one after so many steps."""

    def __init__(self, snapshot=None, due_at=None, stop_at=None):
        self.snapshot, self.stop_requested = snapshot, False
        self.due_at, self.stop_at = due_at, stop_at
        self.asked, self.labels = 0, []

    def is_due(self):
        self.asked += 1
        self.stop_requested = self.stop_requested or self.asked == self.stop_at
        return self.stop_requested or self.asked == self.due_at

    def save(self, snapshot, label):
        self.snapshot = snapshot | {"rows": list(snapshot["rows"])}
        self.labels.append(label)
        if self.stop_requested:
            raise KeyboardInterrupt


def test_a_state_that_one_process_wants_is_saved_by_all_at_the_same_step():
    checkpointers = [Checkpointer(), Checkpointer(due_at=6)]
    fit(2, checkpointers)
    assert checkpointers[0].labels == checkpointers[1].labels
    assert checkpointers[0].labels[1] == "step 2 of 4 of epoch 2"


@pytest.mark.parametrize("architecture", [PLAIN, CONVNET], ids=["plain", "norm"])
def test_all_stop_together_and_go_on_to_the_same_end(architecture):
    changes = {"architecture": architecture | {"dropout": 0.0}} | TECHNIQUES
    undisturbed = fit(2, **changes)
    checkpointers = [Checkpointer(), Checkpointer(stop_at=7)]
    stopped = fit(2, checkpointers, **changes)
    assert [type(failure) for _, _, failure in stopped] == [KeyboardInterrupt] * 2
    assert checkpointers[0].labels[-1] == checkpointers[1].labels[-1] == "step 3 of 4 of epoch 2"
    # Only the first process has what was saved.
    again = fit(2, [Checkpointer(checkpointers[0].snapshot), Checkpointer()], **changes)
    for (weights, rows, _), (others, other_rows, failure) in zip(undisturbed, again, strict=True):
        assert failure is None
        assert rows == other_rows
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_another_number_of_processes_goes_on_from_the_same_state():
    checkpointers = [Checkpointer(), Checkpointer(stop_at=7)]
    fit(2, checkpointers)
    ((_, expected, _),) = fit(1)
    ((_, rows, failure),) = fit(1, [Checkpointer(checkpointers[0].snapshot)])
    assert failure is None
    assert step_losses(rows) == pytest.approx(step_losses(expected), abs=1e-5)


def test_a_loss_that_is_no_number_ends_all_at_the_same_step():
    changes = {"optimizer": "sgd", "learning_rate": 1e30}
    said = {str(failure) for _, _, failure in fit(2, **changes)}
    ((_, _, alone),) = fit(1, **changes)
    assert said == {str(alone)}
    assert isinstance(alone, UserError)


def test_a_part_of_one_image_is_refused_where_a_norm_needs_two():
    sizing.check_last_batch(100, 10, processes=4)
    with pytest.raises(UserError, match=r"leaves 3 of 103 images to the last step, in 2 parts"):
        sizing.check_last_batch(103, 10, processes=2)


def settings(**changes):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key, value in changes.items():
        section, name = key.split("__")
        values[section][name] = value
    return values


@pytest.mark.parametrize("wrong", [0, 1025, 1.5, "all", True, None, [2]])
def test_a_faulty_number_of_processes_is_refused_in_one_line(wrong):
    with pytest.raises(params.ParamsError) as caught:
        params.check(settings(training__processes=wrong))
    assert str(caught.value) == (
        f"params.yaml: training.processes is {wrong!r}; it must be auto, or a whole number from 1"
        " to 1024"
    )


def test_which_processes_are_started(monkeypatch):
    for name in torchrun.OF_A_MEMBER | torchrun.OF_MORE_MACHINES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "count_gpus", lambda: 0)
    assert not torchrun.is_needed(1, "auto")
    assert not torchrun.is_needed("auto", "auto")
    assert torchrun.is_needed(2, "auto")
    monkeypatch.setattr(devices, "count_gpus", lambda: 4)
    assert torchrun.is_needed("auto", "auto")
    assert torchrun.count("auto", "auto") == torchrun.count("auto", "cuda") == 4
    assert torchrun.count("auto", "cpu") == 1  # which needs no process for each GPU
    monkeypatch.setenv("PET_NNODES", "2")
    assert torchrun.is_needed(1, "auto")
    for name in torchrun.OF_A_MEMBER:
        monkeypatch.setenv(name, "1")
    assert torchrun.is_member()
    assert not torchrun.is_needed(2, "auto")  # of a group that is there already
    assert not torchrun.is_main_process()


@pytest.mark.parametrize(("name", "value"), [("PET_NNODES", "two"), ("PET_MAX_RESTARTS", "x")])
def test_a_faulty_variable_of_torchrun_is_named_in_one_line(name, value):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), name: value}
    code = "from striate.training import torchrun; torchrun.launch(2, 'no-script.py', 'cpu')"
    answer = subprocess.run(
        [sys.executable, "-c", f"from striate.errors import *\nwith exit_on_error(): {code}"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith(f"error: torchrun rejected {name}: ")
    assert "PET_NPROC_PER_NODE" not in answer.stderr  # which nobody has set
    assert len(answer.stderr.split(": ", 2)[2]) > 5  # a reason
    assert answer.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder in which the digits are stored."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "params.yaml").write_text(yaml.safe_dump(settings()))
    stage(folder, "download")
    return folder / "data"


@pytest.fixture
def folder(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    return tmp_path


def stage(folder, name="train", **changes):
    """Run a stage in a process of its own; returns its status and what it said."""
    if changes:
        (folder / "params.yaml").write_text(yaml.safe_dump(settings(**changes)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "STRIATE_TRACKING": "off"}
    answer = subprocess.run(
        [sys.executable, str(ROOT / f"stages/{name}.py")], cwd=folder, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return answer.returncode, answer.stdout, without_waits(answer.stderr)


@pytest.mark.walk
def test_one_two_and_four_processes_have_the_same_losses(folder):
    changes = {
        "model__norm": "none", "training__precision": "float32", "training__log_every": 1,
        "training__epochs": 3, "augment__translate": 1, "augment__rotate": 10,
    }  # fmt: skip
    found = {}
    for processes in (1, 2, 4):
        status, out, err = stage(folder, training__processes=processes, **changes)
        assert (status, err) == (0, "")
        assert out.count("epoch 3/3") == 1
        assert (f"{processes} processes" in out) == (processes > 1)
        found[processes] = json_csv.read_table(folder / "metrics/steps.csv")["step_loss"]
        assert json_csv.read_json(folder / "metrics/train.json")["epochs"] == 3
    assert len(found[1]) == 3 * math.ceil(1293 / 100)
    furthest = {n: max(map(abs, map(float.__sub__, found[1], found[n]))) for n in (2, 4)}
    print(furthest)
    assert max(furthest.values()) < 1e-5


@pytest.mark.walk
def test_what_is_wrong_is_said_once_and_not_tried_again(folder):
    two = {"training__processes": 2}
    status, out, err = stage(folder, model__layers=4, **two)
    assert (status, out) == (2, "")
    assert err == (
        "error: model.layers is 4, too many for images of 8×8 pixels, which each layer halves; the"
        " largest possible value is 3\n"
    )
    diverging = {"training__optimizer": "sgd", "training__learning_rate": 90.0}
    status, out, err = stage(
        folder, model__norm="none", model__activation="leaky_relu", **diverging, **two
    )
    assert status == 2
    assert err.startswith("error: the loss became nan at step ")
    assert len(err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "place", "line"),
    [
        ("user", "between", "error: the loss became nan"),
        ("memory", "stuck", "error: there is too little memory for this on the GPU; "),
        ("disk", "before", "error: state: No space left on device"),
        ("disk", "training", "error: state: No space left on device"),
        ("code", "training", "error: process 1 failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_failure_of_one_process_is_told_though_another_one_waits(tmp_path, kind, place, line):
    answer = subprocess.run(
        [sys.executable, str(ROOT / "tests/helpers/failing_rank.py"), kind, place], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "STRIATE_TRACKING": "off"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    seconds = time.time() - float((tmp_path / "failed").read_text())
    assert (answer.returncode, answer.stdout) == (2, "")
    *traceback, last = answer.stderr.splitlines()
    assert last.startswith(line)
    # What is a fault of the code is shown once, and nothing but the line is said of others.
    assert [shown for shown in traceback if shown[:1] != " "] == (
        ["Traceback (most recent call last):", "ZeroDivisionError: division by zero"]
        if kind == "code"
        else []
    )
    assert seconds < 15


def stuck(kind, folder):
    """The launcher of two processes, of which one waits in C and the other fails so."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/helpers/failing_rank.py"), kind, "stuck"], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "STRIATE_TRACKING": "off"},
    )  # fmt: skip


@pytest.mark.walk
def test_a_process_that_waits_in_vain_for_a_killed_one_is_started_anew_with_it(tmp_path):
    assert stuck("killed", tmp_path).wait(120) == 0
    # The other one, which cannot end by itself, is ended by its watch, and both are restarted.
    assert time.time() - float((tmp_path / "failed").read_text()) < 45


@pytest.mark.walk
def test_processes_end_when_torchrun_is_killed_also_where_they_wait_in_vain(tmp_path):
    launcher = stuck("orphaned", tmp_path)
    members = []
    while launcher.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            members = psutil.Process(launcher.pid).children() or members
        time.sleep(0.01)
    assert len(members) == 2
    _, alive = psutil.wait_procs(members, timeout=15)
    assert alive == []


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), ("bfloat16", 0.05)])
def test_synchronised_norms_train_with_a_process_that_has_no_image_of_a_batch(
    tmp_path, precision, error
):
    answer = subprocess.run(
        [sys.executable, str(ROOT / "tests/helpers/sync_norms.py"), precision], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "STRIATE_TRACKING": "off"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (answer.returncode, answer.stderr) == (0, "")
    alone, *two = [json.loads(line) for line in answer.stdout.splitlines()]
    assert [alone["size"], *(member["size"] for member in two)] == [1, 2, 2]
    assert two[0] == two[1]
    assert two[0]["losses"] == pytest.approx(alone["losses"], abs=error)
    for ours, theirs in zip(two[0]["running"], alone["running"], strict=True):
        assert ours == pytest.approx(theirs, abs=error)


def test_a_process_without_a_gradient_adds_zeros():
    learnt = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
    learnt[1].grad = torch.full((4,), 2.0)
    found = distributed.gradients(learnt)
    assert [value.tolist() for value in found] == [[[0.0] * 3] * 2, [2.0] * 4]
    assert learnt[0].grad is found[0]


def test_all_processes_send_float32(monkeypatch):
    sent = []
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda flat: sent.append(flat.clone()))
    narrow, wide = torch.ones(2, dtype=torch.bfloat16), torch.zeros(3)
    distributed.Group(0, 2).all_reduce([narrow])
    distributed.Group(0, 2).all_reduce([narrow, wide])
    assert [flat.dtype for flat in sent] == [torch.float32] * 2
    assert (narrow.dtype, narrow.tolist()) == (torch.bfloat16, [1, 1])


NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, {kind} (run with"
    " NCCL_DEBUG=WARN for details), NCCL version 2.30.7\n{said}\nLast error:\n{last}\n"
)
USAGE = "ncclInvalidUsage: This usually reflects invalid usage of NCCL library."
DUPLICATE = "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 8000"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            RuntimeError("[/pytorch/gloo/tcp/pair.cc:537] Connection closed by peer [::1]:4"),
            distributed.PeerLostError, "Connection closed by peer [::1]:4",
        ),
        (
            RuntimeError("[../unbound_buffer.cc:81] Timed out waiting 300000ms for recv operation"),
            distributed.PeerLostError, "Timed out waiting 300000ms for recv operation",
        ),
        (
            distributed.dist.DistStoreError("wait timeout after 300000ms, keys: /default_pg/0//1"),
            distributed.PeerLostError, "wait timeout after 300000ms, keys: /default_pg/0//1",
        ),
        (
            distributed.dist.DistNetworkError(
                "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server"
                " shutdown or crash? Exception raised from recvBytes at x.hpp:678 (most recent"
            ),
            distributed.PeerLostError, "Failed to recv, got 0 bytes",
        ),
        (
            distributed.dist.DistBackendError(NCCL.format(
                kind="remote process exited or there was a network error", last="",
                said="ncclRemoteError: A call failed possibly due to a network error or a remote"
                " process exiting prematurely.",
            )),
            distributed.PeerLostError, "NCCL error in: ",
        ),
        (
            distributed.dist.DistBackendError(
                NCCL.format(kind="invalid usage", said=USAGE, last=DUPLICATE)
            ),
            UserError,
            f"the processes cannot train together: {USAGE} Last error: {DUPLICATE}",
        ),
        (
            distributed.dist.DistBackendError(NCCL.format(
                kind="unhandled cuda error", said="ncclUnhandledCudaError: Call failed.",
                last="Cuda failure 2 'out of memory'",
            )),
            distributed.dist.DistBackendError, "NCCL error in: ",
        ),
        (
            RuntimeError("The size of tensor a (2) must match the size of tensor b (3)"),
            RuntimeError, "The size of tensor a (2) must match the size of tensor b (3)",
        ),
    ],
    ids=["gone", "silent", "store", "socket", "nccl", "duplicate", "memory", "code"],
)  # fmt: skip
def test_what_a_collective_raises_is_told_as_what_it_is(error, kind, text, monkeypatch):
    def fail(flat):
        raise error

    monkeypatch.setattr(distributed.dist, "all_reduce", fail)
    with pytest.raises(kind) as caught:
        distributed.Group(0, 2).all_reduce([torch.ones(1)])
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)
    if kind is UserError:
        assert str(caught.value) == text


@pytest.fixture
def member(monkeypatch):
    """The environment of the second of two processes, on a machine with one GPU."""
    started = []
    monkeypatch.setattr(torchrun, "watch", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(devices, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(
        distributed.dist, "init_process_group", lambda *_, **options: started.append(options)
    )
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: started.append("end"))
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.delenv(torchrun.MESSAGES, raising=False)
    for name in torchrun.OF_A_MEMBER:
        monkeypatch.setenv(name, "1")
    return started


@pytest.mark.parametrize(
    ("local", "line"),
    [
        ("1", r"^2 processes need a GPU each, and this machine has 1; lower training\.processes"),
        (None, r"^LOCAL_RANK is ''; it must be the number of this process on its machine"),
        ("x", r"^LOCAL_RANK is 'x'; it must be the number of this process on its machine"),
    ],
)
def test_a_process_without_a_gpu_of_its_own_says_so(member, monkeypatch, local, line):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    with pytest.raises(UserError, match=line), distributed.process_group("cuda"):
        pass
    assert member == []


def test_a_process_names_its_gpu_to_the_group_which_it_leaves_after_success_only(
    member, monkeypatch
):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with distributed.process_group("cuda") as (group, device):
        assert (group, device.type) == (distributed.Group(1, 2), "cuda")
    assert [member[0]["device_id"], *member[1:]] == [torch.device("cuda", 0), "end"]
    member.clear()
    with pytest.raises(ZeroDivisionError), distributed.process_group("cpu"):
        raise ZeroDivisionError
    assert [options["device_id"] for options in member] == [None]


def test_a_collective_inside_of_a_norm_tells_that_another_process_is_gone(member, capsys):
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as caught, distributed.process_group("cpu"):
            raise RuntimeError(
                "[/gloo/pair.cc:545] Read error [::1]:1: Connection reset by peer. It"
            )
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert caught.value.code == 1
    assert capsys.readouterr().err == (
        "process 1 has lost another one: Read error [::1]:1: Connection reset by peer\n"
    )


def test_a_process_whose_gpu_cannot_be_used_does_not_fall_back_alone(member, monkeypatch):
    asked = []
    monkeypatch.setattr(devices, "sees_gpu", lambda: True)
    monkeypatch.setattr(
        devices, "pick_device", lambda name: asked.append(name) or torch.device("cpu")
    )
    with distributed.process_group("auto"):
        pass
    assert asked == ["cuda"]


@mock.patch.dict(os.environ)
def test_processes_that_are_to_take_the_cpu_see_no_gpu(monkeypatch):
    for name, hidden in (("cuda", None), ("auto", "")):
        for variable in ("CUDA_VISIBLE_DEVICES", "PET_NPROC_PER_NODE"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setattr(devices, "count_gpus", lambda: 0)
        torchrun._set_variables(2, name)
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == hidden


def test_a_kernel_that_takes_too_long_is_no_lost_process(member):
    error = torch.AcceleratorError("CUDA error: the launch timed out and was terminated")
    with pytest.raises(torch.AcceleratorError), distributed.process_group("cpu"):
        raise error


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_more_processes_than_gpus_are_refused_before_any_is_started(monkeypatch, device):
    monkeypatch.setattr(devices, "count_gpus", lambda: 2)
    monkeypatch.delenv("PET_NPROC_PER_NODE", raising=False)
    with pytest.raises(UserError, match=r"^3 processes need a GPU each, and this machine has 2; "):
        torchrun.launch(3, Path("no-script.py"), device)


@mock.patch.dict(os.environ)
def test_a_variable_does_not_change_the_number_of_processes_on_one_machine(monkeypatch):
    """DVC would keep the result as that of the params."""
    monkeypatch.setenv("PET_NPROC_PER_NODE", "7")
    with pytest.raises(UserError, match=r"^PET_NPROC_PER_NODE is 7, and training\.processes make"):
        torchrun.launch(2, Path("no-script.py"), "cpu")
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torchrun._set_variables(2, "cpu")
    assert os.environ["PET_NPROC_PER_NODE"] == "7"


@pytest.mark.gpu
def test_one_process_more_than_this_machine_has_gpus_is_refused(folder):
    gpus = torch.cuda.device_count()
    status, out, err = stage(folder, training__processes=gpus + 1, training__device="cuda")
    assert (status, out) == (2, "")
    assert err.startswith(
        f"error: {gpus + 1} processes need a GPU each, and this machine has {gpus};"
    )
    assert err.count("\n") == 1


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_gpus_train_alike_twice_also_from_a_batch_of_one_image(folder, precision):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    found = []
    for _ in range(2):
        status, out, err = stage(
            folder, training__processes=2, training__device="cuda", training__epochs=2,
            training__batch_size=323, training__precision=precision,
        )  # fmt: skip
        assert (status, err) == (0, "")
        assert "1,293 images in memory, on cuda, 2 processes\n" in out  # 4 × 323 + 1
        found.append((folder / "models/cnn_trained.ckpt").read_bytes())
    assert found[0] == found[1]


def script(name, *arguments):
    """What a script of this folder prints as JSON in its last lines."""
    environment = {**os.environ, "STRIATE_TRACKING": "off"}
    answer = subprocess.run(
        [sys.executable, str(ROOT / "tests" / name), *map(str, arguments)], env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines() if line[:1] == "{"]


EPOCHS = 30  # of the trainings that are disturbed


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """The weights that a training by two processes ends with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(data, folder / "data")
    status, _, _ = stage(folder, training__processes=2, training__epochs=EPOCHS)
    assert status == 0
    return (folder / "models/cnn_trained.ckpt").read_bytes()


@pytest.mark.walk
@pytest.mark.parametrize("ranks", [(0,), (1, 0)])
def test_killed_processes_are_started_anew_and_end_with_the_same_bytes(folder, ranks, undisturbed):
    changed = settings(training__processes=2, training__epochs=EPOCHS)
    (folder / "params.yaml").write_text(yaml.safe_dump(changed))
    launcher = Group(folder)
    for number, rank in enumerate(ranks):
        # The first of them early in the training, the second one after it has gone on.
        launcher.kill(rank, after=f"epoch {3 + 9 * number}/")
    assert launcher.wait() == 0, launcher.said()
    assert launcher.said().count("resuming after epoch") == len(ranks)
    assert "Traceback" not in launcher.said()
    assert (folder / "models/cnn_trained.ckpt").read_bytes() == undisturbed
    assert not list((folder / ".dvc/tmp/striate").iterdir())


@pytest.mark.skipif(not KILLS, reason="`make nightly` runs it")
def test_processes_that_are_killed_at_random_instants_cost_nothing(folder):
    changed = settings(training__processes=2, training__epochs=EPOCHS)
    (folder / "params.yaml").write_text(yaml.safe_dump(changed))
    answer = subprocess.run(
        [sys.executable, str(ROOT / "tests/helpers/kills_of_groups.py"), str(folder), KILLS],
        env={**os.environ, "STRIATE_TRACKING": "off"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    print(answer.stdout)
    for found in map(json.loads, answer.stdout.splitlines()):
        assert found["survived"] == found["equal"] == found["attempts"] > 0


class Group:
    """A training by several processes that goes on, and what it has said."""

    def __init__(self, folder):
        self.log = folder / "train.log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "STRIATE_TRACKING": "off"}
        with self.log.open("w") as sink:
            self.launcher = subprocess.Popen(
                [sys.executable, str(ROOT / "stages/train.py")], cwd=folder, env=environment,
                stdout=sink, stderr=sink,
            )  # fmt: skip

    def said(self):
        return self.log.read_text()

    def kill(self, rank, after):
        """Kill the process of a rank once the training has said this."""
        end = time.monotonic() + 120
        while after not in self.said():
            assert self.launcher.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.01)
        members = psutil.Process(self.launcher.pid).children()
        next(one for one in members if one.environ()["RANK"] == str(rank)).kill()

    def wait(self):
        return self.launcher.wait(120)


@pytest.mark.walk
@pytest.mark.skipif(
    not (sys.platform == "linux" and os.geteuid() == 0 and shutil.which("ip")),
    reason="hosts are simulated by root on Linux, with iproute2",
)
def test_two_hosts_train_together_also_after_one_was_cut_off(folder, undisturbed):
    (folder / "params.yaml").write_text(yaml.safe_dump(settings(training__epochs=EPOCHS)))
    environment = {**os.environ, "STRIATE_TRACKING": "off"}
    answer = subprocess.run(
        [sys.executable, str(ROOT / "tests/helpers/hosts.py"), str(folder), "3", "4"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["status"] == [0, 0]
    assert found["epochs_meanwhile"] == 0
    # As by two processes on one host.
    assert (folder / "models/cnn_trained.ckpt").read_bytes() == undisturbed
