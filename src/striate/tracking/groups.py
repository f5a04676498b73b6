"""Groups: experiments that differ in the seed alone, however they came about.

Two experiments are of one group if all params but `seed`, the data, the first weights and the code
that trains and evaluates are equal. Which images are held out is up to `seed` too, unless
`data.split_seed` fixes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from striate.data.json_csv import finite
from striate.tracking import records
from striate.tracking.records import Record

if TYPE_CHECKING:
    from striate.evaluation.uncertainty import Mean

CODE = ("stages/", "src/")  # where the hashes of code are, among those of a record
TAG = "striate.group"  # of a run in MLflow, whose pages can group by it


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
        from striate.evaluation import uncertainty  # loads NumPy, which `striate sync` does without

        scores = self.scores(part, metric)
        return uncertainty.summarize(scores) if scores else None


def key(record: Record) -> str:
    """Equal for the experiments of one group."""
    params = {name: value for name, value in record.params.items() if name != "seed"}
    read = [path for path in record.hashes if path.startswith(CODE)]
    read += [records.TEST_SET, str(params.get("training.init_from", ""))]
    hashes = {path: record.hashes.get(path) for path in read}
    return records.hash_values(params | hashes | {records.DATA: record.identity[records.DATA]})


def group(found: Sequence[Record]) -> list[Group]:
    """The groups of all experiments, in the order of their first ones."""
    by_key: dict[str, dict[int, list[Record]]] = {}
    for record in found:
        by_seed = by_key.setdefault(key(record), {})
        by_seed.setdefault(int(record.params.get("seed", 0)), []).append(record)
    return [
        Group(
            name,
            [by_seed[seed][0] for seed in sorted(by_seed)],
            [record for seed in sorted(by_seed) for record in by_seed[seed][1:]],
        )
        for name, by_seed in by_key.items()
    ]


def of(record: Record, found: Sequence[Record]) -> Group:
    """The group of an experiment, in which it stands for its seed.

    Args:
        record: read by its name, whether or not it is among those found.
        found: all experiments.
    """
    mine = key(record)
    others = [r for r in found if r.key != record.key and key(r) == mine]
    return group([record, *others])[0]


def tag(record: Record) -> str:
    """The value of the tag by which MLflow's pages group the runs of one setting.

    It is the label of a curve, such as `digits 2x16 convnet, 3f9a01`; what a network does not have
    is left out.
    """
    params = record.params
    layers, width = params.get("model.layers", ""), params.get("model.width", "")
    if isinstance(width, list):
        width = "-".join(map(str, width))
    size = f"{layers}x{width}".strip("x")
    words = [params.get("data.name"), size, params.get("model.arch")]
    return f"{' '.join(filter(None, words))}, {key(record)[:6]}"
