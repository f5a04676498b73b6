"""The gate: what passes, what fails, and what cannot be judged."""

import json
import subprocess
import sys

import pytest

from striate import gate
from striate.errors import UserError

RULES = {
    "metrics/test.json": {
        "accuracy": gate.Rule(better="higher", tolerance=0.01),
        "loss": gate.Rule(better="lower", tolerance=0.1),
        "n": gate.Rule(better="equal", tolerance=0.0),
    }
}
BEFORE = {"accuracy": 0.9, "loss": 0.5, "n": 100}


def judge(**now):
    verdicts = gate.compare(
        {"metrics/test.json": BEFORE}, {"metrics/test.json": BEFORE | now}, RULES
    )
    return {verdict.metric: (verdict.status, verdict.failed) for verdict in verdicts}


@pytest.mark.parametrize(
    ("metric", "value", "status", "failed"),
    [
        ("accuracy", 0.9, "equal", False),
        ("accuracy", 0.95, "better", False),
        ("accuracy", 0.895, "within tolerance", False),
        ("accuracy", 0.88, "worse", True),
        ("accuracy", None, "missing", True),
        ("accuracy", "0.9", "missing", True),
        ("accuracy", True, "missing", True),
        ("accuracy", float("nan"), "missing", True),
        ("loss", 0.4, "better", False),
        ("loss", 0.55, "within tolerance", False),
        ("loss", 0.7, "worse", True),
        ("n", 99, "worse", True),
        ("n", 101, "worse", True),
    ],
)
def test_each_metric_is_judged_by_its_rule(metric, value, status, failed):
    verdicts = judge(**{metric: value})
    assert verdicts.pop(metric) == (status, failed)
    assert set(verdicts.values()) == {("equal", False)}


def test_a_missing_file_fails_and_a_new_metric_passes():
    missing = gate.compare({"metrics/test.json": BEFORE}, {}, RULES)
    assert all(verdict.status == "missing" and verdict.failed for verdict in missing)
    new = gate.compare({}, {"metrics/test.json": BEFORE}, RULES)
    assert all(verdict.status == "new" and not verdict.failed for verdict in new)


def test_the_table_is_markdown_with_a_row_for_each_metric():
    verdicts = gate.compare(
        {"metrics/test.json": BEFORE}, {"metrics/test.json": BEFORE | {"accuracy": 0.8}}, RULES
    )
    lines = gate.table(verdicts).splitlines()
    assert lines[2] == "| metrics/test.json | accuracy | 0.9 | 0.8 | -0.1 | worse |"
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.parametrize(
    "text",
    ["", "metrics/test.json: 3", "a.json: {m: {better: up, tolerance: 0}}", "a.json: {m: {", "[]"],
)
def test_faulty_rules_are_refused(tmp_path, text):
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(UserError, match=r"gate.yaml cannot be used"):
        gate.load_rules(tmp_path / "gate.yaml")


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/test.json").write_text(json.dumps(BEFORE))
    (tmp_path / "gate.yaml").write_text(
        "metrics/test.json: {accuracy: {better: higher, tolerance: 0.01}}"
    )
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "Start.")
    return tmp_path


def striate_gate(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "striate.cli", "gate", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ('{"accuracy": 0.95}', 0, "better"),
        ('{"accuracy": 0.895}', 0, "within tolerance"),
        ('{"accuracy": 0.5}', 1, "FAILED: accuracy"),
        ("{}", 1, "missing"),
        (None, 1, "missing"),
        ('{"accuracy": ', 2, "is not valid JSON"),
        ("[1]", 2, "must hold a JSON object"),
    ],
)
def test_the_command_ends_with_the_status_of_the_verdict(repository, content, status, said):
    metrics = repository / "metrics/test.json"
    metrics.unlink()
    if content is not None:
        metrics.write_text(content)
    answer = striate_gate(repository, "--against", "HEAD")
    assert answer.returncode == status
    assert said in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("revision", ["nowhere", "--help", ""])
def test_an_unknown_revision_is_one_line_and_status_2(repository, revision):
    answer = striate_gate(repository, f"--against={revision}")
    assert answer.returncode == 2
    assert answer.stderr.splitlines() == [
        f"error: Git knows no revision {revision!r}; name a commit, a branch or a tag"
    ]
