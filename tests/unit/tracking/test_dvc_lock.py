"""What is read of a dvc.lock, and what is refused."""

from pathlib import Path

import pytest

from striate.tracking import dvc_lock

ROOT = Path(__file__).parents[3]


def test_the_stages_of_this_repository_have_params_deps_and_outs():
    stages = dvc_lock.parse((ROOT / dvc_lock.LOCK).read_text())
    assert set(stages) == {"download", "train", "evaluate", "visualize"}
    train = stages["train"]
    assert train.params["model.layers"] == 2
    assert train.deps["data/train"] == stages["download"].outs["data/train"]
    assert train.outs["models"] == stages["evaluate"].deps["models"]
    assert train.outs["models"].endswith(".dir")


def test_what_is_not_recorded_is_empty_or_left_out():
    text = "stages:\n  a:\n    outs:\n    - path: new\n    - {path: old, md5: '1'}\n"
    assert dvc_lock.parse(text) == {"a": dvc_lock.Stage({}, {}, {"old": "1"})}


@pytest.mark.parametrize("text", ["", "stages: [", "- 1", "stages: 3", "stages: {a: 3}", "{}"])
def test_what_is_no_dvc_lock_is_refused_in_one_line(text):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        dvc_lock.parse(text)
