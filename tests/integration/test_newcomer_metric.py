"""A new metric, as docs/extending.md adds it: one function, and everything shows it."""

import re
from pathlib import Path

import pytest
from clones import Clone

ROOT = Path(__file__).parents[2]
SOURCE = "src/striate/evaluation/metrics.py"
EXAMPLES = re.findall(r"```py\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S)
(EXAMPLE,) = [code for code in EXAMPLES if "@metric(" in code]


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory):
    """A repository whose only experiment, `main`, is older than the metric."""
    folder = tmp_path_factory.mktemp("newcomer") / "striate"
    return Clone.of_this_tree(folder, training__epochs=1, model__width=4)


@pytest.fixture(scope="module")
def clone(unmeasured):
    """The same repository with the metric, run again; `said` is what DVC printed."""
    clone = unmeasured
    clone.before = clone.json("metrics/test.json")
    with (clone.folder / SOURCE).open("a") as stream:
        stream.write(f"\n\n{EXAMPLE}")
    clone.touched = clone.run("git", "status", "--porcelain").split()
    clone.said = clone.run("dvc", "repro")
    clone.settle()
    return clone


@pytest.fixture(scope="module")
def percentage(clone):
    return f"{clone.json('metrics/test.json')['top3_accuracy']:.2%}"


@pytest.mark.slow
def test_one_file_is_touched_and_nothing_is_trained(clone):
    assert clone.touched == ["M", SOURCE]
    assert re.findall(r"Running stage '(\w+)'", clone.said) == ["evaluate", "visualize"]
    assert clone.run("git", "status", "--porcelain").split()[1::2] == [
        "dvc.lock", "metrics/test.json", SOURCE,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_other_metrics_stay_as_they_were(clone):
    after = clone.json("metrics/test.json")
    assert list(after) == [*clone.before, "top3_accuracy"]
    assert {key: after[key] for key in clone.before} == clone.before
    assert after["accuracy"] < after["top3_accuracy"] <= 1


@pytest.mark.slow
def test_the_report_the_card_and_the_summary_show_it(clone, percentage):
    page = (clone.folder / "reports/index.html").read_text()
    tile = rf">top-3 accuracy</span><b>{percentage}</b><span [^>]*>true class among the likeliest"
    assert re.search(tile, page)
    card = (clone.folder / "reports/model_card.md").read_text()
    assert f"| top-3 accuracy | {percentage} | – |" in card
    assert re.search(rf"^  top-3 accuracy +{percentage}$", clone.striate("summary"), re.M)


@pytest.mark.slow
def test_an_older_experiment_shows_a_dash_and_stays_in_all_tables(clone, percentage):
    said = clone.striate("compare", "main", "workspace")
    assert re.search(rf"^top-3 accuracy +– +{percentage}$", said, re.M)
    assert re.search(rf"^top-3 accuracy +{percentage} +–$",
                     clone.striate("compare", "workspace", "main"), re.M)  # fmt: skip
    assert "<td>top-3 accuracy</td><td>–</td>" in re.sub(
        r"<td>[\d.]+%</td>(?=<td>–)", "", (clone.folder / "reports/compare.html").read_text()
    )
    for command in ("experiments", "pareto"):
        said = clone.striate(command)
        assert "left out" not in said
        assert {"main", "workspace"} <= {line.split(" ")[0] for line in said.splitlines()}


@pytest.mark.slow
def test_dvc_and_mlflow_agree_on_both_experiments(clone):
    clone.striate("sync")
    assert clone.striate("verify") == "MLflow agrees with DVC on 2 experiments\n"


@pytest.mark.slow
def test_the_gate_names_it_as_new_and_then_misses_it(clone):
    said = clone.striate("gate", "--against", "HEAD")
    assert re.search(r"\| top3_accuracy \| – \| [\d.]+ \| – \| – \| not judged \|", said)
    rules = clone.folder / "gate.yaml"
    rule = "metrics/test.json:\n  top3_accuracy: {tolerance: noise}\n"
    rules.write_text(rules.read_text().replace("metrics/test.json:\n", rule))
    said = clone.striate("gate", "--against", "HEAD")
    assert re.search(r"\| top3_accuracy \| – \| [\d.]+ \| – \| – \| new \|", said)
    assert said.endswith(": passed; new, so not judged: top3_accuracy\n")
    clone.run("git", "commit", "-qam", "Measure the top-3 accuracy.")
    said = clone.striate("gate", "--against", "HEAD")
    assert re.search(r"\| top3_accuracy \| [\d.]+ \| [\d.]+ \| \+0 \| [\d.]+ \| equal \|", said)
    # Whoever removes the metric is told so, by the gate and by a dash.
    clone.run("git", "checkout", "-q", "HEAD~1", "--", SOURCE)
    clone.run("dvc", "repro")
    clone.settle()
    assert clone.json("metrics/test.json") == clone.before
    said = clone.striate("gate", "--against", "HEAD", status=1)
    assert said.endswith(": FAILED: top3_accuracy is missing\n")
    said = clone.striate("compare", "main", "workspace")
    assert re.search(r"^test top3 accuracy +[\d.]+% +–$", said, re.M)
