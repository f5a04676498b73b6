"""A stopped training resumes and ends with the same bytes; no other one takes up its state."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import CONVNET, NETWORKS, PARAMS, SPEEDRUN, bars, changed, network, task

from striate.errors import UserError
from striate.training import loop, resume
from striate.training import step as steps
from striate.training.state import State

ROOT = Path(__file__).parents[3]
AUGMENTATION = {"translate": 1, "flip": True, "rotate": 5, "zoom": 0.1, "cutout": 1, "shrink": 4,
                "shrink_until": 0.5}  # fmt: skip
KILLS = int(os.environ.get("STRIATE_KILLS", "30"))
MIXED = AUGMENTATION | {"mixup": 0.4, "cutmix": 1.0}
STEPS = 4 * 3  # of 50 images in batches of 16, over three epochs


class Stopped(Exception):  # noqa: N818
    pass


class StoppingCheckpointer:
    """Holds the state in memory, saves it after every step, and stops after so many saves."""

    stop_requested = False

    def __init__(self, snapshot=None, saves=10**6):
        self.snapshot, self.left = snapshot, saves

    def is_due(self):
        return True

    def save(self, snapshot, label):
        self.snapshot, self.left = snapshot | {"rows": list(snapshot["rows"])}, self.left - 1
        if self.left == 0:
            raise Stopped


def fit(checkpointer, architecture=CONVNET, **options):
    """Train; returns the weights and the rows."""
    model = network(architecture)
    rows = list(loop.fit(model, task(val=bars(30, seed=1), **options), checkpointer=checkpointer))
    return model.state_dict(), rows


def same(first, second):
    (weights, rows), (others, other_rows) = first, second
    assert rows == other_rows
    assert weights.keys() == others.keys()
    return all(torch.equal(weights[name], others[name]) for name in weights)


RESUMED = {
    "adam": {},
    "weighted": {"class_weights": "balanced", "label_smoothing": 0.1},
    "sgd": {"optimizer": "sgd", "schedule": "cosine", "warmup": 0.2},
    "muon": {"optimizer": "muon", "bias_rate": 2.0, "architecture": SPEEDRUN},
    "bfloat16": {"precision": "bfloat16", "optimizer": "adamw", "keep": "best"},
    "augmented": {
        "augment": AUGMENTATION, "architecture": SPEEDRUN, "keep": "best", "patience": 2,
    },
    "all at once": {
        "augment": MIXED, "architecture": SPEEDRUN, "keep": "best", "clip": 0.5, "accumulate": 2,
        "ema": 0.9, "precision": "bfloat16", "optimizer": "muon",
    },
    **{name: {"optimizer": "muon", "architecture": one} for name, one in NETWORKS.items()},
}  # fmt: skip


@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED)
def test_stopped_after_any_step_it_ends_as_if_it_had_not_been(changes):
    expected = fit(None, **changes)
    saves = STEPS + 3  # and one after each epoch
    for after in range(1, saves + 1):
        stopped = StoppingCheckpointer(saves=after)
        with pytest.raises(Stopped):
            fit(stopped, **changes)
        torch.manual_seed(1)  # another process draws other numbers before
        assert same(fit(StoppingCheckpointer(stopped.snapshot), **changes), expected), after


def test_a_training_that_is_complete_yields_its_rows_without_another_step(monkeypatch):
    checkpointer = StoppingCheckpointer()
    expected = fit(checkpointer)
    monkeypatch.setattr(steps, "augment", None)  # any step would fail
    assert same(fit(StoppingCheckpointer(checkpointer.snapshot)), expected)


def test_patience_that_has_run_out_is_remembered(monkeypatch):
    monkeypatch.setattr(loop, "accuracy", lambda logits, labels: 0.5)
    checkpointer = StoppingCheckpointer()
    _, rows = fit(checkpointer, patience=1)
    assert len(rows) == 2
    assert len(fit(StoppingCheckpointer(checkpointer.snapshot), patience=1)[1]) == 2


@pytest.mark.parametrize("under_dvc", [False, True])
def test_what_is_saved_can_be_read_and_lasts_until_it_is_safe(tmp_path, monkeypatch, under_dvc):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if under_dvc:
        monkeypatch.setenv("DVC_STAGE", "train")
    checkpointer = resume.Checkpointer(tmp_path / "states/name.state", minutes=10)
    assert checkpointer.snapshot is None
    checkpointer.save({"tensors": {"a": torch.arange(3)}, "rows": [{"pair": (1, 0.1)}]}, "step 1")
    again = resume.Checkpointer(tmp_path / "states/name.state", minutes=10)
    assert torch.equal(again.snapshot["tensors"]["a"], torch.arange(3))
    assert again.snapshot["rows"] == [{"pair": (1, 0.1)}]
    assert resume.Checkpointer(tmp_path / "states/other.state", minutes=10).snapshot is None
    (tmp_path / "models").write_text("weights")
    again.finish(tmp_path / "models")
    left = {path.name: path for path in (tmp_path / "states").iterdir()}
    assert set(left) == ({"name.state", "name.done"} if under_dvc else set())
    if under_dvc:
        assert left["name.done"].read_text() == hashlib.md5(b"weights").hexdigest()
    again.finish(tmp_path / "models")  # also a second time


def test_seconds_of_a_training_add_up_over_its_parts(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    checkpointer = resume.Checkpointer(tmp_path / "name.state", minutes=10)
    now[0] += 5
    checkpointer.save({}, "")
    now[0] += 1000  # it was stopped
    again = resume.Checkpointer(tmp_path / "name.state", minutes=10)
    now[0] += 2
    assert again.seconds() == 7


def test_a_state_is_due_when_the_minutes_have_passed(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    checkpointer = resume.Checkpointer(tmp_path / "name.state", minutes=2)
    now[0] = 119.9
    assert not checkpointer.is_due()
    now[0] = 120.0
    assert checkpointer.is_due()
    checkpointer.save({}, "")
    assert not checkpointer.is_due()


@pytest.mark.parametrize("damage", ["cut short", "changed", "empty"])
def test_a_damaged_state_is_no_state(tmp_path, damage):
    resume.Checkpointer(tmp_path / "name.state", minutes=10).save(
        {"tensors": {"a": torch.zeros(99)}}, ""
    )
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut short": content[:-9], "empty": b""}.get(damage, content))
    assert resume.Checkpointer(tmp_path / "name.state", minutes=10).snapshot is None


@pytest.fixture
def code(tmp_path):
    """A copy of the package, and of the script that trains."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src/striate", tmp_path / "striate", ignore=ignored)
    shutil.copy(ROOT / "stages/train.py", tmp_path / "train.py")
    return tmp_path


def name(code, params=PARAMS, data="digits"):
    cpu = torch.device("cpu")
    return resume.fingerprint(params, {"name": data}, cpu, code / "train.py", code / "striate")


@pytest.mark.parametrize(
    ("edited", "is_another"),
    [
        ("train.py", True),
        ("striate/data/splits.py", True),
        ("striate/models/networks.py", True),
        ("striate/models/new/network.py", True),
        ("striate/training/loop.py", True),
        ("striate/models/__pycache__/networks.cpython-311.pyc", False),
        ("striate/__init__.py", False),
        ("striate/cli.py", False),
        ("striate/config/params.py", False),
        ("striate/datasets/fetch.py", False),
        ("striate/evaluation/metrics.py", False),
        ("striate/pipeline/stage.py", False),
        ("striate/reporting/figures.py", False),
        ("striate/tracking/logger.py", False),
        ("evaluate.py", False),
    ],
)
def test_code_that_shapes_a_training_changes_the_name_of_its_state(code, edited, is_another):
    before = name(code)
    path = code / edited
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write("# edited\n")
    assert (name(code) != before) is is_another


@pytest.mark.parametrize(
    ("section", "key", "value", "is_another"),
    [
        (None, "seed", 1, True),
        ("data", "val_size", 0.2, True),
        ("augment", "rotate", 5, True),
        ("model", "width", 8, True),
        ("training", "learning_rate", 0.01, True),
        ("training", "log_every", 3, True),
        ("data", "residency", "disk", False),
        ("training", "checkpoint_minutes", 0, False),
        ("evaluate", "batch_size", 10, False),
        ("evaluate", "tta", "flip", False),
    ],
)
def test_params_that_shape_a_training_change_the_name_of_its_state(
    code, section, key, value, is_another
):
    params = {key: value}
    if section:
        params = {section: changed(getattr(PARAMS, section), **params)}
    assert (name(code, changed(PARAMS, **params)) != name(code)) is is_another


def test_data_weights_and_machine_change_the_name_of_a_state(code, tmp_path, monkeypatch):
    found = [name(code), name(code, data="mnist")]
    first = tmp_path / "first"
    params = changed(PARAMS, training=changed(PARAMS.training, init_from=str(first)))
    for content in (b"some weights", b"others"):
        first.write_bytes(content)
        found.append(name(code, params))
    monkeypatch.setattr(resume, "describe", lambda device: {"torch.threads": "99"})
    found.append(name(code))
    assert len(set(found)) == len(found)
    monkeypatch.undo()
    assert name(code) == found[0]


def test_who_comes_second_is_told_who_trains(tmp_path):
    path = tmp_path / "train.lock"
    with resume.exclusive_lock(path):
        with (
            pytest.raises(UserError, match=rf"process {os.getpid()} \(in .*\) does this training"),
            resume.exclusive_lock(path),
        ):
            pytest.fail("two hold the lock")
        assert path.exists()
    with resume.exclusive_lock(path):
        pass
    assert not path.exists()


def test_a_lock_that_a_killed_process_left_behind_is_free(tmp_path):
    (tmp_path / "train.lock").write_text("process 1 (in /elsewhere)")
    with resume.exclusive_lock(tmp_path / "train.lock"):
        pass


def interrupted(checkpointer, *numbers, then):
    """Send signals to this process as to a training, and go on with `then`."""
    with checkpointer.delayed_interrupts():
        for number in numbers:
            os.kill(os.getpid(), number)
        then()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_the_state_is_saved(tmp_path, number):
    checkpointer = resume.Checkpointer(tmp_path / "name.state", minutes=10)
    before = signal.getsignal(number)

    def end_of_step():
        assert checkpointer.is_due()
        checkpointer.save({"rows": [1, 2]}, "epoch 2 of 5")
        pytest.fail("the saved state should have ended it")

    with pytest.raises(KeyboardInterrupt, match="the same command resumes after epoch 2 of 5"):
        interrupted(checkpointer, number, then=end_of_step)
    assert resume.Checkpointer(tmp_path / "name.state", minutes=10).snapshot["rows"] == [1, 2]
    assert signal.getsignal(number) is before


def test_an_interrupt_that_no_step_answers_comes_through_by_itself(tmp_path):
    checkpointer = resume.Checkpointer(tmp_path / "name.state", minutes=10)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="starts over"):
        interrupted(checkpointer, signal.SIGTERM, then=lambda: time.sleep(30))
    assert time.monotonic() - begin < 5


def test_a_state_is_saved_however_long_a_device_takes_once_a_step_has_answered(tmp_path):
    checkpointer = resume.Checkpointer(tmp_path / "name.state", minutes=10, grace=0.2)

    def end_of_step():
        assert checkpointer.is_due()
        time.sleep(0.5)  # as long as the device works off what it was given before
        checkpointer.save({}, "step 7 of 9 of epoch 1")

    with pytest.raises(KeyboardInterrupt, match="resumes after step 7 of 9 of epoch 1"):
        interrupted(checkpointer, signal.SIGINT, then=end_of_step)


@pytest.mark.parametrize(("device", "seconds"), [("cpu", 1.0), ("cuda", 10.0)])
def test_a_step_on_a_device_has_longer_to_answer(tmp_path, monkeypatch, device, seconds):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resume, "describe", lambda device: {})
    armed = []
    monkeypatch.setattr(signal, "setitimer", lambda which, after: armed.append(after))
    (tmp_path / "train.py").touch()
    with resume.checkpointing(
        PARAMS, {}, torch.device(device), tmp_path / "train.py"
    ) as checkpointer:
        interrupted(checkpointer, signal.SIGINT, then=lambda: None)
    assert armed == [seconds, 0]


def test_a_second_interrupt_comes_through_at_once(tmp_path):
    checkpointer = resume.Checkpointer(tmp_path / "name.state", minutes=10, grace=30)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted(checkpointer, signal.SIGINT, signal.SIGINT, then=lambda: time.sleep(20))
    assert time.monotonic() - begin < 5


@pytest.mark.walk
def test_trainings_killed_at_random_instants_end_with_the_same_bytes(tmp_path):
    from stages import run_stage, write_params

    write_params(
        tmp_path, model__dropout=0.1, augment__translate=1, augment__rotate=5, augment__flip=True,
        training__epochs=8, training__batch_size=20, training__schedule="cosine",
        training__keep="best", training__patience=6, training__checkpoint_minutes=0.0005,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        run_stage("download")
    env = os.environ | {
        "STRIATE_TRACKING": "off", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    answer = subprocess.run(
        [sys.executable, ROOT / "tests/helpers/kills.py", tmp_path, str(KILLS)],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert (found["kills"], found["equal"]) == (KILLS, KILLS)
    assert found["resumed"] >= KILLS / 2  # the others were killed before their first state
    assert found["within"] >= KILLS / 5  # states of the middle of an epoch


def test_the_random_numbers_of_a_device_are_saved_and_restored(monkeypatch):
    """MPS, or another device that this machine lacks: `meta` stands for it."""
    drawn = {"state": torch.tensor([7], dtype=torch.uint8)}

    class Module:
        @staticmethod
        def get_rng_state():
            return drawn["state"].clone()

        @staticmethod
        def set_rng_state(state):
            drawn["state"] = state

    monkeypatch.setattr(torch, "get_device_module", lambda device: Module)
    state = State(network(), task(), steps_per_epoch=4)
    assert len(state.random_states()) == 1
    snapshot = state.snapshot([])
    state.order = state.order.to("meta")
    snapshot["random_states"] = [state.random_states()]
    assert len(state.random_states()) == 2
    drawn["state"] = torch.tensor([9], dtype=torch.uint8)
    state.restore(snapshot, rank=0, world_size=1)
    assert drawn["state"].tolist() == [7]
