"""What the seeds of one setting say, as text: scores, mean, interval, and what they can show."""

from __future__ import annotations

from collections.abc import Sequence

from striate.config.params import meant
from striate.console import columns
from striate.data.json_csv import MISSING, finite
from striate.reporting import uncertainty
from striate.reporting.numbers import mean_interval, mean_sd, plural
from striate.reporting.seeds import ACCURACIES
from striate.tracking.groups import Group

COUNTS = (5, 10, 20)  # seeds of each setting, for which `resolution` says what they can show


def table(group: Group) -> list[list[str]]:
    """A heading, a row for each seed, and rows for the mean, its interval."""
    rows = [["seed", "experiment", *ACCURACIES]]
    for seed, member in zip(group.seeds, group.members, strict=True):
        scores = [finite(getattr(member, part).get(key)) for part, key in ACCURACIES.values()]
        cells = [MISSING if score is None else f"{score:.2%}" for score in scores]
        rows.append([str(seed), member.names[0].name, *cells])
    if len(group.members) > 1:
        means = [group.mean(*score) for score in ACCURACIES.values()]
        rows.append(["", "mean ± sd", *(MISSING if m is None else mean_sd(m) for m in means)])
        interval = [MISSING if mean is None else mean_interval(mean) for mean in means]
        rows.append(["", "95% interval of the mean", *interval])
    return rows


def drawn(group: Group) -> str:
    """What differs between the seeds of a group, in a sentence."""
    params = group.members[0].params
    fixed, some = (meant(params, key) for key in ("data.split_seed", "data.per_class"))
    split, rest = "", ""
    if fixed == "auto":
        split = "the validation split, " + "the training images, " * bool(some)
    else:
        same = "hold out" + " and train on" * bool(some)
        rest = f" All {same} the same images (data.split_seed {fixed})."
    return (
        f"The seed draws {split}the initial weights, the order of the batches and the"
        f" augmentation.{rest}"
    )


def resolution(group: Group) -> str:
    """What difference from a like setting some numbers of seeds can show; empty for one seed."""
    mean = group.mean("test", "accuracy")
    if mean is None or not mean.sd:
        return ""
    shown = [
        f"{count} seeds each {100 * uncertainty.detectable((mean.sd, mean.sd), count):.2g}"
        for count in COUNTS
    ]
    return (
        f"Against a setting that spreads alike, {', '.join(shown)} points of test accuracy can be"
        f" shown ({uncertainty.POWER:.0%} power, {uncertainty.LEVEL:.0%} level)."
    )


def text(group: Group) -> str:
    """The seeds of a setting for a terminal."""
    parts = [columns(table(group)), drawn(group), resolution(group)]
    if group.repeated:
        parts.append(
            f"{plural(len(group.repeated), 'further experiment')} of the same seeds"
            f" ({_names(group)}) {'is' if len(group.repeated) == 1 else 'are'} not counted."
        )
    return "\n\n".join(part for part in parts if part)


def _names(group: Group) -> str:
    names: Sequence[str] = [member.names[0].name for member in group.repeated]
    return ", ".join(names)
