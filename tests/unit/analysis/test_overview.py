"""All experiments as a table."""

import time

from striate.analysis import overview
from striate.tracking import records


def record(name, *, val=None, accuracy=0.5, data="d", test=None, **params):
    train = {"parameters": 1234} | ({} if val is None else {"val_accuracy": val})
    scores = {"accuracy": accuracy, "errors": 5, "n": 10} if test is None else test
    keys = {key.replace("__", "."): value for key, value in params.items()}
    return records.Record(
        [records.Name(name)], {records.DATA: data, "x": name}, {"seed": 0} | keys, train, scores,
        None, {}, [],
    )  # fmt: skip


def test_the_best_validation_accuracy_comes_first_and_equal_columns_stay():
    found = [
        record("none", model__layers=1),
        record("worse", val=0.5, model__layers=2),
        record("better", val=0.9, model__layers=3),
    ]
    assert overview.table(found, None) == [
        ["experiment", "validation accuracy", "test accuracy", "test errors", "parameters",
         "layers"],
        ["better", "90.00%", "50.00%", "5 of 10", "1,234", "3"],
        ["worse", "50.00%", "50.00%", "5 of 10", "1,234", "2"],
        ["none", "–", "50.00%", "5 of 10", "1,234", "1"],
    ]  # fmt: skip


def test_experiments_on_one_data_set_stand_together():
    found = [record("a", val=0.5), record("b", val=0.9, data="o"), record("c", val=0.7)]
    assert [row[0] for row in overview.table(found, None)[1:]] == ["c", "a", "b"]


def test_the_workspace_is_named_beside_what_it_equals():
    found = [record("main", val=0.5), record("deeper", val=0.6, model__layers=3)]
    found[0].names.append(records.Name("main"))
    names = [row[0] for row in overview.table(found, found[0])[1:]]
    assert names == ["deeper", "main, workspace"]
    found.append(record("workspace", val=0.1))
    assert "workspace" in [row[0] for row in overview.table(found, found[-1])[1:]]


def test_missing_and_odd_values_are_dashes():
    found = [
        record("a", val=float("nan"), test={}, new__key=1),
        record("b", val=True, test={"accuracy": "x", "errors": None, "n": 3}),
    ]
    assert [row[1:4] for row in overview.table(found, None)[1:]] == [["–"] * 3] * 2
    assert [row[-1] for row in overview.table(found, None)] == ["key", "1", "–"]


def test_params_that_end_alike_are_named_in_full():
    found = [
        record("a", training__batch_size=1, evaluate__batch_size=10),
        record("b", training__batch_size=1, evaluate__batch_size=20),
    ]
    assert overview.varied(found) == {"evaluate.batch_size": "evaluate.batch_size"}


def test_what_to_know_before_choosing_is_said():
    one = record("a", val=0.5)
    assert overview.notes([one, record("b")]) == []
    (note,) = overview.notes([one, record("b", val=0.5)])
    assert note.startswith("Choose by validation accuracy")
    _, note = overview.notes([one, record("b", val=0.5, seed=1, data__val_size=0.2)])
    assert note.startswith("Validation sets differ (seed and data.val_size)")
    assert len(overview.notes([one, record("b", val=0.5, data="other", seed=1)])) == 1


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
    assert len(overview.table(found, found[0])) == 1001
    assert time.perf_counter() - begin < 2
