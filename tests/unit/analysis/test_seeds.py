"""What the seeds of one setting say, as text."""

from striate.analysis import seeds
from striate.tracking import groups, records
from striate.tracking.records import Name, Record


def group(*accuracies, split="auto", repeated=0, **params):
    numbers = [*range(len(accuracies)), *[0] * repeated]
    found = [
        Record(
            [Name(f"one-{number}" if order < len(accuracies) else f"again-{order}", "c", "b")],
            {records.DATA: "d", "n": str(order)},
            {"seed": number, "data.split_seed": split} | params,
            {"val_accuracy": 0.9}, {"accuracy": accuracies[number]}, "c", {}, [],
        )
        for order, number in enumerate(numbers)
    ]  # fmt: skip
    return groups.group(found)[0]


def test_a_table_has_each_seed_the_mean_and_its_interval():
    assert seeds.table(group(0.96, 0.98)) == [
        ["seed", "experiment", "validation accuracy", "test accuracy"],
        ["0", "one-0", "90.00%", "96.00%"],
        ["1", "one-1", "90.00%", "98.00%"],
        ["", "mean ± sd", "90.00% ± 0.00%", "97.00% ± 1.41%"],
        ["", "95% interval of the mean", "–", "84.29 to 100.00%"],
    ]


def test_one_seed_has_no_spread():
    said = seeds.text(group(0.96))
    assert "±" not in said
    assert "can be shown" not in said


def test_a_score_that_is_not_there_is_a_dash():
    one = group(0.96, 0.98)
    one.members[0].train.clear()
    one.members[1].train.clear()
    assert [row[2] for row in seeds.table(one)[1:]] == ["–"] * 4


def test_what_the_seed_draws_and_what_so_many_can_show_is_said():
    said = seeds.text(group(0.96, 0.98, repeated=2))
    assert "The seed draws the validation split, the initial weights" in said
    assert "5 seeds each 2.9, 10 seeds each 1.9, 20 seeds each 1.3 points" in said
    assert "2 further experiments of the same seeds (again-2, again-3) are not counted." in said
    fixed = seeds.text(group(0.96, 0.98, split=7, repeated=1))
    assert "The seed draws the initial weights" in fixed
    assert "All hold out the same images (data.split_seed 7)." in fixed
    assert "1 further experiment of the same seeds (again-2) is not counted." in fixed


def test_the_seed_draws_the_training_images_where_some_of_each_class_are_taken():
    some = {"data.per_class": 10}
    said = seeds.drawn(group(0.96, 0.98, **some))
    assert said.startswith("The seed draws the validation split, the training images, the initial")
    fixed = seeds.drawn(group(0.96, 0.98, split=7, **some))
    assert fixed.endswith("All hold out and train on the same images (data.split_seed 7).")
