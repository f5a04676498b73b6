"""The ladder and an ablation as tables, pages and pictures."""

import csv
import io

import pytest

from striate.analysis import ablation, ladder
from striate.config.ablation import Change
from striate.config.recipes import Rung
from striate.pipeline.repeat import Setting
from striate.pipeline.several import Measured
from striate.reporting.figures import ladder as ladder_figure
from striate.reporting.figures import style
from striate.reporting.figures.waterfall import Bar, waterfall
from striate.reporting.uncertainty import summarize
from striate.tracking import records, times
from striate.tracking.records import Name, Record

IDENTITY = dict.fromkeys(
    (records.PARAMS, records.DATA, records.CHECKPOINT, records.EVALUATION), "d"
)


COMMAND = "striate ladder digits --seeds 2 --to docs/ladder"


def measured(name, scores, reasons=(), parameters=1000):
    by_seed = {
        seed: Record(
            [Name(f"{name}-{seed}")], IDENTITY | {records.PARAMS: f"{name}{seed}"},
            {"seed": seed}, {"parameters": parameters, "val_accuracy": score},
            {"accuracy": score, "n": 360}, None, {}, [],
        )
        for seed, score in scores.items()
    }  # fmt: skip
    return Measured(Setting(name, {}), by_seed, list(reasons))


def rung(year, name):
    return Rung(year=year, name=name, paper=f"https://example.org/{year}", instead={})


@pytest.fixture
def steps():
    rungs = {"ladder/a/digits": rung(1986, "A"), "ladder/b/digits": rung(2015, "B")}
    rungs["ladder/c/digits"] = rung(2020, "C")
    found = [measured("a", {0: 0.9, 1: 0.92}), measured("b", {0: 0.95}, parameters=65_432)]
    found.append(measured("c", {}, ["the loss became nan"]))
    timings = {one.key: (2.0 + seed, "cpu") for seed, one in found[0].by_seed.items()}
    return ladder.steps(rungs, found, timings), timings


def test_the_ladder_has_a_row_for_each_rung(steps):
    assert ladder.table(steps[0])[1:] == [
        ["1986", "A", "2", "91.00% ± 1.41%", "78.29 to 100.00%", "1,000", "2.5"],
        ["2015", "B", "1", "95.00%", "–", "65,432", "–"],
        ["2020", "C", "0", "failed", "–", "–", "–"],
    ]
    assert "timed on cpu." in ladder.notes([steps[0][0].candidate])[0]


def test_the_page_names_papers_recipes_and_the_picture(steps):
    page = ladder.page(steps[0], "digits", "digits.png", COMMAND)
    row = "| 1986 | [A](https://example.org/1986) | `ladder/a/digits` | 2 | 91.00% ± 1.41% |"
    assert row in page
    assert "`ladder/b/digits` | 1 | 95.00% |" in page  # a seed of two, and the page says so
    assert "![Test accuracy on digits, parameters and seconds" in page
    assert "](digits.png)" in page
    assert f"`{COMMAND}` makes this page." in page


@pytest.mark.parametrize(
    ("machine", "note"),
    [("gpu", "Those with * were timed on gpu."), ("", "Those with * were timed on an unknown ma")],
)
def test_seconds_of_another_machine_have_a_star(machine, note):
    rungs = {f"ladder/{name}/digits": rung(2000, name) for name in "abc"}
    found = [measured(name, {0: 0.9, 1: 0.92}) for name in "abc"]
    timings = {
        record.key: (2.0, machine if one is found[1] else "cpu")
        for one in found
        for record in one.by_seed.values()
    }
    steps = ladder.steps(rungs, found, timings)
    assert [row[-1] for row in ladder.table(steps)[1:]] == ["2", "2 *", "2"]
    first, second = ladder.notes([step.candidate for step in steps])
    assert first == "Seconds of training are medians over the seeds, timed on cpu."
    assert second.startswith(note)
    assert r"| 1,000 | 2 \* |" in ladder.page(steps, "digits", "digits.png", COMMAND)
    seconds = ladder_figure.ladder(ladder.points(steps), "test accuracy").axes[2]
    assert [text.get_text() for text in seconds.texts] == ["2", "2 *", "2"]
    assert seconds.get_xlabel() == "seconds (log scale, * elsewhere)"


def test_every_seed_is_a_line_of_the_csv(steps):
    lines = list(csv.DictReader(io.StringIO(ladder.seeds(*steps))))
    assert [(one["recipe"], one["seed"], one["seconds"]) for one in lines] == [
        ("ladder/a/digits", "0", "2.000"),
        ("ladder/a/digits", "1", "3.000"),
        ("ladder/b/digits", "0", ""),
    ]
    assert lines[1]["test_accuracy"] == lines[1]["validation_accuracy"] == "0.92"


def test_the_picture_has_rungs_with_experiments_oldest_at_the_bottom(steps):
    figure = ladder_figure.ladder(ladder.points(steps[0]), "test accuracy")
    accuracy, parameters, seconds = figure.axes
    assert [text.get_text() for text in accuracy.get_yticklabels()] == ["1986  A", "2015  B"]
    assert [text.get_text() for text in parameters.texts] == ["1k", "65.4k"]
    assert [text.get_text() for text in seconds.texts] == ["2.5"]
    assert style.png(figure) == style.png(
        ladder_figure.ladder(ladder.points(steps[0]), "test accuracy")
    )


def test_without_seconds_there_is_no_panel_of_them():
    point = ladder_figure.Point("1986  A", [0.9], summarize([0.9]), 1000, None)
    assert len(ladder_figure.ladder([point], "test accuracy").axes) == 2


@pytest.mark.parametrize(
    ("scores", "is_whole"), [([0.93, 0.935, 0.94], True), ([0.9, 0.98], False)]
)
def test_intervals_are_drawn_whole_unless_few_seeds_make_them_wide(scores, is_whole):
    points = [
        ladder_figure.Point(f"{year}", own, summarize(own), 1000, 1.0)
        for year, own in ((2015, [0.99, 0.991, 0.992]), (2020, scores))
    ]
    low, high = ladder_figure.ladder(points, "test accuracy").axes[0].get_xlim()
    interval = points[1].mean
    assert (low < 100 * interval.low, 100 * interval.high < high) == (is_whole, is_whole)


CHANGES = [
    Change("training.epochs", {"training.epochs": 8}, {"training.epochs": 5}),
    Change(
        "training.optimizer",
        {"training.optimizer": "muon", "training.learning_rate": 0.24},
        {"training.optimizer": "adam", "training.learning_rate": 0.001},
    ),
    Change(
        "model.layers",
        {"model.layers": 3, "model.width": [8, 16, 16]},
        {"model.layers": 2, "model.width": 16},
    ),
    Change("augment.flip", {"augment.flip": True}, {"augment.flip": False}),
    Change("everything", {"training.epochs": 8}, {"training.epochs": 5}),
]


@pytest.fixture
def rows():
    found = [
        measured("recipe", {0: 0.97, 1: 0.98, 2: 0.99}),
        measured("epochs", {0: 0.96, 1: 0.97, 2: 0.98}),
        measured("optimizer", {}, ["the loss became nan at step 3"]),
        measured("layers", {0: 0.98, 1: 0.97}, ["it was killed"]),
        measured("flip", {0: 0.975, 1: 0.985, 2: 0.999}),
        measured("everything", {0: 0.5, 1: 0.6, 2: 0.55}),
    ]
    return ablation.rows(CHANGES, found, {})


def test_the_largest_loss_comes_first_and_differences_are_paired(rows):
    table = ablation.table(rows)
    assert [row[:4] for row in table[1:]] == [
        ["nothing", "", "", "3"],
        ["optimizer and its rates", "muon", "adam", "0"],
        ["everything, as params.yaml has it", "", "", "3"],
        ["epochs", "8", "5", "3"],
        ["layers and width", "3, [8, 16, 16]", "2, 16", "2"],
        ["flip", "true", "false", "3"],
    ]
    assert table[2][4:] == ["failed", "–", "–", "–", "–"]
    epochs, layers = table[4], table[5]
    # All seeds lose a point; the interval is that of rounding to an image.
    assert (epochs[5], epochs[6]) == ("−1.00", "−1.28 to −0.72")
    assert layers[5] == "+0.00"  # over the two seeds that both have


def test_p_values_and_colours_are_those_of_all_comparisons_together():
    """A change whose own interval leaves out 0 may be the luck of several comparisons."""
    found = [measured("recipe", {0: 0.97, 1: 0.98, 2: 0.99})]
    found += [measured(name, {0: 0.96, 1: 0.962, 2: 0.974}) for name in "abcd"]
    changes = [change._replace(key=f"training.{n}") for n, change in enumerate(CHANGES[:4])]
    alone = ablation.rows(changes[:1], found[:2], {})[1].difference
    assert alone.high < 0
    assert ablation.bars(ablation.rows(changes[:1], found[:2], {}))[0].differs
    rows = ablation.rows(changes, found, {})
    assert rows[1].difference.p == pytest.approx(4 * alone.p)
    assert (rows[1].difference.low, rows[1].difference.high) == (alone.low, alone.high)
    assert not any(bar.differs for bar in ablation.bars(rows))
    assert "p by Holm for 4 comparisons" in ablation.notes(rows, {})[0]
    (axes,) = waterfall(ablation.bars(rows), "test accuracy", "recipe").axes
    assert len({patch.get_facecolor() for patch in axes.patches}) == 1


def test_too_few_seeds_in_common_are_not_taken_for_a_failure():
    found = [
        measured("recipe", {0: 0.97, 1: 0.98}, ["the disk is full"]),
        measured("epochs", {0: 0.96, 1: 0.97}),
        measured("optimizer", {1: 0.97, 2: 0.98}, ["it was killed"]),
        measured("layers", {}, ["the loss became nan"]),
    ]
    rows = ablation.rows(CHANGES[:3], found, {})
    table = ablation.table(rows)
    assert [row[0] for row in table[1:]] == [
        "nothing", "layers and width", "epochs", "optimizer and its rates",
    ]  # fmt: skip
    assert table[4][3:] == ["2", "97.50% ± 0.71%", "–", "–", "–", "–"]
    unknown = [bar.unknown for bar in ablation.bars(rows)]
    assert unknown == [ablation.NO_TRAINING, "", ablation.TOO_FEW]
    (axes,) = waterfall(ablation.bars(rows), "test accuracy", "recipe").axes
    assert [text.get_text() for text in axes.texts] == [
        ablation.NO_TRAINING,
        "1.00",
        ablation.TOO_FEW,
    ]
    assert "With nothing taken back, trainings failed: the disk is full." in ablation.notes(
        rows, {}
    )


def test_what_failed_and_what_stays_is_said(rows):
    lines = ablation.notes(rows, {"model.patch": "it does not tile"})
    assert (
        "With optimizer and its rates adam, trainings failed: the loss became nan at step 3."
        in lines
    )
    assert "model.patch cannot be taken back alone: it does not tile." in lines


def test_the_picture_has_everything_at_last(rows):
    bars = ablation.bars(rows)
    assert [bar.label for bar in bars][-1] == "everything, as params.yaml has it"
    assert bars[0][:3] == ("optimizer and its rates: muon → adam", None, None)
    loss = bars[1].loss
    assert (bars[1].label, loss) == ("epochs: 8 → 5", pytest.approx(0.01))
    assert bars[1].interval[0] < loss < bars[1].interval[1]
    figure = waterfall(bars, "test accuracy", "recipe")
    (axes,) = figure.axes
    shown = [text.get_text() for text in axes.texts]
    assert shown[:2] == ["no training came to an end", "1.00"]
    assert style.png(figure)


def test_a_bar_that_is_far_longer_than_others_is_cut():
    bars = [Bar("a", 0.9, (0.8, 1.0)), Bar("b", 0.01, (0.0, 0.02)), Bar("c", 0.002, None)]
    bars.append(Bar("d", -0.004, (-0.006, -0.002)))
    (axes,) = waterfall(bars, "test accuracy", "recipe").axes
    left, right = axes.get_xlim()
    assert 2 < right < 20
    assert left < -0.6
    assert [text.get_text() for text in axes.texts] == ["90.00", "1.00", "0.20", "−0.40"]
    assert [line.get_marker() for line in axes.lines].count(">") == 1


def ends_of(axes):
    """Where the bars end, the first on top."""
    return [pytest.approx(bar.get_x() + bar.get_width()) for bar in axes.patches]


@pytest.mark.parametrize("sign", [1, -1])
def test_gains_are_as_long_as_losses(sign):
    bars = [Bar(f"{loss}", sign * loss / 100, None) for loss in (1.0, 0.2, 3.0)]
    (axes,) = waterfall(bars, "test accuracy", "recipe").axes
    assert ends_of(axes) == [sign * 1.0, sign * 0.2, sign * 3.0]
    left, right = axes.get_xlim()
    assert left <= min(0, 3 * sign) < max(0, 3 * sign) < right
    assert right - left < 4
    assert {line.get_marker() for line in axes.lines} == {"None"}


@pytest.mark.parametrize(("sign", "arrow"), [(1, ">"), (-1, "<")])
def test_a_bar_that_is_cut_has_an_arrow_to_its_side(sign, arrow):
    bars = [Bar("a", sign * 0.3, None), Bar("b", 0.002, None), Bar("c", -0.001, None)]
    (axes,) = waterfall(bars, "test accuracy", "recipe").axes
    assert ends_of(axes) == [sign * 8 * 0.2, 0.2, -0.1]
    assert [line.get_marker() for line in axes.lines].count(arrow) == 1
    assert axes.texts[0].get_text() == ("30.00" if sign > 0 else "−30.00")


def test_a_picture_of_failures_alone_can_be_drawn():
    assert waterfall([Bar("a", None, None)], "test accuracy", "recipe").axes


def test_experiments_of_one_training_share_its_time():
    first, second = (measured(name, {0: 0.9}).by_seed[0] for name in ("a", "a"))
    second.test["accuracy"] = 0.91
    new = measured("b", {0: 0.9}).by_seed[0]
    heard = times.Heard()
    heard.hear("b-0", ["start", {}, {"torch.device": "cpu", "other": "x"}])
    heard.hear("b-0", ["log", []])
    training = {key: new.identity[key] for key in times.TRAINING}
    heard.hear("b-0", ["trained", training, [["loss", 1.0, 0], ["training_seconds", 4.0, 0]]])
    logged = {first.key: (3.0, "gpu"), second.key: (None, "")}
    found = times.by_record([first, second, new], logged, heard)
    assert found == {
        first.key: (3.0, "gpu"),
        second.key: (3.0, "gpu"),
        new.key: (4.0, "device cpu"),
    }
