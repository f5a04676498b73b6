"""What a stage reports reaches every tracker that is switched on, and no tracker stops a stage."""

import pytest

from striate.errors import UserError
from striate.tracking import logger, trackers
from striate.training import history

ROWS = [
    {"epoch": 1, "learning_rate": 0.1, "train_loss": 2.0, "train_accuracy": 0.5,
     "step_losses": [(10, 1.5), (20, 1.25)]},
]  # fmt: skip


class Recorder:
    def __init__(self):
        self.calls = []

    def __getattr__(self, method):
        return lambda *arguments: self.calls.append((method, *arguments))


class Broken(Recorder):
    def log(self, points):
        raise OSError(28, "No space left on device")


@pytest.fixture
def opened(monkeypatch):
    """Two trackers that are switched on."""
    opened = {"first": Recorder(), "second": Recorder()}
    monkeypatch.setattr(trackers, "names", lambda: list(opened))
    monkeypatch.setattr(trackers, "open_tracker", lambda name: opened[name])
    monkeypatch.setenv(logger.SWITCH, "first,second")
    return opened


def train(folder):
    with logger.logbook() as log:
        log.start({"seed": 0}, {"torch.threads": "1"})
        for row in ROWS:
            log.epoch(row)
        history.write_training(ROWS, 1, 99, folder / "metrics")
        log.trained({"seed": 0}, 1.5)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("models/cnn_trained.ckpt", "data/manifest.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    return tmp_path


def test_each_tracker_gets_the_same_reports(folder, opened):
    train(folder)
    start, log, trained, end = opened["first"].calls
    assert opened["second"].calls == opened["first"].calls
    assert start == ("start", {"seed": 0}, {"torch.threads": "1"})
    assert log == ("log", [("learning_rate", 0.1, 1), ("train_loss", 2.0, 1),
                           ("train_accuracy", 0.5, 1), ("step_loss", 1.5, 10),
                           ("step_loss", 1.25, 20)])  # fmt: skip
    method, identity, summary = trained
    assert method == "trained"
    assert set(identity) == {"striate.params", "striate.data", "striate.checkpoint"}
    assert summary == [("best/train_loss", 2.0, 0), ("best/train_accuracy", 0.5, 0),
                       ("parameters", 99, 0), ("epochs", 1, 0), ("kept_epoch", 1, 0),
                       ("training_seconds", 1.5, 0)]  # fmt: skip
    assert end == ("end", "FINISHED")


def test_a_tracker_that_fails_costs_a_warning(folder, opened, capsys):
    opened["first"] = Broken()
    train(folder)
    assert [call[0] for call in opened["first"].calls] == ["start"]
    assert [call[0] for call in opened["second"].calls] == ["start", "log", "trained", "end"]
    said = "warning: tracker first failed, and the run goes on without it:"
    assert capsys.readouterr().err == f"{said} OSError: [Errno 28] No space left on device\n"


def test_a_tracker_that_cannot_be_opened_costs_a_warning(folder, opened, monkeypatch, capsys):
    del opened["first"]
    monkeypatch.setattr(trackers, "names", lambda: ["first", "second"])
    train(folder)
    assert capsys.readouterr().err.startswith("warning: tracker first failed")
    assert len(opened["second"].calls) == 4


def test_of_several_processes_the_main_one_reports(folder, opened, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    train(folder)
    assert opened["first"].calls == []


@pytest.mark.parametrize(
    ("value", "names"),
    [("", ["mlflow"]), ("On", ["mlflow"]), ("off", []), ("mlflow", ["mlflow"]),
     ("mlflow,mlflow", ["mlflow"])],
)  # fmt: skip
def test_the_switch_is_on_off_or_a_list_of_trackers(monkeypatch, value, names):
    monkeypatch.setenv(logger.SWITCH, value)
    assert logger.switched_on() == names
    assert logger.enabled() is bool(names)


def test_without_mlflow_nothing_is_synced_after_dvc(opened, monkeypatch):
    monkeypatch.setattr("striate.tracking.trackers.mlflow._start", lambda stdin: 1 / 0)
    assert not logger.enabled()
    logger.record_later()


def test_an_unknown_tracker_is_named_with_those_that_there_are(monkeypatch):
    monkeypatch.setenv(logger.SWITCH, "mlflow,nosuch")
    said = (
        "STRIATE_TRACKING is 'mlflow,nosuch'; it must be on, off, or trackers separated by commas"
    )
    with pytest.raises(UserError, match=said):
        logger.switched_on()
