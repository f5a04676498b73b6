"""The gate: what passes, what fails, and what cannot be judged."""

import hashlib
import io
import json
import math
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from paths import ROOT
from scipy import stats

from striate import cli
from striate.analysis import gate, gate_sources
from striate.analysis.gate_sources import Side
from striate.errors import UserError
from striate.reporting import uncertainty

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


def compare(before, now, rules):
    return gate.compare(Side("at HEAD", before), Side("here", now), rules)


def judge(**now):
    checks = compare({"metrics/test.json": BEFORE}, {"metrics/test.json": BEFORE | now}, RULES)
    return {check.metric: (check.status, check.failed) for check in checks}


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
        ("size", 106, "differs", True),
        ("accuracy", "0.9", "not a number", True),
        ("accuracy", None, "not a number", True),
        ("accuracy", True, "not a number", True),
        ("accuracy", float("nan"), "not a number", True),
        ("accuracy", 10**400, "not a number", True),
        ("loss", 0.4, "better", False),
        ("loss", 0.55, "within tolerance", False),
        ("loss", 0.7, "worse", True),
        ("n", 99, "differs", True),
        ("n", 101, "differs", True),
    ],
)
def test_each_metric_is_judged_by_its_rule(metric, value, status, failed):
    checks = judge(**{metric: value})
    assert checks.pop(metric) == (status, failed)
    assert set(checks.values()) == {("equal", False)}


def test_a_missing_file_fails_and_a_new_metric_passes():
    missing = compare({"metrics/test.json": BEFORE}, {}, RULES)
    assert all(check.status == "missing" and check.failed for check in missing)
    new = compare({}, {"metrics/test.json": BEFORE}, RULES)
    assert all(check.status == "new" and not check.failed for check in new)


def test_the_table_is_markdown_with_a_row_for_each_metric():
    checks = compare(
        {"metrics/test.json": BEFORE}, {"metrics/test.json": BEFORE | {"accuracy": 0.8}}, RULES
    )
    assert gate.table(checks[:2]) == (
        "| file | metric | before | now | difference | allowed | |\n"
        "|---|---|--:|--:|--:|--:|---|\n"
        "| metrics/test.json | accuracy | 0.9 | 0.8 | -0.1 | 0.01 | worse |\n"
        "| metrics/test.json | loss | 0.5 | 0.5 | +0 | 0.1 | equal |"
    )


def test_what_is_missing_in_the_table_is_a_dash():
    rows = [
        ("a.json", "m", None, uncertainty.summarize([1.0]), 0.5, "new"),
        ("a.json", "m", uncertainty.summarize([1.0]), None, None, "missing"),
    ]
    lines = gate.table([gate.MetricCheck(*row) for row in rows]).splitlines()
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
        (
            "metrics/test.json: {balanced_accuracy: {tolerance: noise}}",
            "metrics/test.json.balanced_accuracy.tolerance is noise, which is for proportions",
        ),
    ],
)
def test_faulty_rules_are_refused(tmp_path, text, said):
    (tmp_path / "gate.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        gate.load_rules(tmp_path / "gate.yaml")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(str(tmp_path / "gate.yaml"))
    assert said in line


def test_metrics_of_the_test_set_know_which_direction_is_better(tmp_path):
    (tmp_path / "gate.yaml").write_text(
        "metrics/test.json: {accuracy: {tolerance: 0}, ece: {tolerance: 0}, n: {tolerance: 0},"
        " loss: {better: higher, tolerance: 0}, x: {tolerance: 0}}\n"
        "metrics/train.json: {accuracy: {tolerance: 0}}"
    )
    rules = gate.load_rules(tmp_path / "gate.yaml")
    test = {metric: rule.better for metric, rule in rules["metrics/test.json"].items()}
    assert test == {"accuracy": "higher", "ece": "lower", "n": "equal", "loss": "higher", "x": None}
    assert rules["metrics/train.json"]["accuracy"].better is None
    known = {"metrics/test.json": dict.fromkeys(test, 1), "metrics/train.json": {"accuracy": 1}}
    with pytest.raises(UserError, match=r"which direction of x of metrics/test\.json"):
        gate.check_rules(rules, known, known, "HEAD")
    del known["metrics/test.json"]["x"]
    before = {"metrics/test.json": {"x": 1}}
    del rules["metrics/train.json"], known["metrics/train.json"]
    gate.check_rules(rules, before, known, "HEAD")
    # What is no longer there fails, whichever direction is better.
    statuses = {check.metric: check.status for check in compare(before, known, rules)}
    assert statuses["x"] == "missing"
    assert statuses["accuracy"] == "new"


def test_a_metric_that_means_nothing_for_these_images_is_a_dash_and_passes():
    file = "metrics/test.json"
    rules = {file: RULES[file] | {"balanced_accuracy": gate.Rule(better="higher", tolerance=0)}}
    gate.check_rules(rules, {file: BEFORE}, {file: BEFORE}, "HEAD")
    checks = compare({file: BEFORE}, {file: BEFORE}, rules)
    assert "| balanced_accuracy | – | – | – | 0 | not judged |" in gate.table(checks)
    assert gate.outcome(checks) == "passed, no metric differs"
    # Once it is there, it must not go, nor be anything but a number.
    measured = BEFORE | {"balanced_accuracy": 0.5}
    gone = compare({file: measured}, {file: BEFORE}, rules)
    assert gate.outcome(gone) == "FAILED: balanced_accuracy is missing"
    broken = compare({file: BEFORE}, {file: BEFORE | {"balanced_accuracy": math.nan}}, rules)
    assert gate.outcome(broken) == "FAILED: balanced_accuracy is not a number"


def test_what_is_new_is_named_beside_the_outcome():
    checks = compare({"metrics/test.json": {"n": 100}}, {"metrics/test.json": BEFORE}, RULES)
    assert gate.outcome(checks) == "passed; new, so not judged: accuracy, loss, errors, size"
    now = {"metrics/test.json": {"n": 99, "loss": 1.0}}
    checks = compare({"metrics/test.json": {"n": 100}}, now, {
        "metrics/test.json": {name: RULES["metrics/test.json"][name] for name in ("n", "loss")}
    })  # fmt: skip
    assert gate.outcome(checks) == "FAILED: n differs; new, so not judged: loss"


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
    """The command in this process, in that folder."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["striate", "gate", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return SimpleNamespace(returncode=end.value.code, stdout=out.getvalue(), stderr=err.getvalue())


NOISY = {"metrics/test.json": {"accuracy": gate.Rule(better="higher", tolerance="noise")}}


def noisy(before, now, n=360):
    (check, *_) = compare(
        {"metrics/test.json": {"accuracy": before, "n": 360}},
        {"metrics/test.json": {"accuracy": now, "n": n}},
        NOISY,
    )
    return check


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
    checks = compare(
        {"metrics/test.json": BEFORE | {"other": 1}}, {"b.json": {"x": 1, "said": "text"}}, {}
    )
    found = {(check.file, check.metric): check for check in checks}
    assert found["metrics/test.json", "other"].now is None
    assert found["b.json", "x"].before is None
    assert ("b.json", "said") not in found
    assert all(c.status == "not judged" and not c.failed for c in checks)


def test_what_noise_is_and_what_one_seed_cannot_show_stand_below_the_table():
    noise, one = gate.remarks([noisy(0.9, 0.89)], NOISY)
    assert noise.startswith("accuracy may be worse by the noise of the test images, 1.645 standard")
    assert noise.count(".") == 2  # one sentence, and a decimal point
    assert one.startswith("One seed before and one now: another seed alone moves a score")
    (one,) = gate.remarks(compare(*[{"metrics/test.json": BEFORE}] * 2, RULES), RULES)
    assert one.startswith("One seed before and one now")
    assert gate.remarks(compare({}, {}, RULES), RULES) == []


def test_the_size_of_the_network_is_shown_and_not_judged():
    rules = gate.load_rules(ROOT / "gate.yaml")
    before, now = ({"metrics/train.json": {"train_loss": 1, "parameters": n}} for n in (10, 20))
    rules = {"metrics/train.json": rules["metrics/train.json"]}
    assert [check.status for check in compare(before, now, rules)] == [
        "equal", "not judged",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ('{"accuracy": 0.95, "n": 100}', 0, "| better |"),
        ('{"accuracy": 0.9, "n": 100}', 0, "because there is no remote: passed"),
        ('{"accuracy": 0.87, "n": 100}', 0, "| within noise |"),
        ('{"accuracy": 0.8, "n": 100}', 1, "| worse |"),
        ('{"accuracy": 0.1, "n": 100}', 1, "FAILED: accuracy is worse"),
        ('{"accuracy": NaN, "n": 100}', 1, "FAILED: accuracy is not a number"),
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


IDENTITY = ["-c", "user.name=t", "-c", "user.email=t@localhost"]


def git(folder, *arguments):
    subprocess.run(["git", *IDENTITY, *arguments], cwd=folder, check=True, capture_output=True)


def commit(folder, accuracy, message="Change."):
    (folder / "metrics/test.json").write_text(json.dumps({"accuracy": accuracy, "n": 100}))
    git(folder, "commit", "-qam", message)


def last_line(answer):
    return (answer.stdout + answer.stderr).splitlines()[-1]


@pytest.fixture
def clone(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone") / "striate"
    subprocess.run(["git", "clone", "-q", repository, folder], check=True)
    return folder


def test_main_of_the_origin_is_what_a_change_is_compared_with(clone):
    commit(clone, 0.5)
    answer = striate_gate(clone)
    assert answer.returncode == 1
    assert re.fullmatch(
        r"against origin/main \(\w{7}\): FAILED: accuracy is worse", last_line(answer)
    )
    answer = striate_gate(clone, "--against", "HEAD")
    assert answer.returncode == 0
    assert last_line(answer).endswith(": passed, no metric differs")


def test_a_clone_without_main_of_the_origin_is_refused_with_a_cure_that_works(repository, tmp_path):
    git(repository, "checkout", "-qb", "feature")
    commit(repository, 0.5)
    git(repository, "checkout", "-q", "main")
    folder = tmp_path / "clone"
    address = f"file://{repository}"
    git(tmp_path, "clone", "-q", "--depth", "1", "-b", "feature", address, str(folder))
    for against in ([], ["--against", "origin/main"]):
        answer = striate_gate(folder, *against)
        assert (answer.returncode, answer.stdout) == (2, "")
        (cure,) = re.findall(r"`git (fetch [^`]+)`", answer.stderr)
    git(folder, *cure.split())
    answer = striate_gate(folder)
    assert answer.returncode == 1
    assert "against origin/main" in last_line(answer)


def test_the_first_commit_of_main_has_nothing_to_be_compared_with(clone):
    answer = striate_gate(clone)
    assert answer.returncode == 2
    assert "HEAD is in origin/main and has no commit before it here" in answer.stderr


@pytest.fixture
def on_main(clone):
    """A clone whose main has a second commit, which is worse."""
    commit(clone, 0.5, "Worse.")
    git(clone, "push", "-q", "origin", "HEAD:refs/heads/later")
    git(clone, "update-ref", "refs/remotes/origin/main", "HEAD")
    return clone


def test_on_main_itself_the_commit_before_is_what_is_compared_with(on_main):
    answer = striate_gate(on_main)
    assert answer.returncode == 1
    assert "against HEAD~1 (" in last_line(answer)
    assert "because HEAD is in origin/main: FAILED: accuracy is worse" in last_line(answer)


@pytest.fixture
def rounded(on_main):
    """The same, with results as another processor rounds them."""
    (on_main / "metrics/test.json").write_text('{"accuracy": 0.5000000000000001, "n": 100}')
    return on_main


def test_results_that_another_processor_rounds_differently_are_no_change(rounded):
    answer = striate_gate(rounded)
    assert answer.returncode == 1
    assert "against HEAD~1 (" in last_line(answer)


def test_code_or_params_that_are_not_committed_are_a_change_on_top_of_main(rounded):
    with (rounded / "gate.yaml").open("a") as stream:
        stream.write("# changed\n")
    answer = striate_gate(rounded)
    assert answer.returncode == 0
    assert "against HEAD (" in last_line(answer)


def test_a_checkout_of_an_older_commit_is_no_change_to_main(on_main):
    commit(on_main, 0.9, "Better.")
    git(on_main, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(on_main, "checkout", "-q", "--detach", "HEAD~1")
    assert "against HEAD~1 (" in last_line(striate_gate(on_main))


def test_another_default_branch_of_the_origin_is_found(repository, tmp_path):
    git(repository, "branch", "-m", "trunk")
    git(tmp_path, "clone", "-q", str(repository), "clone")
    commit(tmp_path / "clone", 0.95)
    assert "against origin/trunk (" in last_line(striate_gate(tmp_path / "clone"))


def test_a_remote_of_another_name_is_named(clone):
    git(clone, "remote", "rename", "origin", "upstream")
    answer = striate_gate(clone)
    assert answer.returncode == 2
    assert answer.stderr.endswith("name a revision, such as --against upstream/main\n")


def test_without_a_remote_committed_metrics_are_not_compared_with_themselves(repository):
    answer = striate_gate(repository)
    assert answer.returncode == 2
    assert answer.stderr.endswith("name a revision, such as --against HEAD~1\n")


def test_a_repository_without_a_commit_is_said_to_be_one(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "gate.yaml").write_text("a.json: {m: {better: lower, tolerance: 0}}")
    answer = striate_gate(tmp_path)
    assert answer.returncode == 2
    assert "Git knows no revision 'HEAD'" in answer.stderr


@pytest.mark.parametrize(
    ("rules", "before", "said"),
    [
        ("metrics/test.json: {}", BEFORE, "gate.yaml has no rule for any metric"),
        (
            "metrics/test.json: {acuracy: {better: higher, tolerance: 0}}",
            BEFORE,
            "a rule for acuracy of metrics/test.json, which is neither here nor at HEAD;"
            " there are accuracy, loss, n, errors, size",
        ),
        (
            "metrics/tset.json: {accuracy: {better: higher, tolerance: 0}}",
            BEFORE,
            "accuracy of metrics/tset.json, which is neither here nor at HEAD;"
            " there are metrics/test.json",
        ),
        (None, BEFORE | {"accuracy": float("nan")}, "accuracy is nan, not a number"),
        (None, BEFORE | {"accuracy": "0.9"}, "accuracy is '0.9', not a number"),
        (None, {"loss": 1}, "HEAD has none of the metrics that gate.yaml judges"),
    ],
)
def test_what_compares_nothing_does_not_pass(repository, rules, before, said):
    (repository / "metrics/test.json").write_text(json.dumps(before))
    git(repository, "commit", "-q", "--allow-empty", "-am", "Before.")
    (repository / "metrics/test.json").write_text(json.dumps(BEFORE))
    if rules:
        (repository / "gate.yaml").write_text(rules)
    answer = striate_gate(repository, "--against", "HEAD")
    assert (answer.returncode, answer.stdout) == (2, "")
    (line,) = answer.stderr.splitlines()
    assert said in line


def write_lock(folder, test_set="t", params=None):
    content = (folder / "metrics/test.json").read_bytes()
    stage = {
        "deps": [{"path": "data/test", "md5": test_set}],
        "params": {"params.yaml": {"seed": 0, "evaluate": {"tta": "none"}} | (params or {})},
        "outs": [{"path": "metrics/test.json", "md5": hashlib.md5(content).hexdigest()}],
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": {"evaluate": stage}}))


def test_dvc_lock_says_whether_metrics_can_be_compared(repository):
    write_lock(repository)
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "Lock.")
    write_lock(repository, "t", {"seed": 1, "evaluate": {"tta": "flip"}})
    answer = striate_gate(repository, "--against", "HEAD")
    assert answer.returncode == 0
    assert "\nParams that differ: evaluate.tta none → flip, seed 0 → 1.\n" in answer.stdout

    write_lock(repository, "other", {"data": {"name": "mnist"}})
    answer = striate_gate(repository, "--against", "HEAD")
    assert answer.returncode == 2
    assert "measured on other test images (– there, mnist here)" in answer.stderr

    write_lock(repository)
    (repository / "metrics/test.json").write_text(json.dumps(BEFORE | {"accuracy": 1}))
    answer = striate_gate(repository, "--against", "HEAD")
    assert answer.returncode == 2
    assert answer.stderr == (
        "error: metrics/test.json is not the one that dvc.lock names; `dvc repro` recreates both\n"
    )
    git(repository, "commit", "-qam", "Edit.")
    write_lock(repository)
    answer = striate_gate(repository, "--against", "HEAD")
    assert "metrics/test.json at HEAD is not the one that dvc.lock names" in answer.stderr
    (repository / "dvc.lock").write_text("<<<<<<< HEAD")
    assert "error: dvc.lock cannot be used" in striate_gate(repository, "--against=HEAD~1").stderr


def test_metrics_are_read_from_the_tree_and_from_a_commit(repository):
    path = repository / "metrics/test.json"
    path.write_text('{"accuracy": 0.95}')
    files = ["metrics/test.json", "metrics/none.json"]
    assert gate_sources.metrics_now(files, repository) == {"metrics/test.json": {"accuracy": 0.95}}
    assert gate_sources.metrics_at(files, "HEAD", repository) == {"metrics/test.json": BEFORE}
    with pytest.raises(UserError) as caught:
        gate_sources.metrics_at(files, "nowhere", repository)
    assert str(caught.value) == (
        "Git knows no revision 'nowhere'; name a commit, a branch or a tag"
    )


def test_committed_metrics_that_are_none_are_named(repository):
    (repository / "metrics/test.json").write_bytes(b"\xff\xfe")
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", *identity, "commit", "-qam", "Break."], cwd=repository, check=True)
    with pytest.raises(UserError, match=r"^metrics/test\.json at HEAD is not valid JSON"):
        gate_sources.metrics_at(["metrics/test.json"], "HEAD", repository)
    with pytest.raises(UserError, match=r"metrics/test\.json cannot be read: .*utf-8"):
        gate_sources.metrics_now(["metrics/test.json"], repository)


@pytest.mark.parametrize("revision", ["nowhere", "--help", ""])
def test_an_unknown_revision_is_one_line_and_status_2(repository, revision):
    answer = striate_gate(repository, f"--against={revision}")
    assert answer.returncode == 2
    assert answer.stderr.splitlines() == [
        f"error: Git knows no revision {revision!r}; name a commit, a branch or a tag"
    ]
