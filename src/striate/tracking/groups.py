"""Groups: experiments that differ in the seed alone, however they came about.

Two experiments are of one group if all params but `seed`, the data, the first weights and the code
that trains and evaluates are equal. Which images are held out is up to `seed` too, unless
`data.split_seed` fixes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from striate.data.json_csv import finite
from striate.models import configs
from striate.tracking import records
from striate.tracking.records import Record

if TYPE_CHECKING:
    from striate.reporting.seeds import Row
    from striate.reporting.uncertainty import Mean

CODE = ("stages/", "src/")  # where the hashes of code are, among those of a record
TAG = "striate.group"  # of a run in MLflow, whose pages can group by it

Key = TypeVar("Key")


class Group(NamedTuple):
    """The experiments of one setting.

    Attributes:
        key: equal for two experiments of one group.
        members: one for each seed, by seed; at least one.
        repeated: further experiments of the same seeds, such as those of another processor. They
            are no independent evidence.
    """

    key: str
    members: list[Record]
    repeated: list[Record]

    @property
    def name(self) -> str:
        """The name to show: that of HEAD or a branch where one has it, else of the first seed."""
        named = [member for member in self.members if not member.names[0].baseline]
        return (named or self.members)[0].names[0].name

    @property
    def seeds(self) -> list[int]:
        """The seeds of the members."""
        return [int(member.params["seed"]) for member in self.members]

    def scores(self, part: str, metric: str) -> list[float]:
        """A metric of each member that has it.

        Args:
            part: `train` or `test`.
            metric: a key of metrics/train.json or metrics/test.json.
        """
        values = [finite(getattr(member, part).get(metric)) for member in self.members]
        return [value for value in values if value is not None]

    def mean(self, part: str, metric: str) -> Mean | None:
        """The mean of a metric over the seeds; None where no member has it."""
        from striate.reporting import uncertainty  # loads NumPy, which `striate sync` does without

        scores = self.scores(part, metric)
        return uncertainty.summarize(scores) if scores else None


def place(found: Group) -> float:
    """By what groups are sorted: low for a high mean validation accuracy, last without one."""
    mean = found.mean("train", records.VALIDATION)
    return 1.0 if mean is None else -mean.mean


def code(hashes: Mapping[str, str]) -> dict[str, str]:
    """The hashes of the code that trained and evaluated, among all of a record."""
    return {path: value for path, value in hashes.items() if path.startswith(CODE)}


def keys(record: Record) -> list[str]:
    """Equal for the experiments of one group: a key for each code that came to these results."""
    params = {name: value for name, value in record.params.items() if name != "seed"}
    params[records.DATA] = record.identity[records.DATA]
    others = (records.TEST_SET, str(params.get("training.init_from", "")))
    return [
        records.hash_values(params | code(hashes) | {path: hashes.get(path) for path in others})
        for hashes in (record.hashes, *record.twins)
    ]


def group(found: Sequence[Record]) -> list[Group]:
    """The groups of all experiments, in the order of their first ones.

    A key stands for a code. Codes that came to equal results, byte for byte, are one.
    """
    names: dict[str, str] = {}  # key → the least key of its group, whatever the order
    own = [keys(record) for record in found]
    for several in own:
        joined = {names.get(one, one) for one in several}
        name = min(joined)
        if len(joined) > 1:
            names |= {one: name for one, old in names.items() if old in joined}
        names |= dict.fromkeys(several, name)
    by_name: dict[str, dict[int, list[Record]]] = {}
    for record, several in zip(found, own, strict=True):
        by_seed = by_name.setdefault(names[several[0]], {})
        by_seed.setdefault(int(record.params.get("seed", 0)), []).append(record)
    return [
        Group(
            name,
            [by_seed[seed][0] for seed in sorted(by_seed)],
            [record for seed in sorted(by_seed) for record in by_seed[seed][1:]],
        )
        for name, by_seed in by_name.items()
    ]


def of(record: Record, found: Sequence[Record]) -> Group:
    """The group of an experiment, in which it stands for its seed.

    Args:
        record: read by its name, whether or not it is among those found.
        found: all experiments.
    """
    same = [one for one in found if one.key == record.key]
    twins = [hashes for one in same for hashes in (one.hashes, *one.twins)]
    mine = replace(record, twins=[*record.twins, *twins])
    others = [one for one in found if one.key != record.key]
    return next(one for one in group([mine, *others]) if mine in one.members)


def row(record: Record) -> Row:
    """The row of metrics/seeds.csv for an experiment."""
    from striate.reporting import seeds  # loads NumPy

    return seeds.row(int(record.params["seed"]), record.train, record.test)


def tags(found: Sequence[Record]) -> dict[str, str]:
    """The tag of each experiment, by the key of its record."""
    return {
        record.key: tag(record, one.key)
        for one in group(found)
        for record in (*one.members, *one.repeated)
    }


def tag(record: Record, key: str) -> str:
    """The value of the tag by which MLflow's pages group the runs of one setting.

    It is the label of a curve, such as `digits 2x16 convnet, 3f9a01`; what a network does not have
    is left out.
    """
    params = record.params
    stated = configs.stated_size(params)
    layers, width = stated.get("layers", ""), stated.get("width", "")
    if isinstance(width, list):
        width = "-".join(map(str, width))
    size = f"{layers}x{width}".strip("x")
    words = [params.get("data.name"), size, params.get("model.arch")]
    return f"{' '.join(filter(None, words))}, {key[:6]}"


def told_apart(names: Mapping[Key, str]) -> dict[Key, str]:
    """Names by their keys; where several are equal, with the start of the key behind them."""
    times = Counter(names.values())
    return {
        key: name if times[name] == 1 else f"{name} ({str(key)[:6]})" for key, name in names.items()
    }
