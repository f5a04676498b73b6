"""Accuracy against what it costs."""

import pytest

from striate import pareto, records


def record(name, width, accuracy, parameters, val=None, data="d"):
    train = {"parameters": parameters} | ({"val_accuracy": val} if val is not None else {})
    return records.Record(
        [records.Name(name)], {records.DATA: data}, {"seed": 0, "model.width": width}, train,
        {"accuracy": accuracy}, None, [],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("costs", "accuracies", "expected"),
    [
        ([1, 2, 3], [0.1, 0.2, 0.3], [0, 1, 2]),
        ([3, 2, 1], [0.3, 0.2, 0.1], [2, 1, 0]),
        ([1, 2, 3], [0.3, 0.2, 0.1], [0]),
        ([1, 1, 2], [0.2, 0.3, 0.3], [1]),
        ([1, 1], [0.3, 0.3], [0, 1]),
        ([None, 2, 1], [0.9, 0.2, 0.1], [2, 1]),
        ([], [], []),
    ],
)
def test_the_front_is_what_no_other_beats(costs, accuracies, expected):
    assert pareto.front(costs, accuracies) == expected


def test_only_experiments_on_the_data_of_the_first_are_taken():
    found = [record("a", 8, 0.5, 1), record("b", 8, 0.5, 1, data="other"), record("c", 9, 0.5, 1)]
    assert [r.names[0].name for r in pareto.on_the_same_data(found)] == ["a", "c"]
    assert pareto.on_the_same_data([]) == []


def test_networks_are_chosen_by_validation_where_all_have_it():
    with_val, without = record("a", 8, 0.5, 1, val=0.6), record("b", 8, 0.7, 1)
    assert pareto.accuracy_of([with_val, with_val]) == "validation accuracy"
    assert pareto.accuracy_of([with_val, without]) == "test accuracy"
    (point,) = pareto.candidates([with_val], "validation accuracy", [None])
    assert point.accuracy == 0.6


def test_the_table_names_what_is_best_and_where_it_differs():
    found = [
        record("big", 16, 0.9, 2000), record("bad", 12, 0.7, 1500), record("small", 8, 0.8, 1000),
    ]  # fmt: skip
    points = pareto.candidates(found, "test accuracy", [3.0, 1.0, None])
    rows = pareto.table(points, "test accuracy")
    assert rows == [
        ["experiment", "test accuracy", "parameters", "seconds", "best for its", "differs in"],
        ["big", "90.00%", "2,000", "3", "size, time", "width=16"],
        ["small", "80.00%", "1,000", "–", "size", "width=8"],
        ["bad", "70.00%", "1,500", "1", "time", "width=12"],
    ]
    panels = pareto.panels(points)
    assert panels["parameters"][3] == [2, 0]
    assert panels["seconds of training"] == (
        [3.0, 1.0], [0.9, 0.7], ["width=16", "width=12"], [1, 0],
    )  # fmt: skip
    assert list(pareto.panels(points[2:])) == ["parameters"]
