"""A tracker of one's own: the example in docs/extending.md, as the only change to a copy."""

import json
import re

import pytest
from clones import ROOT, Clone

from striate.tracking import mlflow_store
from striate.tracking.system_metrics import PREFIX


@pytest.mark.slow
def test_a_new_tracker_is_one_new_file_and_gets_the_numbers_that_mlflow_has(tmp_path, monkeypatch):
    examples = re.findall(r"```py\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S)
    (code,) = [example for example in examples if "def tracker" in example]
    clone = Clone.unrun(tmp_path / "striate", training__epochs=2, model__width=4)
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Start.")
    (clone.folder / "src/striate/tracking/trackers/jsonl.py").write_text(code)
    touched = clone.run("git", "status", "--porcelain").splitlines()
    assert touched == ["?? src/striate/tracking/trackers/jsonl.py"]
    clone.env["STRIATE_TRACKING"] = "mlflow,jsonl"
    clone.run("dvc", "repro", "train")
    clone.settle()
    lines = (clone.folder / "runs.jsonl").read_text().splitlines()
    start, *epochs, trained, end = map(json.loads, lines)
    monkeypatch.chdir(clone.folder)
    store = mlflow_store.open_store()
    (run,) = store.runs()
    assert len(epochs) == 2
    assert end == {"status": run.info.status} == {"status": "FINISHED"}
    assert start["tags"].items() <= run.data.tags.items()
    assert trained["identity"].items() <= run.data.tags.items()
    read = {key: str(value) for key, value in start["params"].items()}
    assert run.data.params.items() <= read.items()
    theirs = [
        [name, value, step]
        for name, points in store.histories([run])[run.info.run_id].items()
        for step, value in points
        # Only MLflow is told of the machine, and of a training that is not too short.
        if not name.startswith(PREFIX)
    ]
    ours = [point for report in [*epochs, trained] for point in report["points"]]
    assert sorted(ours) == sorted(theirs)
    assert {"train_loss", "val_accuracy", "step_loss", "best/val_loss"} <= {one[0] for one in ours}
