"""The gate: what passes, what fails, and what cannot be judged."""

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from striate import gate
from striate.errors import UserError

RULES = {
    "metrics/test.json": {
        "accuracy": gate.Rule(better="higher", tolerance=0.01),
        "loss": gate.Rule(better="lower", tolerance=0.1),
        "n": gate.Rule(better="equal", tolerance=0.0),
        "errors": gate.Rule(better="lower", tolerance=1.0),
        "size": gate.Rule(better="equal", tolerance=5.0),
    }
}
BEFORE = {"accuracy": 0.9, "loss": 0.5, "n": 100, "errors": 3, "size": 100}


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
        ("errors", 4, "within tolerance", False),
        ("errors", 5, "worse", True),
        ("size", 105, "within tolerance", False),
        ("size", 95, "within tolerance", False),
        ("size", 106, "worse", True),
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
    assert gate.table(verdicts[:2]) == (
        "| file | metric | before | now | difference | allowed | |\n"
        "|---|---|--:|--:|--:|--:|---|\n"
        "| metrics/test.json | accuracy | 0.9 | 0.8 | -0.1 | 0.01 | worse |\n"
        "| metrics/test.json | loss | 0.5 | 0.5 | +0 | 0.1 | equal |"
    )


def test_what_is_missing_in_the_table_is_a_dash():
    rows = [
        ("a.json", "m", None, 1.0, 0.5, "new"),
        ("a.json", "m", 1.0, None, None, "missing"),
    ]
    lines = gate.table([gate.Verdict(*row) for row in rows]).splitlines()
    assert lines[2:] == [
        "| a.json | m | – | 1 | – | 0.5 | new |",
        "| a.json | m | 1 | – | – | – | missing |",
    ]


def test_rules_are_read_by_file_and_metric(tmp_path):
    (tmp_path / "gate.yaml").write_text(
        "a.json: {m: {better: lower, tolerance: 0.5}, k: {better: equal, tolerance: 0}}\nb.json: {}"
    )
    assert gate.load_rules(tmp_path / "gate.yaml") == {
        "a.json": {
            "m": gate.Rule(better="lower", tolerance=0.5),
            "k": gate.Rule(better="equal", tolerance=0),
        },
        "b.json": {},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "must hold keys and their values"),
        ("[]", "must hold keys and their values"),
        ("a.json: {m: {", "line 1, column 14 is not valid YAML"),
        ("a.json: {m: 1}\na.json: {}", "the key 'a.json' stands twice"),
        ("metrics/test.json: 3", ": metrics/test.json: Input should be a valid dictionary"),
        ("1: {}", ": 1.[key]: Input should be a valid string"),
        ("a.json: {m: {better: up, tolerance: 0}}", ": a.json.m.better: Input should be 'higher'"),
        ("a.json: {m: {better: lower}}", ": a.json.m.tolerance: Field required"),
        ("a.json: {m: {better: lower, tolerance: -1}}", "greater than or equal to 0"),
        ("a.json: {m: {better: lower, tolerance: .nan}}", "a.json.m.tolerance: Input should be"),
        ("a.json: {m: {better: lower, tolerance: loud}}", "a.json.m.tolerance: Input should be"),
        ("a.json: {m: {better: lower, tolerance: 0, x: 1}}", "a.json.m.x: Extra inputs"),
    ],
)
def test_faulty_rules_are_refused(tmp_path, text, said):
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        gate.load_rules(tmp_path / "gate.yaml")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(str(tmp_path / "gate.yaml"))
    assert said in line


def test_rules_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError) as caught:
        gate.load_rules(tmp_path / "gate.yaml")
    assert str(caught.value) == (
        f"{tmp_path}/gate.yaml cannot be read: No such file or directory;"
        " commands run at the root of the repository"
    )


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/test.json").write_text(json.dumps(BEFORE))
    (tmp_path / "gate.yaml").write_text(
        "metrics/test.json: {accuracy: {better: higher, tolerance: noise}}"
    )
    git("init", "-q", "-b", "main")
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


NOISY = {"metrics/test.json": {"accuracy": gate.Rule(better="higher", tolerance="noise")}}


def noisy(before, now, n=360):
    (verdict, *_) = gate.compare(
        {"metrics/test.json": {"accuracy": before, "n": 360}},
        {"metrics/test.json": {"accuracy": now, "n": n}},
        NOISY,
    )
    return verdict


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        (10, "equal"),
        (9, "better"),
        (16, "within noise"),
        (17, "within noise"),
        (19, "worse"),
        (300, "worse"),
    ],
)
def test_a_drop_is_judged_by_the_number_of_images(errors, status):  # fmt: skip
    assert noisy(350 / 360, (360 - errors) / 360).status == status


def test_the_noise_is_that_of_the_pooled_z_test():
    first, second = np.array([350, 343]), np.array([360, 360])
    share = first.sum() / second.sum()
    error = np.sqrt(share * (1 - share) * (1 / second).sum())
    assert noisy(350 / 360, 343 / 360).allowed == pytest.approx(stats.norm.ppf(0.95) * error, 1e-3)


@pytest.mark.parametrize("n", [0, -1, None, "360"])
def test_a_share_of_nobody_knows_how_many_may_not_fall(n):
    assert noisy(0.9, 0.899, n).status == "worse"
    assert noisy(0.9, 0.901, n).status == "better"


def test_what_has_no_rule_is_listed_and_does_not_fail():
    verdicts = gate.compare(
        {"metrics/test.json": BEFORE | {"other": 1}}, {"b.json": {"x": 1, "said": "text"}}, {}
    )
    found = {(verdict.file, verdict.metric): verdict for verdict in verdicts}
    assert found["metrics/test.json", "other"].now is None
    assert found["b.json", "x"].before is None
    assert ("b.json", "said") not in found
    assert all(v.status == "not judged" and not v.failed for v in verdicts)


def test_what_noise_is_stands_below_the_table_where_a_rule_has_it():
    said = gate.noise_said([noisy(0.9, 0.89)], NOISY)
    assert said.startswith("accuracy may fall by 1.645 standard errors")
    assert said.count(".") == 2  # one sentence, and a decimal point
    assert gate.noise_said(gate.compare({}, {}, RULES), RULES) == ""


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ('{"accuracy": 0.95, "n": 100}', 0, "| better |"),
        ('{"accuracy": 0.9, "n": 100}', 0, "| equal |"),
        ('{"accuracy": 0.87, "n": 100}', 0, "| within noise |"),
        ('{"accuracy": 0.8, "n": 100}', 1, "| worse |"),
        ('{"accuracy": 0.1, "n": 100}', 1, "FAILED: accuracy"),
        ('{"n": 100}', 1, "| missing |"),
        (None, 1, "| missing |"),
        ('{"accuracy": ', 2, "is not valid JSON"),
        ("[1]", 2, "must hold a JSON object"),
    ],
)
def test_the_command_ends_with_the_status_of_the_verdict(repository, content, status, said):
    metrics = repository / "metrics/test.json"
    metrics.unlink()
    if content is not None:
        metrics.write_text(content)
    answer = striate_gate(repository)
    print(f"{content}: exit status {answer.returncode}")
    assert answer.returncode == status
    assert said in answer.stdout + answer.stderr
    assert ("against HEAD" in answer.stdout) == (status < 2)
    assert "Traceback" not in answer.stderr


def test_main_of_the_origin_is_what_a_change_is_compared_with(repository, tmp_path_factory):
    clone = tmp_path_factory.mktemp("clone") / "striate"
    subprocess.run(["git", "clone", "-q", "-b", "main", repository, clone], check=True)
    (clone / "metrics/test.json").write_text('{"accuracy": 0.5, "n": 100}')
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", *identity, "commit", "-qam", "Worse."], cwd=clone, check=True)
    answer = striate_gate(clone)
    assert answer.returncode == 1
    assert "against origin/main: FAILED: accuracy" in answer.stdout
    assert striate_gate(clone, "--against", "HEAD").returncode == 0


def test_metrics_are_read_from_the_tree_and_from_a_commit(repository):
    path = repository / "metrics/test.json"
    path.write_text('{"accuracy": 0.95}')
    files = ["metrics/test.json", "metrics/none.json"]
    assert gate.metrics_now(files, repository) == {"metrics/test.json": {"accuracy": 0.95}}
    assert gate.metrics_at(files, "HEAD", repository) == {"metrics/test.json": BEFORE}
    with pytest.raises(UserError) as caught:
        gate.metrics_at(files, "nowhere", repository)
    assert str(caught.value) == (
        "Git knows no revision 'nowhere'; name a commit, a branch or a tag"
    )


def test_committed_metrics_that_are_none_are_named(repository):
    (repository / "metrics/test.json").write_bytes(b"\xff\xfe")
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", *identity, "commit", "-qam", "Break."], cwd=repository, check=True)
    with pytest.raises(UserError, match=r"^metrics/test\.json at HEAD is not valid JSON"):
        gate.metrics_at(["metrics/test.json"], "HEAD", repository)
    with pytest.raises(UserError, match=r"metrics/test\.json cannot be read: .*utf-8"):
        gate.metrics_now(["metrics/test.json"], repository)


@pytest.mark.parametrize("revision", ["nowhere", "--help", ""])
def test_an_unknown_revision_is_one_line_and_status_2(repository, revision):
    answer = striate_gate(repository, f"--against={revision}")
    assert answer.returncode == 2
    assert answer.stderr.splitlines() == [
        f"error: Git knows no revision {revision!r}; name a commit, a branch or a tag"
    ]
