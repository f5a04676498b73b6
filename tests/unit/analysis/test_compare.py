"""What differs between experiments."""

import re

import numpy as np
import pytest
from clones import Clone
from pages import Page

from striate.analysis import compare
from striate.analysis.compare import McNemarResult, Scored, Side
from striate.tracking import records

CLASSES = ["a", "b", "c"]
LABELS = np.array([0, 1, 2, 0, 1, 2])


def side(name, guesses, params=None, test=None, train=None, data="d"):
    """An experiment that predicts these classes, ever surer."""
    logits = np.zeros((len(guesses), 3), np.float32)
    logits[np.arange(len(guesses)), guesses] = 1 + np.arange(len(guesses))
    scores = {"accuracy": 0.5, "errors": int((np.array(guesses) != LABELS).sum()), "n": 6}
    record = records.Record(
        [records.Name(name)], {records.DATA: data, records.CHECKPOINT: name},
        params or {"seed": 0, "model.layers": 2},
        train or {"parameters": 10}, scores | (test or {}), None, {"data/test": data}, [],
    )  # fmt: skip
    return Side(name, record, {"epoch": [1, 2], "val_loss": [2.0, 1.0]}, logits)


@pytest.fixture
def scored():
    images = np.random.RandomState(0).rand(6, 1, 4, 4).astype(np.float32)
    return Scored(images, LABELS, CLASSES)


FIRST = side("first", [0, 1, 2, 0, 0, 0])  # the last two are wrong
SECOND = side("second", [0, 1, 2, 1, 1, 0], {"seed": 0, "model.layers": 3, "new": True})


def test_only_params_that_differ_are_shown():
    assert compare.params([FIRST, SECOND]) == [["model.layers", "2", "3"], ["new", "–", "True"]]
    assert compare.params([FIRST, FIRST]) == []


def test_metrics_stand_beside_their_difference_to_the_first():
    other = side("o", LABELS, test={"accuracy": 0.75, "ece": 0.1}, train={"parameters": 1234})
    rows = {name: cells for name, *cells in compare.metrics([FIRST, other, FIRST])}
    assert rows["test accuracy"] == ["50.00%", "75.00% (+25.00%)", "50.00%"]
    assert rows["test errors"] == ["2", "0 (−2)", "2"]
    assert rows["calibration error"] == ["–", "10.00%", "–"]
    assert rows["parameters"] == ["10", "1,234 (+1,224)", "10"]


def test_a_metric_that_nobody_registered_is_shown_under_its_key():
    other = side("o", LABELS, test={"new_share": 0.5, "top_accuracy": 0.25, "accuracy": 0.50001})
    rows = {name: cells for name, *cells in compare.metrics([FIRST, other])}
    assert rows["test new share"] == ["–", "0.5000"]
    assert rows["test top accuracy"] == ["–", "25.00%"]
    assert rows["test accuracy"] == ["50.00%", "50.00% (+1e-03%)"]


def test_experiments_without_errors_have_an_interval_on_the_page(scored):
    sides = [side(name, LABELS) for name in ("a", "b")]
    for one in sides:
        del one.record.test["errors"]
    page = " ".join(" ".join(Page(compare.page(sides, [], scored)).words).split())
    assert "test accuracy, 95% interval 18.76 to 81.24% 18.76 to 81.24%" in page


@pytest.mark.parametrize(
    ("ours", "theirs", "p"),
    [(0, 0, 1), (3, 3, 1), (0, 5, 2 / 2**5), (1, 9, 2 * 11 / 2**10), (9, 1, 2 * 11 / 2**10)],
)
def test_mcnemars_test_is_that_of_a_fair_coin(ours, theirs, p):
    first = np.array([True] * (ours + 4) + [False] * (theirs + 2))
    second = np.array([False] * ours + [True] * (4 + theirs) + [False] * 2)
    result = compare.mcnemar(first, second)
    assert result == pytest.approx((ours, theirs, p))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            McNemarResult(4, 6, 0.75),
            "Only B has 6 images right, only A 4 (McNemar's test, p = 0.75): chance may explain the"
            " difference.",
        ),
        (McNemarResult(1, 30, 1e-7), "B is better than A, and not by chance."),
        (McNemarResult(30, 1, 1e-7), "A is better than B, and not by chance."),
        (McNemarResult(0, 0, 1.0), "A and B have the same images right."),
        (McNemarResult(0, 1, 1.0), "Only B has 1 image right, only A 0 "),
    ],
)
def test_its_result_is_a_sentence(result, words):
    assert words in compare.sentence("A", "B", result)


def test_images_that_only_one_has_right_come_with_the_others_guess(scored):
    (tile,) = compare.right_only_in(SECOND, FIRST, scored)
    assert tile.caption.startswith("b, not a (")
    (tile,) = compare.right_only_in(FIRST, SECOND, scored)
    assert tile.caption.startswith("a, not b (")
    assert compare.right_only_in(FIRST, FIRST, scored) == []


def test_the_page_shows_what_the_text_says(scored):
    sides = [FIRST, SECOND]
    said = compare.sentences(sides, scored)
    page = Page(compare.page(sides, said, scored))
    words = " ".join(" ".join(page.words).split())
    assert said[0] in words
    assert "model.layers 2 3" in words
    assert "Right in second, wrong in first" in words
    assert sum(address.startswith("data:image/png") for address in page.addresses) == 2 + 2
    assert all(address.startswith("data:") for address in page.addresses)
    text = compare.text(sides, said)
    assert said[0] in text
    assert "model.layers  2      3" in text


def test_validation_comes_first_and_small_differences_are_shown():
    first, other = (
        side(name, LABELS, {"seed": name}, {"loss": loss}, {
            "train_loss": 1.0, "val_loss": 0.5, "val_accuracy": 0.9, "parameters": 10,
        })
        for name, loss in (("a", 0.25), ("b", 0.25003))
    )  # fmt: skip
    rows = compare.metrics([first, other])
    assert [row[0] for row in rows] == [
        "validation accuracy", "validation loss", "test accuracy", "test errors", "test images",
        "test loss", "training loss", "parameters",
    ]  # fmt: skip
    assert rows[5] == ["test loss", "0.2500", "0.2500 (+3e-05)"]


def test_other_test_images_are_compared_in_numbers_only(scored):
    elsewhere = side("elsewhere", LABELS, data="other", test={"accuracy": 0.75})
    sides = [FIRST, elsewhere, SECOND]
    said = compare.sentences(sides, scored)
    assert said[0] == (
        "first and elsewhere were scored on different test images, so no difference between them"
        " can be tested."
    )
    assert said[1].startswith("Only second has 1 image right, only first 1")
    assert len(said) == 2
    rows = {row[0]: row[1:] for row in compare.metrics(sides)}
    assert rows["test accuracy"] == ["50.00%", "75.00%", "50.00%"]
    page = compare.page(sides, said, scored)
    assert "Right in second" in page
    assert "Right in elsewhere" not in page


def test_two_names_of_one_experiment_are_said_to_be_one(scored):
    again = FIRST._replace(name="again")
    said = compare.sentences([FIRST, again], scored)
    assert said == [
        "first and again are the same experiment: equal params, data, weights and scores."
    ]
    assert "Right in" not in compare.page([FIRST, again], said, scored)


def test_other_validation_sets_are_named(scored):
    other = side("other", LABELS, {"seed": 1, "model.layers": 2})
    *_, said = compare.sentences([FIRST, other], scored)
    assert said == "Their validation sets differ (seed)."


def test_names_are_text_and_no_markup(scored):
    page = compare.page([FIRST, side("<i>x", LABELS)], [], scored)
    assert "<i>x" not in page
    assert "&lt;i&gt;x" in page


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository with an experiment, whose comparison with the commit is in `said`."""
    folder = tmp_path_factory.mktemp("compare") / "striate"
    clone = Clone.of_this_tree(folder, training__epochs=1, model__width=4)
    clone.env["STRIATE_TRACKING"] = "off"
    clone.run("dvc", "exp", "run", "--temp", "-n", "deeper", "-S", "model.layers=3")
    clone.commit = clone.run("git", "rev-parse", "--short", "HEAD").strip()
    clone.said = clone.striate("compare", clone.commit, "deeper", "workspace")
    return clone


@pytest.mark.slow
def test_a_commit_an_experiment_and_the_workspace_are_compared(clone):
    errors = clone.json("metrics/test.json")["errors"]
    assert "model.layers  2" in clone.said
    assert re.search(rf"^test errors +{errors} ", clone.said, re.M)
    assert "Only deeper has" in clone.said
    assert f"{clone.commit} and workspace are the same experiment: equal params" in clone.said


@pytest.mark.slow
def test_the_page_of_a_comparison_is_written_where_it_is_asked_for(clone):
    page = (clone.folder / "reports/compare.html").read_text()
    assert f"deeper and workspace against {clone.commit}" in page
    assert clone.run("git", "status", "--porcelain") == ""
    clone.striate("compare", "main", "deeper", "--page", "elsewhere/page.html")
    assert (clone.folder / "elsewhere/page.html").exists()


@pytest.mark.slow
def test_experiments_are_listed_with_the_advice_by_what_to_choose(clone):
    listed = clone.striate("experiments").splitlines()
    assert listed[0].split()[:4] == ["experiment", "seeds", "validation", "accuracy"]
    assert {line.split("  ")[0] for line in listed[2:4]} == {"main, workspace", "deeper"}
    assert listed[-3].startswith("Choose by validation accuracy")
    assert listed[-1].startswith("One seed each compares networks")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("main",), "name at least two experiments"),
        (("main", "main"), "name at least two experiments"),
        (
            ("main", "none"),
            "there is no experiment, branch or commit 'none'; known here: ",
        ),
        (("main", "HEAD~1"), "HEAD~1 cannot be used: it was not evaluated"),
    ],
)
def test_what_cannot_be_compared_is_one_line(clone, names, words):
    (line,) = clone.striate("compare", *names, status=2).splitlines()
    assert words in line


@pytest.mark.slow
def test_an_experiment_without_its_files_cannot_be_compared(clone):
    cache = clone.folder / ".dvc/cache"
    cache.rename(clone.folder / ".dvc/away")
    (line,) = clone.striate("compare", "workspace", "deeper", status=2).splitlines()
    (clone.folder / ".dvc/away").rename(cache)
    assert "deeper cannot be used: its files are not in DVC's cache here; `dvc exp pull`" in line
