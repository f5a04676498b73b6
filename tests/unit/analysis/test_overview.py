"""All experiments as a table."""

import time

import pytest
from settings import settings

from striate.analysis import overview
from striate.config import params
from striate.tracking import groups, records


def record(name, *, val=None, accuracy=0.5, data="d", test=None, **params):
    train = {"parameters": 1234} | ({} if val is None else {"val_accuracy": val})
    scores = {"accuracy": accuracy, "errors": 5, "n": 10} if test is None else test
    keys = {key.replace("__", "."): value for key, value in params.items()}
    return records.Record(
        [records.Name(name)], {records.DATA: data, "x": name}, {"seed": 0} | keys, train, scores,
        None, {}, [],
    )  # fmt: skip


def table(found, here=None):
    return overview.table(groups.group(found), here)


def notes(*found):
    return overview.notes(groups.group(found))


def five_seeds(name="main", **params):
    return [
        record(name if seed == 0 else f"{name}-{seed}", val=val, accuracy=val - 0.01, seed=seed,
               test={"accuracy": val - 0.01, "errors": errors, "n": 360}, **params)
        for seed, (val, errors) in enumerate(
            [(0.97, 9), (0.98, 8), (0.96, 12), (0.97, 9), (0.99, 6)]
        )
    ]  # fmt: skip


def test_the_best_validation_accuracy_comes_first_and_equal_columns_stay():
    found = [
        record("none", model__layers=1),
        record("worse", val=0.5, model__layers=2),
        record("better", val=0.9, model__layers=3),
    ]
    assert table(found) == [
        ["experiment", "seeds", "validation accuracy", "test accuracy", "test errors",
         "parameters", "layers"],
        ["better", "1", "90.00%", "50.00%", "5 of 10", "1,234", "3"],
        ["worse", "1", "50.00%", "50.00%", "5 of 10", "1,234", "2"],
        ["none", "1", "–", "50.00%", "5 of 10", "1,234", "1"],
    ]  # fmt: skip


def test_seeds_of_one_setting_are_one_row_with_mean_spread_and_interval():
    found = [record("deeper", val=0.975, model__layers=3), *five_seeds(model__layers=2)]
    assert table(found, found[3]) == [
        ["experiment", "seeds", "validation accuracy", "95% interval", "test accuracy",
         "test errors", "parameters", "layers"],
        ["deeper", "1", "97.50%", "–", "50.00%", "5 of 10", "1,234", "3"],
        ["main, workspace, main-1 +3", "5", "97.40% ± 1.14%", "95.98 to 98.82%",
         "96.40% ± 1.14%", "8.8 of 360", "1,234", "2"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("found", "column"),
    [
        ([record("a", seed=0, layers=1), record("b", seed=1, layers=2)], ["seed", "0", "1"]),
        ([record("a", seed=7, layers=2), *five_seeds()], None),
        (
            [record("a", layers=1), record("b", seed=9, layers=2), *five_seeds()],
            ["seed", "0 to 4", "0", "9"],
        ),
    ],
)
def test_the_seed_is_a_column_only_where_groups_of_one_seed_differ_in_it(found, column):
    columns = [list(cells) for cells in zip(*table(found), strict=True)]
    assert [cells for cells in columns if cells[0] == "seed"] == ([column] if column else [])


def test_experiments_on_one_data_set_stand_together():
    found = [
        record("a", val=0.5), record("b", val=0.9, data="o"), record("c", val=0.7, layers=2),
    ]  # fmt: skip
    assert [row[0] for row in table(found)[1:]] == ["c", "a", "b"]


def test_the_workspace_is_named_beside_what_it_equals():
    found = [record("main", val=0.5), record("deeper", val=0.6, model__layers=3)]
    found[0].names.append(records.Name("main"))
    names = [row[0] for row in table(found, found[0])[1:]]
    assert names == ["deeper", "main, workspace"]
    found.append(record("workspace", val=0.1, model__layers=4))
    assert "workspace" in [row[0] for row in table(found, found[-1])[1:]]


def test_a_second_experiment_of_a_seed_is_named_but_does_not_count():
    found = [*five_seeds(), record("elsewhere", val=0.1, seed=2)]
    (row,) = table(found, found[-1])[1:]
    assert row[:3] == ["main, workspace, main-1 +4", "5", "97.40% ± 1.14%"]
    said = "1 experiment is not counted: it repeats a seed of its group with other results"
    assert notes(*found)[-1].startswith(said)
    assert notes(*found, found[-1])[-1].startswith("2 experiments are not counted: they repeat")


def test_missing_and_odd_values_are_dashes():
    found = [
        record("a", val=float("nan"), test={}, new__key=1),
        record("b", val=True, test={"accuracy": "x", "errors": None, "n": 3}),
    ]
    assert [row[2:5] for row in table(found)[1:]] == [["–"] * 3] * 2
    assert [row[-1] for row in table(found)] == ["key", "1", "–"]


def test_an_older_experiment_has_the_values_that_its_params_lack():
    new = params.flatten(settings().model_dump())
    old = {key: value for key, value in new.items() if key not in params.OLDER}
    several = [record("new", **new), record("old", **old | {"training.epochs": 7})]
    assert set(overview.varied(groups.group(several))) == {"training.epochs"}
    several[0].params["training.clip"] = 1.5
    columns = [list(cells) for cells in zip(*table(several), strict=True)]
    assert columns[-2:] == [["epochs", "5", "7"], ["clip", "1.5", "0"]]
    assert overview.validation_sets_differ(several) == []


def test_params_that_end_alike_are_named_in_full():
    found = [
        record("a", training__batch_size=1, evaluate__batch_size=10),
        record("b", training__batch_size=1, evaluate__batch_size=20),
    ]
    assert overview.varied(groups.group(found)) == {"evaluate.batch_size": "evaluate.batch_size"}


def test_what_to_know_before_choosing_is_said():
    one = record("a", val=0.5)
    single = "One seed each compares networks, not settings: `striate repeat NAME` adds seeds."
    assert notes(one) == []
    assert notes(one, record("b", layers=2)) == [single]
    choose, last = notes(one, record("b", val=0.5, layers=2))
    assert choose.startswith("Choose by validation accuracy")
    assert last == single
    _, note, _ = notes(one, record("b", val=0.5, seed=1, data__val_size=0.2))
    assert note.startswith("Validation sets differ (seed and data.val_size)")
    assert len(notes(one, record("b", val=0.5, data="other", seed=1))) == 2


def test_the_split_of_several_seeds_is_part_of_their_spread():
    (choose,) = notes(*five_seeds(), *five_seeds(layers=2), record("one", val=0.5, seed=9, x=1))
    assert choose.startswith("Choose by")
    _, note = notes(*five_seeds(), *five_seeds(data__val_size=0.2))
    assert note.startswith("Validation sets differ (data.val_size)")


def test_those_left_out_are_named_with_the_reason():
    assert records.in_words([]) == []
    left_out = [("a", "x"), ("b", "y"), *((f"c{n}", "x") for n in range(11))]
    assert records.in_words([records.LeftOut(*pair) for pair in left_out]) == [
        "a, c0, c1, c2, c3, c4, c5, c6, c7, c8 and 2 more: x",
        "b: y",
    ]


def test_a_thousand_experiments_take_no_time():
    found = [record(f"e{n}", val=n / 1000, model__width=n) for n in range(1000)]
    begin = time.perf_counter()
    assert len(table(found, found[0])) == 1001
    assert time.perf_counter() - begin < 2
