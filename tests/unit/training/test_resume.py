"""A training that was stopped goes on, to the same bytes; no other one takes its state up."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from test_training import ARCHITECTURE, NO_AUGMENTATION, SETTINGS, SPEEDRUN, bars

from striate.config import params
from striate.errors import UserError
from striate.models import networks
from striate.models.normalization import Normalization
from striate.training import loop, resume

ROOT = Path(__file__).parents[3]
AUGMENTATION = SimpleNamespace(
    translate=1, flip=True, rotate=5, zoom=0.1, cutout=1, shrink=4, shrink_until=0.5
)
KILLS = int(os.environ.get("STRIATE_KILLS", "30"))
STEPS = 4 * 3  # of 50 images in batches of 16, over three epochs


class Stopped(Exception):  # noqa: N818
    pass


class StoppingKeeper:
    """Keeps the state in memory, saves it after every step, and stops after so many saves."""

    stopping = False

    def __init__(self, state=None, saves=10**6):
        self.state, self.left = state, saves

    def due(self):
        return True

    def save(self, state, saved):
        self.state, self.left = state | {"rows": list(state["rows"])}, self.left - 1
        if self.left == 0:
            raise Stopped


def fit(keeper, architecture=ARCHITECTURE, augmentation=NO_AUGMENTATION, **changes):
    """Train; returns the weights and the rows."""
    torch.manual_seed(0)
    model = networks.build((1, 6, 6), 3, architecture)
    rows = list(
        loop.fit(
            model, bars(50), bars(30, seed=1), settings=SimpleNamespace(**SETTINGS | changes),
            augmentation=augmentation, normalize=Normalization(255, None, None), seed=0,
            keeper=keeper,
        )
    )  # fmt: skip
    return model.state_dict(), rows


def same(first, second):
    (weights, rows), (others, other_rows) = first, second
    assert rows == other_rows
    assert weights.keys() == others.keys()
    return all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "schedule": "cosine", "warmup": 0.2},
        {"optimizer": "muon", "bias_rate": 2.0, "architecture": SPEEDRUN},
        {"precision": "bfloat16", "optimizer": "adamw", "keep": "best"},
        {"augmentation": AUGMENTATION, "architecture": SPEEDRUN, "keep": "best", "patience": 2},
    ],
    ids=["adam", "sgd", "muon", "bfloat16", "augmented"],
)
def test_stopped_after_any_step_it_ends_as_if_it_had_not_been(changes):
    expected = fit(None, **changes)
    saves = STEPS + 3  # and one after each epoch
    for after in range(1, saves + 1):
        stopped = StoppingKeeper(saves=after)
        with pytest.raises(Stopped):
            fit(stopped, **changes)
        torch.manual_seed(1)  # another process draws other numbers before
        assert same(fit(StoppingKeeper(stopped.state), **changes), expected), after


def test_a_training_that_is_complete_yields_its_rows_without_another_step(monkeypatch):
    keeper = StoppingKeeper()
    expected = fit(keeper)
    monkeypatch.setattr(loop, "augment", None)  # any step would fail
    assert same(fit(StoppingKeeper(keeper.state)), expected)


def test_patience_that_has_run_out_is_remembered(monkeypatch):
    monkeypatch.setattr(loop, "accuracy", lambda logits, labels: 0.5)
    keeper = StoppingKeeper()
    _, rows = fit(keeper, patience=1)
    assert len(rows) == 2
    assert len(fit(StoppingKeeper(keeper.state), patience=1)[1]) == 2


@pytest.mark.parametrize("under_dvc", [False, True])
def test_what_is_saved_can_be_read_and_lasts_until_it_is_safe(tmp_path, monkeypatch, under_dvc):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if under_dvc:
        monkeypatch.setenv("DVC_STAGE", "train")
    keeper = resume.Keeper(tmp_path / "states/name.state", minutes=10)
    assert keeper.state is None
    keeper.save({"tensors": {"a": torch.arange(3)}, "rows": [{"pair": (1, 0.1)}]}, "step 1")
    again = resume.Keeper(tmp_path / "states/name.state", minutes=10)
    assert torch.equal(again.state["tensors"]["a"], torch.arange(3))
    assert again.state["rows"] == [{"pair": (1, 0.1)}]
    assert resume.Keeper(tmp_path / "states/other.state", minutes=10).state is None
    (tmp_path / "models").write_text("weights")
    again.complete(tmp_path / "models")
    left = {path.name: path for path in (tmp_path / "states").iterdir()}
    assert set(left) == ({"name.state", "name.done"} if under_dvc else set())
    if under_dvc:
        assert left["name.done"].read_text() == hashlib.md5(b"weights").hexdigest()
    again.complete(tmp_path / "models")  # also a second time


def test_seconds_of_a_training_add_up_over_its_parts(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    keeper = resume.Keeper(tmp_path / "name.state", minutes=10)
    now[0] += 5
    keeper.save({}, "")
    now[0] += 1000  # it was stopped
    again = resume.Keeper(tmp_path / "name.state", minutes=10)
    now[0] += 2
    assert again.seconds() == 7


def test_a_state_is_due_when_the_minutes_have_passed(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(resume.time, "monotonic", lambda: now[0])
    keeper = resume.Keeper(tmp_path / "name.state", minutes=2)
    now[0] = 119.9
    assert not keeper.due()
    now[0] = 120.0
    assert keeper.due()
    keeper.save({}, "")
    assert not keeper.due()


@pytest.mark.parametrize("damage", ["cut short", "changed", "empty"])
def test_a_damaged_state_is_no_state(tmp_path, damage):
    resume.Keeper(tmp_path / "name.state", minutes=10).save({"tensors": {"a": torch.zeros(99)}}, "")
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[len(content) // 2] ^= 1
    path.write_bytes({"cut short": content[:-9], "empty": b""}.get(damage, content))
    assert resume.Keeper(tmp_path / "name.state", minutes=10).state is None


def test_the_name_of_a_state_follows_from_params_data_code_and_machine(tmp_path, monkeypatch):
    script = tmp_path / "train.py"
    script.write_text("pass\n")
    cpu = torch.device("cpu")
    same = resume.fingerprint({"seed": 0}, {"name": "digits"}, "", cpu, script)
    assert same == resume.fingerprint({"seed": 0}, {"name": "digits"}, "", cpu, script)
    found = {same}
    found.add(resume.fingerprint({"seed": 1}, {"name": "digits"}, "", cpu, script))
    found.add(resume.fingerprint({"seed": 0}, {"name": "mnist"}, "", cpu, script))
    found.add(resume.fingerprint({"seed": 0}, {"name": "digits"}, "other weights", cpu, script))
    monkeypatch.setattr(resume, "describe", lambda device: {"torch.threads": "99"})
    found.add(resume.fingerprint({"seed": 0}, {"name": "digits"}, "", cpu, script))
    monkeypatch.undo()
    script.write_text("pass \n")
    found.add(resume.fingerprint({"seed": 0}, {"name": "digits"}, "", cpu, script))
    monkeypatch.setattr(resume, "__file__", str(tmp_path / "resume.py"))  # another package
    found.add(resume.fingerprint({"seed": 0}, {"name": "digits"}, "", cpu, script))
    assert len(found) == 7


def test_who_comes_second_is_told_who_trains(tmp_path):
    path = tmp_path / "train.lock"
    with resume.alone(path):
        with (
            pytest.raises(UserError, match=rf"process {os.getpid()} \(in .*\) does this training"),
            resume.alone(path),
        ):
            pytest.fail("two hold the lock")
        assert path.exists()
    with resume.alone(path):
        pass
    assert not path.exists()


def test_a_lock_that_a_killed_process_left_behind_is_free(tmp_path):
    (tmp_path / "train.lock").write_text("process 1 (in /elsewhere)")
    with resume.alone(tmp_path / "train.lock"):
        pass


def interrupted(keeper, *numbers, then):
    """Send signals to this process as to a training, and go on with `then`."""
    with keeper.stoppable():
        for number in numbers:
            os.kill(os.getpid(), number)
        then()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_until_the_state_is_saved(tmp_path, number):
    keeper = resume.Keeper(tmp_path / "name.state", minutes=10)
    before = signal.getsignal(number)

    def end_of_step():
        assert keeper.due()
        keeper.save({"rows": [1, 2]}, "epoch 2 of 5")
        pytest.fail("the saved state should have ended it")

    with pytest.raises(KeyboardInterrupt, match="the same command goes on after epoch 2 of 5"):
        interrupted(keeper, number, then=end_of_step)
    assert resume.Keeper(tmp_path / "name.state", minutes=10).state["rows"] == [1, 2]
    assert signal.getsignal(number) is before


def test_an_interrupt_that_no_step_answers_comes_through_by_itself(tmp_path):
    keeper = resume.Keeper(tmp_path / "name.state", minutes=10)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt, match="begins anew"):
        interrupted(keeper, signal.SIGTERM, then=lambda: time.sleep(30))
    assert time.monotonic() - begin < 5


def test_a_state_is_saved_however_long_a_device_takes_once_a_step_has_answered(tmp_path):
    keeper = resume.Keeper(tmp_path / "name.state", minutes=10, grace=0.2)

    def end_of_step():
        assert keeper.due()
        time.sleep(0.5)  # as long as the device works off what it was given before
        keeper.save({}, "step 7 of 9 of epoch 1")

    with pytest.raises(KeyboardInterrupt, match="goes on after step 7 of 9 of epoch 1"):
        interrupted(keeper, signal.SIGINT, then=end_of_step)


@pytest.mark.parametrize(("device", "seconds"), [("cpu", 1.0), ("cuda", 10.0)])
def test_a_step_on_a_device_has_longer_to_answer(tmp_path, monkeypatch, device, seconds):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resume, "describe", lambda device: {})
    armed = []
    monkeypatch.setattr(signal, "setitimer", lambda which, after: armed.append(after))
    settings = params.Params.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text()))
    (tmp_path / "train.py").touch()
    with resume.kept(settings, {}, torch.device(device), tmp_path / "train.py") as keeper:
        interrupted(keeper, signal.SIGINT, then=lambda: None)
    assert armed == [seconds, 0]


def test_a_second_interrupt_comes_through_at_once(tmp_path):
    keeper = resume.Keeper(tmp_path / "name.state", minutes=10, grace=30)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted(keeper, signal.SIGINT, signal.SIGINT, then=lambda: time.sleep(20))
    assert time.monotonic() - begin < 5


@pytest.mark.walk
def test_trainings_killed_at_random_instants_end_with_the_same_bytes(tmp_path):
    from test_stages import run_stage, write_params

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
