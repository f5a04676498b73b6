"""What a stage says to MLflow through the process that started its experiment."""

import io
import json
import time

from striate.tracking import background
from striate.tracking.trackers import _relay, mlflow
from striate.training import events


def test_calls_arrive_in_their_order_under_the_name_of_their_experiment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(events.VARIABLE, str(tmp_path / "rows"))
    stage = _relay.tracker()
    stage.start({"seed": 1}, {"torch.version": "2"})
    stage.log([("val_accuracy", 0.5, 1)])
    stage.trained({"striate.params": "p"}, [("training_seconds", 3.0, 0)])
    stage.end("FINISHED")
    pipe, begin = io.StringIO(), time.time()
    parent = mlflow.MLflow(pipe)
    for line in (tmp_path / "rows").read_text().splitlines():
        parent.relay("digits-seed1", json.loads(line)[_relay.MESSAGE])
    calls = [json.loads(line) for line in pipe.getvalue().splitlines()]
    names = ("start", "log", "trained", "end")
    assert [call[:2] for call in calls] == [["digits-seed1", name] for name in names]
    first = calls[0]
    assert begin <= first[2] <= calls[-1][2] <= time.time()
    assert first[3] == {"seed": 1}
    assert first[4]["torch.version"] == "2"
    assert not background.is_gone(first[4][background.PROCESS])


def test_without_a_parent_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(events.VARIABLE, raising=False)
    _relay.tracker().end("FINISHED")
    assert list(tmp_path.iterdir()) == []
