"""Accuracy against what it costs."""

from types import SimpleNamespace

import pytest

from striate.analysis import pareto
from striate.tracking import groups, mlflow_store, records, sync

IDENTITY = dict.fromkeys(
    (records.PARAMS, records.DATA, records.CHECKPOINT, records.EVALUATION), "d"
)


def record(name, width, accuracy, parameters, val=None, data="d", seed=0):
    train = {"parameters": parameters} | ({"val_accuracy": val} if val is not None else {})
    return records.Record(
        [records.Name(name)], {records.DATA: data, "x": name},
        {"seed": seed, "model.width": width}, train, {"accuracy": accuracy}, None, {}, [],
    )  # fmt: skip


def points_of(found, accuracy="test accuracy", times=()):
    timings = {record.key: timing for record, timing in zip(found, times, strict=False)}
    return pareto.candidates(groups.group(found), accuracy, timings)


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
    kept, left_out, accuracy = pareto.comparable(found)
    assert [r.names[0].name for r in kept] == ["a", "c"]
    assert left_out == [("b", "other data than a")]
    assert accuracy == "test accuracy"
    assert pareto.comparable([])[:2] == ([], [])


def test_networks_are_compared_by_validation_where_any_has_it():
    with_val, without = record("a", 8, 0.5, 1, val=0.6), record("b", 8, 0.7, 1)
    odd = [record("c", 8, 0.7, 1, val=float("nan")), record("d", 8, 0.7, None, val=0.5)]
    kept, left_out, accuracy = pareto.comparable([without, with_val, *odd])
    assert (kept, accuracy) == ([with_val], "validation accuracy")
    assert left_out == [
        ("b", "no validation accuracy"),
        ("c", "no validation accuracy"),
        ("d", "no number of parameters"),
    ]
    (point,) = points_of(kept, accuracy)
    assert point.accuracy.mean == 0.6


def test_the_table_names_what_is_best_and_where_it_differs():
    found = [
        record("big", 16, 0.9, 2000), record("bad", 12, 0.7, 1500), record("small", 8, 0.8, 1000),
    ]  # fmt: skip
    points = points_of(found, times=[(3.0, "m"), (1.0, "m"), (None, "")])
    rows = pareto.table(points, "test accuracy")
    assert rows == [
        ["experiment", "seeds", "test accuracy", "parameters", "seconds", "Pareto front",
         "differs in"],
        ["big", "1", "90.00%", "2,000", "3", "size, time", "width=16"],
        ["small", "1", "80.00%", "1,000", "–", "size", "width=8"],
        ["bad", "1", "70.00%", "1,500", "1", "time", "width=12"],
    ]  # fmt: skip
    assert pareto.notes(points) == []
    panels = pareto.panels(points)
    assert panels["parameters"].front == [2, 0]
    assert panels["seconds of training"] == (
        [3.0, 1.0], [0.9, 0.7], ["width=16", "width=12"], [1, 0], [], [None, None],
    )  # fmt: skip
    assert list(pareto.panels(points[2:])) == ["parameters"]


def test_seconds_are_compared_only_within_one_machine():
    names = ["slow", "a", "b", "unknown"]
    found = [record(name, width, 0.9, 10) for width, name in enumerate(names)]
    times = [(0.5, "threads 2"), (1.0, "threads 1"), (2.0, "threads 1"), (0.1, "")]
    points = points_of(found, times=times)
    assert pareto.timed_on(points) == "threads 1"
    rows = {row[0]: row[4:6] for row in pareto.table(points, "test accuracy")}
    assert rows["slow"] == ["0.5 *", "size"]
    assert rows["a"] == ["1", "size, time"]
    assert rows["b"] == ["2", "size"]
    assert rows["unknown"] == ["0.1 *", "size"]
    (note,) = pareto.notes(points)
    assert note.startswith("* 2 were timed elsewhere than most (threads 1), so they")
    panel = pareto.panels(points)["seconds of training"]
    assert (panel.front, panel.apart) == ([1], [0, 3])
    alone = points_of(found[3:], times=times[3:])
    assert pareto.panels(alone)["seconds of training"].front == []
    assert "on an unknown machine" in pareto.notes(alone)[0]


def test_a_group_is_one_point_at_its_mean_with_its_interval():
    found = [record("one", 16, 0.9, 2000)]
    found += [record(f"main-{n}", 8, 0.9 + n / 100, 1000, seed=n) for n in range(3)]
    times = [(9.0, "a"), (2.0, "a"), (8.0, "a"), (1.0, "b")]
    points = points_of(found, times=times)
    assert pareto.table(points, "test accuracy")[1:] == [
        ["main-0", "3", "91.00% ± 1.00%", "1,000", "5", "size, time", "width=8"],
        ["one", "1", "90.00%", "2,000", "9", "", "width=16"],
    ]
    assert pareto.notes(points) == ["Seconds are medians over the seeds that were timed on a."]
    none, (low, high) = pareto.panels(points)["parameters"].intervals
    assert none is None
    assert (low, high) == pytest.approx((0.8852, 0.9348), abs=1e-4)  # 4.303 · 0.01 / √3


def test_groups_of_other_code_alone_are_told_apart_by_name():
    found = [record(name, 8, 0.9, 1000) for name in ("old", "new", "other")]
    found[1].hashes["stages/train.py"] = "changed"
    found[2].params["model.width"] = 9
    labels = pareto.panels(points_of(found))["parameters"].labels
    assert labels == ["width=8 (old)", "width=8 (new)", "width=9"]


def test_the_common_machine_is_that_of_most_groups():
    found = [record(f"many-{n}", 8, 0.9, 1000, seed=n) for n in range(5)]
    found += [record(name, width, 0.8, 1000) for name, width in (("one", 9), ("two", 10))]
    times = [(3.0, "b")] + [(1.0, "a")] * 4 + [(4.0, "b")] * 2
    points = points_of(found, times=times)
    assert pareto.timed_on(points) == "b"
    assert [point.seconds for point in points] == [3.0, 4.0, 4.0]
    alone = points_of(found[:5], times=times)
    assert [(point.seconds, point.machine) for point in alone] == [(1.0, "a")]


def test_seconds_come_with_what_they_were_measured_on(tmp_path, monkeypatch):
    def run(status, metrics, **tags):
        data = SimpleNamespace(tags=IDENTITY | {"mlflow.user": "x"} | tags, metrics=metrics)
        return SimpleNamespace(info=SimpleNamespace(status=status), data=data)

    torch = {"torch.threads": "2", "torch.device": "cpu", "striate.residency": "host"}
    runs = [
        run("FAILED", {"training_seconds": 1.0}),
        run("FINISHED", {"training_seconds": 2.0}, **torch),
        run("FINISHED", {"training_seconds": 3.0}),
        run("FINISHED", {}, **{records.DATA: "replayed"}),
    ]
    found = [record("a", 8, 0.5, 1) for _ in range(3)]
    for one, data in zip(found, ("d", "replayed", "no run"), strict=True):
        one.identity.update(IDENTITY | {records.DATA: data})
    monkeypatch.setattr(mlflow_store, "open_store", lambda: SimpleNamespace(runs=lambda: runs))
    expected = [(2.0, "device cpu, threads 2"), (None, ""), (None, "")]
    assert sync.training_times(tmp_path, found) == expected
