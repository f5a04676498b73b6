"""The gate over seeds: groups on both sides, on one, and tables of seeds that do not count."""

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy import stats

from striate import cli
from striate.analysis import gate
from striate.analysis.gate_sources import Side
from striate.reporting import seeds, uncertainty

TEST, TRAIN = "metrics/test.json", "metrics/train.json"
RULES = {
    TEST: {
        "accuracy": gate.Rule(better="higher", tolerance="noise"),
        "loss": gate.Rule(better="lower", tolerance=0.02),
        "n": gate.Rule(better="equal", tolerance=0.0),
    }
}
FIVE = [0.975, 0.9667, 0.9694, 0.9778, 0.9722]


def side(accuracies, losses=None, n=360, images=360, first=0):
    """A side of seeds from `first` on, which is the own one."""
    losses = losses or [0.2] * len(accuracies)
    group = [
        {"seed": seed, "test_accuracy": accuracy, "test_loss": loss, "test_n": images}
        for seed, (accuracy, loss) in enumerate(zip(accuracies, losses, strict=True), first)
    ]
    own = {"accuracy": accuracies[0], "loss": losses[0], "n": n}
    return Side("", {TEST: own}, group=group if len(group) > 1 else [])


def judge(before, now):
    return {check.metric: check for check in gate.compare(before, now, RULES)}


@pytest.mark.parametrize("drop", [-0.01, 0.001, 0.006, 0.008, 0.02])
def test_groups_are_judged_by_welch_one_sided(drop):
    now = [score - drop for score in (0.974, 0.964, 0.969, 0.979)]
    check = judge(side(FIVE), side(now))["accuracy"]
    p = stats.ttest_ind(now, FIVE, equal_var=False, alternative="less").pvalue
    assert (check.status == "worse") == (p < 0.025)
    assert (check.before.mean, check.now.mean) == pytest.approx((np.mean(FIVE), np.mean(now)))
    assert (check.before.n, check.now.n) == (5, 4)
    bound = check.allowed / check.test.error
    assert stats.t.sf(bound, check.test.df) == pytest.approx(0.025)


def test_groups_of_equal_seeds_are_judged_by_pairs():
    now = [score - 0.003 - 0.001 * seed for seed, score in enumerate(FIVE)]
    check = judge(side(FIVE), side(now))["accuracy"]
    assert check.test.paired
    assert check.test.p == pytest.approx(stats.ttest_rel(now, FIVE).pvalue)
    assert check.status == "worse"
    assert judge(side(FIVE), side(now, first=10))["accuracy"].status == "within noise"


def test_what_the_seeds_explain_is_allowed_beyond_a_tolerance():
    before = side(FIVE, [0.20, 0.26, 0.14, 0.20, 0.20])
    check = judge(before, side(FIVE, [0.23, 0.29, 0.17, 0.23, 0.23], first=10))["loss"]
    assert check.allowed > 0.03
    assert check.status == "within tolerance"


@pytest.mark.parametrize("swapped", [False, True])
def test_one_seed_against_a_group_takes_the_spread_of_the_group(swapped):
    sides = side(FIVE), side([0.955])
    check = judge(*(sides[::-1] if swapped else sides))["accuracy"]
    expected = stats.t.ppf(0.975, 4) * np.std(FIVE, ddof=1) * np.sqrt(1 + 1 / 5)
    assert check.allowed == pytest.approx(expected)
    assert check.status == ("better" if swapped else "worse")


def test_equal_scores_of_equal_seeds_are_equal():
    checks = gate.compare(side(FIVE), side(FIVE), RULES)
    assert {check.status for check in checks} == {"equal"}
    assert checks[0].allowed == pytest.approx(
        stats.t.ppf(0.975, 8) * np.std(FIVE, ddof=1) * 0.4**0.5
    )
    assert gate.outcome(checks) == "passed, no metric differs"


def test_equal_scores_of_all_seeds_do_not_have_no_spread():
    before, now = side([0.975] * 5), side([0.975] * 4 + [0.975 - 1 / 360])
    assert judge(before, now)["accuracy"].status == "within noise"


def test_a_tolerance_is_for_the_difference_of_the_means():
    before = side(FIVE, [0.20, 0.21, 0.22, 0.20, 0.22])
    own_is_worse = side(FIVE, [0.30, 0.19, 0.19, 0.19, 0.19])
    assert judge(before, own_is_worse)["loss"].status == "within tolerance"
    worse = side(FIVE, [0.20, 0.26, 0.26, 0.26, 0.26])
    assert judge(before, worse)["loss"].status == "worse"


def test_what_must_be_equal_is_no_mean_over_seeds():
    check = judge(side(FIVE), side(FIVE, n=359, images=360))["n"]
    assert (check.before.n, check.now.n, check.status) == (1, 1, "differs")


def test_a_metric_that_one_table_lacks_is_compared_with_one_seed():
    now = side(FIVE)
    now = now._replace(
        group=[{k: v for k, v in row.items() if k != "test_accuracy"} for row in now.group]
    )
    checks = judge(side(FIVE), now)
    assert [(c.before.n, c.now.n) for c in checks.values()] == [(5, 1), (5, 5), (1, 1)]


def test_the_table_shows_means_to_the_second_digit_of_their_spread():
    before = side(FIVE, [0.2, 0.3, 0.2, 0.2, 0.2])
    lines = gate.table(gate.compare(before, side([0.9611]), RULES)).splitlines()
    assert lines[2].startswith(
        f"| {TEST} | accuracy | 0.9722 ± 0.0044 (5 seeds) | 0.9611 | -0.01112 | 0.0134 |"
    )
    assert lines[3].split(" | ")[2] == "0.220 ± 0.045 (5 seeds)"
    same = gate.table(gate.compare(side([0.5] * 3), side([0.5] * 3), RULES)).splitlines()
    assert same[2].split(" | ")[2] == "0.5 ± 0 (3 seeds)"


def test_five_seeds_of_one_setting_seldom_fail_and_a_drop_of_three_sd_does():
    random = np.random.default_rng(0)
    failed = {0: 0, 3: 0}
    for drop in failed:
        for _ in range(400):
            before, now = random.normal(0.97, 0.005, (2, 5)) - [[0], [drop * 0.005]]
            checks = gate.compare(side(list(before)), side(list(now), first=5), RULES)
            failed[drop] += any(check.failed for check in checks)
    print(f"of 400 gates failed without a drop {failed[0]}, with one of 3 sd {failed[3]}")
    assert failed[0] <= 0.08 * 400
    assert failed[3] >= 0.95 * 400


@pytest.mark.parametrize(("n", "m", "df"), [(5, 5, 8), (5, 1, 4), (1, 3, 2)])
def test_the_drop_that_so_few_seeds_find_is_found_in_four_of_five_cases(n, m, df):
    error = np.sqrt(1 / n + 1 / m)
    drop = uncertainty.detectable_drop(uncertainty.Difference(0, error, df, 0, 0, 1))
    random = np.random.default_rng(0)
    found = 0
    for _ in range(4000):
        welch = uncertainty.welch(random.normal(0, 1, n), random.normal(-drop, 1, m))
        found += -welch.value > uncertainty.one_sided(welch.df) * welch.error
    assert found / 4000 == pytest.approx(0.8, abs=0.03)  # Welch's df vary
    normal = uncertainty.Difference(0, 2.0, np.inf, 0, 0, 1)
    expected = 2 * (stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
    assert uncertainty.detectable_drop(normal) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("before", "now", "noise", "seen"),
    [
        (FIVE, FIVE, "the noise of the seeds, the one-sided 2.5% bound of a t-test", "5 and 5"),
        (FIVE, [0.97], "the noise of the seeds, as the group spreads", "5 and 1"),
        ([0.97], FIVE, "the noise of the seeds, as the group spreads", "1 and 5"),
    ],
)
def test_the_remarks_say_what_noise_means_and_what_so_few_seeds_find(before, now, noise, seen):
    checks = gate.compare(side(before), side(now, first=9), RULES)
    first, second = gate.remarks(checks, RULES)
    assert first.startswith(f"accuracy may be worse by {noise}")
    count, other = seen.split(" and ")
    assert second.startswith(f"{count} seed{'s' * (count != '1')} before and {other} now")
    drop = float(re.search(r"a drop of ([\d.]+) in accuracy with a probability of 80%", second)[1])
    assert drop > max(check.allowed for check in checks if check.metric == "accuracy")
    assert ("`striate repeat`" in second) == ("1" in seen)


# The command.


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def results(folder, accuracies, own=0):
    """Write metrics of seed `own`, and their table."""
    rows = [
        seeds.row(seed, {"train_loss": 0.1}, {"accuracy": accuracy, "n": 360})
        for seed, accuracy in enumerate(accuracies)
    ]
    (folder / TRAIN).write_text(json.dumps({"train_loss": 0.1}))
    (folder / TEST).write_text(json.dumps({"accuracy": accuracies[own], "n": 360}))
    seeds.write(folder / seeds.FILE, rows)


def run_gate(folder, *arguments):
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["striate", "gate", "--against", "HEAD", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return SimpleNamespace(status=end.value.code, out=out.getvalue(), err=err.getvalue())


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "gate.yaml").write_text("metrics/test.json: {accuracy: {tolerance: noise}}")
    (tmp_path / "params.yaml").write_text("seed: 0")
    results(tmp_path, FIVE)
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "Start.")
    return tmp_path


def test_the_command_compares_group_with_group(repository):
    answer = run_gate(repository)
    assert (answer.status, answer.err) == (0, "")
    assert "| 0.9722 ± 0.0044 (5 seeds) | 0.9722 ± 0.0044 (5 seeds) | +0 |" in answer.out
    assert answer.out.endswith("passed, no metric differs\n")
    # The own seed is better, their mean is worse.
    results(repository, [0.98, 0.95, 0.95, 0.96, 0.95])
    answer = run_gate(repository)
    assert answer.status == 1
    assert "(5 seeds) | -0.01422 |" in answer.out
    assert "stale" not in answer.out


def test_another_own_seed_is_of_the_same_group(repository):
    results(repository, FIVE, own=2)
    (repository / "params.yaml").write_text("seed: 2")
    answer = run_gate(repository)
    assert answer.status == 0
    assert "(5 seeds) | +0 |" in answer.out
    assert "stale" not in answer.out


def test_dvc_lock_says_the_seed_before_params_do(repository):
    results(repository, FIVE, own=2)
    stage = {"params": {"params.yaml": {"seed": 2}}}
    (repository / "dvc.lock").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    assert "(5 seeds) | +0 |" in run_gate(repository).out
    stage["params"]["params.yaml"]["seed"] = 1
    (repository / "dvc.lock").write_text(yaml.safe_dump({"stages": {"train": stage}}))
    assert "metrics/seeds.csv here is stale" in run_gate(repository).out


def test_a_stale_table_is_said_and_one_seed_compared(repository):
    (repository / TEST).write_text('{"accuracy": 0.97, "n": 360}')
    answer = run_gate(repository)
    assert answer.status == 0
    assert "| 0.9722 ± 0.0044 (5 seeds) | 0.97 |" in answer.out
    (line,) = [line for line in answer.out.splitlines() if "stale" in line]
    assert line.startswith("metrics/seeds.csv here is stale: ")
    assert line.endswith("`striate repeat`, then `dvc repro`, renews it.")

    git(repository, "commit", "-qam", "Leave the table.")
    results(repository, FIVE)
    answer = run_gate(repository)
    assert "| 0.97 | 0.9722 ± 0.0044 (5 seeds) |" in answer.out
    (line,) = [line for line in answer.out.splitlines() if "stale" in line]
    assert line.startswith("metrics/seeds.csv at HEAD is stale: ")
    assert "repeat" not in line


@pytest.mark.parametrize("table", [None, "", "seed\n", "seed,test_accuracy\n0,0.975\n"])
def test_less_than_two_rows_are_no_group(repository, table):
    if table is None:
        (repository / seeds.FILE).unlink()
    else:
        (repository / seeds.FILE).write_text(table)
    answer = run_gate(repository)
    assert answer.status == 0
    assert "| 0.9722 ± 0.0044 (5 seeds) | 0.975 |" in answer.out
    assert "stale" not in answer.out
    git(repository, "commit", "-qam", "Drop the table.")
    answer = run_gate(repository)
    assert "| 0.975 | 0.975 |" in answer.out
    assert "\nOne seed before and one now: " in answer.out


@pytest.mark.parametrize("params", [None, "", "- seed", "{", "seed: one", "day: 2025-02-31"])
def test_without_a_seed_there_is_no_group(repository, params):
    path = repository / "params.yaml"
    path.unlink() if params is None else path.write_text(params)
    git(repository, "commit", "-qam", "Break the params.")
    answer = run_gate(repository)
    assert (answer.status, answer.err) == (0, "")
    assert "| 0.975 | 0.975 | +0 |" in answer.out


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("seed,test_accuracy\n0\n", "is not a table of numbers"),
        ("seed,test_accuracy\n0,good\n", "is not a table of numbers"),
        ("seed,test_accuracy\n0,nan\n", "is not a table of numbers: nan is not finite"),
        ("seed,test_accuracy\n0,1e999\n", "is not a table of numbers: 1e999 is not finite"),
        ("test_accuracy\n0.9\n", "has no column seed"),
        ("\n\n", "has no column seed"),
        ("seed,test_accuracy\n0,0.9\n0,0.8\n", "has two rows of one seed"),
        ("<<<<<<< HEAD\n", "has no column seed"),
    ],
)
def test_a_faulty_table_is_one_line_and_status_2(repository, table, said):
    (repository / seeds.FILE).write_text(table)
    answer = run_gate(repository)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith(f"error: metrics/seeds.csv {said}")
    assert len(answer.err.splitlines()) == 1
    git(repository, "commit", "-qam", "Break the table.")
    results(repository, FIVE)
    answer = run_gate(repository)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith(f"error: metrics/seeds.csv at HEAD {said}")
