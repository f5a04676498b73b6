"""What differs between experiments."""

import re

import numpy as np
import pytest
from clones import Clone
from pages import Page
from scipy.stats import ttest_ind, ttest_rel

from striate.analysis import compare, significance
from striate.analysis.compare import Scored, Side
from striate.analysis.significance import McNemarResult, Trained
from striate.tracking import groups, records
from striate.tracking.groups import Group

CLASSES = ["a", "b", "c"]
LABELS = np.array([0, 1, 2, 0, 1, 2])


def side(name, guesses, params=None, test=None, train=None, data="d"):
    """An experiment of a single seed that predicts these classes, ever surer."""
    logits = np.zeros((len(guesses), 3), np.float32)
    logits[np.arange(len(guesses)), guesses] = 1 + np.arange(len(guesses))
    scores = {"accuracy": 0.5, "errors": int((np.array(guesses) != LABELS).sum()), "n": 6}
    record = records.Record(
        [records.Name(name)], {records.DATA: data, records.CHECKPOINT: name},
        params or {"seed": 0, "model.layers": 2},
        train or {"parameters": 10}, scores | (test or {}), None, {"data/test": data}, [],
    )  # fmt: skip
    group = Group(groups.keys(record)[0], [record], [])
    return Side(name, record, group, [{"epoch": [1, 2], "val_loss": [2.0, 1.0]}], logits[None])


def together(*sides):
    """The first side, with the others as further seeds of its setting."""
    members = [one.record for one in sides]
    return sides[0]._replace(
        group=Group(sides[0].group.key, members, []),
        histories=[one.histories[0] for one in sides],
        logits=np.concatenate([one.logits for one in sides]),
    )


def seeds(name, guesses, layers):
    """A side of several seeds, which predict these classes."""
    return together(
        *(
            side(name, one, {"seed": seed, "model.layers": layers},
                 {"accuracy": float((np.array(one) == LABELS).mean())})
            for seed, one in enumerate(guesses)
        )
    )  # fmt: skip


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
    assert "test accuracy of the network, 95% interval 18.76 to 81.24% 18.76 to 81.24%" in page


@pytest.mark.parametrize(
    ("ours", "theirs", "p"),
    [(0, 0, 1), (3, 3, 1), (0, 5, 2 / 2**5), (1, 9, 2 * 11 / 2**10), (9, 1, 2 * 11 / 2**10)],
)
def test_mcnemars_test_is_that_of_a_fair_coin(ours, theirs, p):
    first = np.array([True] * (ours + 4) + [False] * (theirs + 2))
    second = np.array([False] * ours + [True] * (4 + theirs) + [False] * 2)
    result = significance.mcnemar(first, second)
    assert result == pytest.approx((ours, theirs, p))


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (
            McNemarResult(4, 6, 0.75),
            "Two networks: only B has 6 images right, only A 4 (McNemar's test over images,"
            " p = 0.75); the choice of test images may explain that.",
        ),
        (McNemarResult(1, 30, 1e-7), "differ by more than the choice of test images explains."),
        (McNemarResult(0, 0, 1.0), "The networks A and B have the same images right."),
        (McNemarResult(0, 1, 1.0), "only B has 1 image right, only A 0 "),
    ],
)
def test_its_result_is_of_two_networks_and_of_images(result, words):
    said = significance.network_sentence("A", "B", result)
    assert words in said
    assert "better" not in said


def setting(name, *accuracies):
    """Networks of these accuracies on 100 images; each has the first ones right."""
    first = ord(name[0])  # two settings have no seed in common
    seeds = range(100 * first, 100 * first + len(accuracies))
    return Trained(name, seeds, np.arange(100) < 100 * np.array(accuracies)[:, None])


LOW = setting("A", 0.80, 0.81, 0.82, 0.83, 0.84)


def test_settings_are_compared_over_their_seeds():
    high = setting("B", 0.90, 0.91, 0.92, 0.93, 0.94)
    (found,) = significance.differences(LOW, [high])
    scores = [list(one.accuracies.values()) for one in (high, LOW)]
    expected = ttest_ind(*scores, equal_var=False)
    assert (found.value, found.p) == pytest.approx((0.1, expected.pvalue))
    low, high_end = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high_end))
    (said,) = significance.setting_sentences(LOW, [high])
    assert said.startswith("B against A, 5 and 5 seeds: +10.00 points of test accuracy, 95%")
    assert "The setting B is better than A on these images, and the choice of seeds" in said
    (said,) = significance.setting_sentences(high, [LOW])
    assert "B against" not in said
    assert "The setting B is better than A" in said
    assert "−10.00 points" in said


def test_equal_seeds_are_paired():
    high = setting("B", 0.81, 0.82, 0.83, 0.84, 0.86)._replace(seeds=LOW.seeds)
    (found,) = significance.differences(LOW, [high])
    scores = [list(one.accuracies.values()) for one in (high, LOW)]
    expected = ttest_rel(*scores)
    assert (found.value, found.p) == pytest.approx((0.012, expected.pvalue))
    (said,) = significance.setting_sentences(LOW, [high])
    assert said.startswith("B against A, the same 5 seeds: +1.20 points of test accuracy, 95%")
    assert "(paired t-test, p = 0.0039). The setting B is better than A" in said


def test_a_difference_within_the_spread_comes_with_the_seeds_that_it_would_take():
    (said,) = significance.setting_sentences(LOW, [setting("B", 0.80, 0.82, 0.83, 0.84, 0.86)])
    assert "better" not in said
    assert "The choice of seeds may explain that. With other test images, too, the interval" in said
    assert re.search("5 seeds each show 4 points \\(80% power\\)", said)
    assert re.search(r"would take 60 each: striate repeat B --seeds 60, likewise A$", said)


def test_of_many_comparisons_the_p_values_are_holms():
    others = [setting("B", 0.83, 0.84, 0.85, 0.86, 0.87), setting("C", 0.80, 0.81, 0.82, 0.83, 0.9),
              setting("D", 0.7)]  # fmt: skip
    alone = [significance.differences(LOW, [other])[0].p for other in others]
    found = [one.p for one in significance.differences(LOW, others)]
    assert found[2] == pytest.approx(3 * alone[2])
    assert all(adjusted >= p for adjusted, p in zip(found, alone, strict=True))
    assert "Holm's for 3 comparisons" in significance.setting_sentences(LOW, others)[0]


def test_of_one_seed_each_no_setting_is_better():
    assert significance.differences(setting("A", 0.5), [setting("B", 0.9)]) == [None]
    (said,) = significance.setting_sentences(setting("A", 0.5), [setting("B", 0.9)])
    assert said.startswith("One seed each compares two networks.")
    assert said.endswith("striate repeat B --seeds 5")
    assert "is better than" not in said


def test_one_seed_against_several_borrows_their_spread():
    (far,) = significance.setting_sentences(LOW, [setting("B", 0.95)])
    assert "B against A, 1 and 5 seeds: +13.00 points" in far
    assert "if one more seed of B spreads as those of A" in far
    assert "more than the seed explains" in far
    assert "is better" not in far
    (near,) = significance.setting_sentences(setting("B", 0.85), [LOW])
    assert "no more than the seed explains" in near
    assert near.endswith("striate repeat B --seeds 5")


def test_groups_show_means_with_their_spread(scored):
    first = seeds("first", [[0, 1, 2, 0, 0, 0], [0, 1, 2, 0, 1, 0], [0, 1, 2, 0, 1, 2]], 2)
    other = seeds("other", [[0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2]], 3)
    rows = {row[0]: row[1:] for row in compare.metrics([first, other])}
    assert rows["seeds"] == ["3", "2"]
    assert rows["test accuracy"] == ["83.33% ± 16.67%", "100.00% (+16.67%)"]
    assert rows["test accuracy, 95% interval of the mean"] == [
        "41.93 to 100.00%",
        "–",
    ]
    assert rows["test errors"] == ["1.0 ± 1.0", "0 (−1.0)"]
    assert rows["test images"] == ["6", "6"]
    assert compare.params([first, other]) == [
        ["seed", "0 to 2", "0 to 1"],
        ["model.layers", "2", "3"],
    ]
    said = compare.sentences([first, other], scored)
    assert said[0].startswith("other against first, 2 and 3 seeds: +16.67 points")
    assert said[1].startswith("Two networks: only other has 2 images right")
    page = compare.page([first, other], said, scored)
    addresses = Page(page).addresses
    assert sum(address.startswith("data:image/png") for address in addresses) == 2 + 1 + 2


def test_curves_of_several_seeds_become_a_mean_with_a_spread():
    short = {"epoch": [1.0, 2.0], "val_loss": [2.0, 1.0]}
    long = {"epoch": [1.0, 2.0, 3.0], "val_loss": [4.0, 1.0, 0.5], "only": [0.0, 0.0, 0.0]}
    assert compare.mean_history([long, short]) == {
        "epoch": [1, 2], "val_loss": [3, 1], "val_loss_sd": [pytest.approx(2**0.5), 0],
    }  # fmt: skip
    assert compare.mean_history([long]) == long


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
    assert said[1].startswith("One seed each compares two networks.")
    assert said[2].startswith("Two networks: only second has 1 image right, only first 1")
    assert len(said) == 3
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
    assert "Whether the setting deeper is better or worse" in clone.said
    assert "Two networks: only deeper has" in clone.said
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
