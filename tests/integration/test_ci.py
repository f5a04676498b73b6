"""What CI runs is what a developer types."""

import re

import pytest
import yaml
from clones import Clone
from paths import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())


def targets(text):
    return re.findall(r"^\s*make (?:--silent )?([a-z-]+)", text, re.M)


def test_the_workflow_and_the_script_make_the_same_targets():
    steps = [step.get("run", "") for step in WORKFLOW["jobs"]["check"]["steps"]]
    made = [target for step in steps for target in targets(step)]
    assert made[0] == "setup"
    assert made[1:] == targets((ROOT / ".ci/run").read_text())
    assert {"lint", "fresh", "test", "test-slow", "repro", "gate"} <= set(made)


def test_actions_are_pinned_by_their_hash_and_name_their_version():
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    used = re.findall(r"uses: (.*)", text)
    assert len(used) >= 7
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line) for line in used)


@pytest.mark.slow
def test_a_lock_that_is_older_than_the_params_is_refused(tmp_path):
    clone = Clone.of_this_tree(tmp_path / "striate", training__epochs=1, model__width=4)
    fresh = ("make", "--old-file", "setup", "fresh")
    clone.run(*fresh)
    path = clone.folder / "params.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    said = clone.run(*fresh, status=2)
    assert "Running stage 'train'" in said
    assert "error: dvc.lock is older than code or params" in said
    path.write_text("seed: [")
    assert clone.run(*fresh, status=2)
