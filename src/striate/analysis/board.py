"""Everybody's experiments on one page: what each changed, what it scored, and who made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from striate.analysis import overview
from striate.config.params import meant
from striate.data.json_csv import MISSING, finite
from striate.reporting.html import render
from striate.reporting.numbers import mean_sd, plural
from striate.reporting.uncertainty import Mean
from striate.tracking import groups, records, times
from striate.tracking.groups import Group
from striate.tracking.pushed import Commit
from striate.tracking.records import Name, Record
from striate.tracking.times import Timing

LAST = 253_402_300_799  # the end of 9999, the last time that can be shown; Git takes later ones
DECIMALS = 4  # of the accuracies by which rows are sorted, as finely as they are shown


class Column(NamedTuple):
    """A column of the table.

    Attributes:
        title: its heading.
        first: how a first click sorts by it, `ascending` or `descending`; empty where none does.
        number: whether it holds numbers.
    """

    title: str
    first: str
    number: bool = True


class Cell(NamedTuple):
    """What a cell shows and how it sorts.

    Attributes:
        text: what is shown.
        order: what it is sorted by, a number or a word; empty comes last, whatever the direction.
        codes: shown as code after the text, such as `model.layers=3`.
        title: shown when the pointer rests on it.
    """

    text: str
    order: str = ""
    codes: Sequence[str] = ()
    title: str = ""


class Row(NamedTuple):
    """A setting.

    Attributes:
        cells: one for each column.
        words: what a search looks through.
        is_main: whether it is what the others are compared with.
    """

    cells: list[Cell]
    words: str
    is_main: bool


class Table(NamedTuple):
    """The settings on one data set, best mean validation accuracy first."""

    title: str
    rows: list[Row]


COLUMNS = (
    Column("experiment", "ascending", number=False),
    Column("differs from main in", "ascending", number=False),
    Column("seeds", "descending"),
    Column("validation accuracy", "descending"),
    Column("test accuracy", ""),
    Column("parameters", "ascending"),
    Column("seconds", "ascending"),
    Column("by", "ascending", number=False),
)
SORTED_BY = 3  # at first


def tables(
    grouped: Sequence[Group],
    seconds: Sequence[Timing],
    main: Record | None,
    made: Mapping[str, Commit],
) -> list[Table]:
    """A table for each data set, that of main first, then the one with most settings.

    Args:
        grouped: all experiments.
        seconds: of training, of each group.
        main: what they are compared with; None where it cannot be read.
        made: who made each commit.
    """
    by_data: dict[str | None, list[tuple[Group, Timing]]] = {}
    for group, timing in zip(grouped, seconds, strict=True):
        by_data.setdefault(group.members[0].identity.get(records.DATA), []).append((group, timing))
    own = main and main.identity.get(records.DATA)
    titles = _titles(by_data)
    return [
        Table(titles[data], _rows(by_data[data], main, made))
        for data in sorted(by_data, key=lambda data: (data != own, -len(by_data[data])))
    ]


def _titles(by_data: Mapping[str | None, Sequence[tuple[Group, Timing]]]) -> dict[str | None, str]:
    """The names of the data sets; with a part of the hash where two have one name."""
    return groups.told_apart(
        {data: str(own[0][0].members[0].params.get("data.name")) for data, own in by_data.items()}
    )


def _rows(
    own: Sequence[tuple[Group, Timing]], main: Record | None, made: Mapping[str, Commit]
) -> list[Row]:
    best_first = sorted(own, key=lambda one: groups.place(one[0]))
    return [_row(group, timing, main, made) for group, timing in best_first]


def _row(group: Group, timing: Timing, main: Record | None, made: Mapping[str, Commit]) -> Row:
    every = [*group.members, *group.repeated]
    own = [name for record in every for name in record.names]
    names = list(dict.fromkeys([group.name, *(name.name for name in own)]))
    authors = sorted({made[name.commit].author for name in own if name.commit in made})
    is_main = main is not None and any(record.key == main.key for record in every)
    changed = [] if main is None else differences(group, main)
    parameters, (seconds, machine) = finite(group.members[0].train.get("parameters")), timing
    more = len(names) - 1
    cells = [
        Cell(
            names[0] + (f" +{more:,}" if more else ""),
            names[0],
            title=", ".join(names) if more else "",
        ),
        Cell("" if changed else "nothing" if main else MISSING, " ".join(changed), changed),
        Cell(f"{len(group.members):,}", str(len(group.members))),
        _accuracy(group.mean("train", records.VALIDATION)),
        _accuracy(group.mean("test", "accuracy")),
        Cell(MISSING if parameters is None else f"{parameters:,.0f}", _order(parameters)),
        Cell(MISSING if seconds is None else f"{seconds:,.3g}", _order(seconds), title=machine),
        Cell(", ".join(authors) or MISSING, ", ".join(authors)),
    ]
    return Row(cells, " ".join([*names, *changed, *authors]), is_main)


def _accuracy(mean: Mean | None) -> Cell:
    if mean is None:
        return Cell(MISSING)
    return Cell(mean_sd(mean), str(round(mean.mean, DECIMALS)))


def _order(value: float | None) -> str:
    return "" if value is None else str(value)


def differences(group: Group, main: Record) -> list[str]:
    """What a setting changed: `model.layers=3`, and `code of models` where that is other code.

    The seed is no difference of a setting.
    """
    own = group.members[0]
    keys = sorted({*own.params, *main.params} - {overview.SEED})
    params = [
        f"{key}={meant(own.params, key, MISSING)}"
        for key in keys
        if str(meant(own.params, key, MISSING)) != str(meant(main.params, key, MISSING))
    ]
    alike = groups.code(main.hashes)
    every = [groups.code(hashes) for hashes in (own.hashes, *own.twins)]
    if any(code == alike for code in every):
        return params
    paths = sorted({*every[0], *alike})
    parts = [path.rpartition("/")[2] for path in paths if every[0].get(path) != alike.get(path)]
    return [*params, f"code of {', '.join(parts)}"]


def page(
    where: str,
    found: Sequence[Record],
    main: Record | None,
    made: Mapping[str, Commit],
    timings: Mapping[str, Timing],
) -> str:
    """The board as a page that needs no other file.

    Args:
        where: the experiments come from, for the title.
        found: all experiments.
        main: what they are compared with; None where it cannot be read.
        made: who made each commit.
        timings: what `sync.training_times` returns, by the record's key.
    """
    grouped = groups.group(found)
    names: list[Name] = [name for record in found for name in record.names]
    own = [made[name.commit] for name in names if name.commit in made]
    authors = {one.author for one in own}
    dates = [one.time for one in own if 0 < one.time <= LAST]
    timed = times.by_group(grouped, timings)
    return render(
        "board.html.j2",
        title=f"Experiments of {where}",
        counts=f"{plural(len(grouped), 'setting')} in {plural(len(names), 'experiment')}"
        f" by {len(authors):,} {'person' if len(authors) == 1 else 'people'}",
        newest=_day(max(dates)) if dates else "unknown date",
        main="" if main is None else main.names[0].commit[:7],
        # The template says at length by what to choose.
        notes=[note for note in overview.notes(grouped) if note != overview.CHOICE],
        machines=len({machine for seconds, machine in timed if seconds}),
        columns=COLUMNS,
        sorted_by=SORTED_BY,
        tables=tables(grouped, timed, main, made),
    )


def _day(time: int) -> str:
    """A time in seconds since 1970 as text."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")
