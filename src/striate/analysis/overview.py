"""All experiments as a table, a row for each group: its params and its means over seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from striate.config.params import meant
from striate.data.json_csv import MISSING, finite
from striate.reporting.numbers import mean_interval, mean_sd, plural
from striate.reporting.uncertainty import Mean
from striate.tracking import groups, records
from striate.tracking.groups import Group
from striate.tracking.records import Record

SEED = "seed"  # the param that differs within a group
MOST_NAMES = 3  # of a group's experiments in its row


def varied(found: Sequence[Group]) -> dict[str, str]:
    """The params that differ between groups: key → its last part, or all of it if ambiguous.

    The seed counts only where groups of one seed each have different ones.
    """
    values: dict[str, set[str]] = {}
    for key in dict.fromkeys(key for group in found for key in group.members[0].params):
        values[key] = {
            str(meant(group.members[0].params, key, MISSING))
            for group in found
            if key != SEED or len(group.members) == 1
        }
    ends = Counter(key.rpartition(".")[2] for key in values)
    return {
        key: end if ends[end := key.rpartition(".")[2]] == 1 else key
        for key in values
        if len(values[key]) > 1
    }


def param(group: Group, key: str) -> str:
    """The value of a param in a group; the range of its seeds: `0 to 4`."""
    if key == SEED and len(group.members) > 1:
        return f"{min(group.seeds)} to {max(group.seeds)}"
    return str(meant(group.members[0].params, key, MISSING))


def table(found: Sequence[Group], here: Record | None) -> list[list[str]]:
    """A heading and a row for each group, best mean validation accuracy first.

    Groups on one data set stand together; the first group's data set comes first.

    Args:
        found: all groups.
        here: the experiment in the working tree, if any.
    """
    keys = varied(found)
    data = [group.members[0].identity.get(records.DATA) for group in found]
    rank = {name: n for n, name in enumerate(dict.fromkeys(data))}
    validation = [group.mean("train", records.VALIDATION) for group in found]
    # One seed has no interval.
    several = any(len(group.members) > 1 for group in found)

    rows = [
        [
            "experiment", "seeds", "validation accuracy", *["95% interval"] * several,
            "test accuracy", "test errors", "parameters", *keys.values(),
        ]
    ]  # fmt: skip
    for n in sorted(range(len(found)), key=lambda n: (rank[data[n]], groups.place(found[n]))):
        group, mean = found[n], validation[n]
        rows.append(
            [
                _names(group, here),
                f"{len(group.members):,}",
                _mean_sd(mean),
                *[MISSING if mean is None else mean_interval(mean)] * several,
                _mean_sd(group.mean("test", "accuracy")),
                _errors(group),
                _count(finite(group.members[0].train.get("parameters"))),
                *(param(group, key) for key in keys),
            ]
        )
    return rows


def _names(group: Group, here: Record | None) -> str:
    """The name to show first, then that of the workspace, then others; at most MOST_NAMES."""
    own = [*group.members, *group.repeated]
    workspace = [records.WORKSPACE] * any(record is here for record in own)
    others = [name.name for record in own for name in record.names]
    names = list(dict.fromkeys([group.name, *workspace, *others]))
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" +{more:,}" if more > 0 else "")


def _mean_sd(mean: Mean | None) -> str:
    return MISSING if mean is None else mean_sd(mean)


def _errors(group: Group) -> str:
    errors, n = group.mean("test", "errors"), group.mean("test", "n")
    if errors is None or n is None:
        return MISSING
    return f"{errors.mean:,.{1 if errors.n > 1 else 0}f} of {n.mean:,.0f}"


def _count(value: float | None) -> str:
    return MISSING if value is None else f"{value:,}"


CHOICE = "Choose by validation accuracy: the highest of several test accuracies is partly luck."


def notes(found: Sequence[Group]) -> list[str]:
    """What to know before choosing among groups."""
    lines = []
    validated = [group for group in found if group.mean("train", records.VALIDATION) is not None]
    if len(validated) > 1:
        lines.append(CHOICE)
    keys = _splits_differ(validated)
    if keys:
        lines.append(
            f"Validation sets differ ({' and '.join(keys)}): small differences in validation"
            " accuracy may come from that."
        )
    if sum(len(group.members) == 1 for group in found) > 1:
        lines.append(
            "One seed each compares networks, not settings: `striate repeat NAME` adds seeds."
        )
    repeated = sum(len(group.repeated) for group in found)
    if repeated:
        one = repeated == 1
        lines.append(
            f"{plural(repeated, 'experiment')} {'is' if one else 'are'} not counted:"
            f" {'it repeats a seed of its group' if one else 'they repeat seeds of their groups'}"
            " with other results, as on another machine."
        )
    return lines


def _splits_differ(found: Sequence[Group]) -> list[str]:
    """What gave groups on one data set different validation sets.

    With several seeds, the chance of the split is part of the spread.
    """
    single = [group.members[0] for group in found if len(group.members) == 1]
    every = [group.members[0] for group in found]
    seeds = [key for key in validation_sets_differ(single) if key == SEED]
    return seeds + [key for key in validation_sets_differ(every) if key != SEED]


def validation_sets_differ(found: Sequence[Record]) -> list[str]:
    """The params that gave experiments on one data set different validation sets."""
    by_data: dict[str | None, list[dict[str, Any]]] = {}
    for record in found:
        splits = by_data.setdefault(record.identity.get(records.DATA), [])
        splits.append(records.validation_split(record.params))
    return [
        key
        for key in ("seed", "data.val_size", "data.fold")
        if any(len({str(split[key]) for split in splits}) > 1 for splits in by_data.values())
    ]
