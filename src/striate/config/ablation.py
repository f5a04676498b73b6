"""Which settings of a recipe can be taken back to their defaults, alone or with what needs them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from striate.config import params, validation
from striate.config.params import Params
from striate.datasets.registry import DATASETS
from striate.errors import UserError
from striate.models import configs

Flat = Mapping[str, Any]  # params by dotted key

# What belongs to the data set, and what says where, how and how often and not what is learnt.
KEPT = frozenset(
    {
        "seed", "data.name", "data.path", "data.size", "data.resize", "data.test_size",
        "data.leave_out", "data.split_seed", "data.residency", "training.device",
        "training.processes", "training.precision",
        "training.capture", "training.deterministic", "training.log_every",
        "training.checkpoint_minutes", "evaluate.batch_size", "evaluate.neighbours",
        "evaluate.shifted",
    }
)  # fmt: skip
OPTIMIZER, SHRINK, ARCH = "training.optimizer", "augment.shrink", "model.arch"
PRETRAINED, FIRST_WEIGHTS = "model.pretrained", "training.init_from"
# Keys that a value of another one gives their meaning. Published weights go with a network that
# normalizes images as they expect, and no other network takes them.
WITH = {
    OPTIMIZER: ("training.learning_rate", "training.bias_rate", "training.head_rate",
                "training.momentum"),
    SHRINK: ("augment.shrink_until",),
    PRETRAINED: (FIRST_WEIGHTS,),
    FIRST_WEIGHTS: (PRETRAINED,),
}  # fmt: skip
WITH_MOMENTUM = ("sgd", "muon")
EVERYTHING = "everything"


class Change(NamedTuple):
    """Settings that are taken back together.

    Attributes:
        key: the dotted key that it is about, or EVERYTHING.
        before: the values in the recipe, by dotted key; that of `key` comes first.
        after: the default values, likewise.
    """

    key: str
    before: dict[str, Any]
    after: dict[str, Any]


class Plan(NamedTuple):
    """What can be taken back.

    Attributes:
        changes: each valid; that of everything comes last, if no other one is the same.
        skipped: keys that cannot be, with the reason.
    """

    changes: list[Change]
    skipped: dict[str, str]


def plan(recipe: Params, default: Params, kept: Collection[str] = ()) -> Plan:
    """The settings in which a recipe differs from the defaults, each to be taken back in turn.

    The network is taken back with all keys of the section `model`, the optimizer with its rates.
    A key without which the others would not be valid is joined with another one that goes with it.

    Args:
        recipe: all params.
        default: all params.
        kept: further keys that stay as they are.
    """
    before, after = (params.flatten(one.model_dump()) for one in (recipe, default))
    free = [key for key in after if key not in KEPT and key not in kept]
    differing = [key for key in free if key in before and before[key] != after[key]]
    read = [key for key in differing if _is_read(key, before, after)]
    # Two keys that need each other come to the same change.
    distinct: dict[frozenset[str], Change] = {}
    skipped: dict[str, str] = {}
    for key in read:
        keys = _with_companions(key, differing, after)
        fault = _fault(recipe, keys, after)
        if fault:
            # Such as the number of layers where a list of widths has one for each.
            near = sorted(read, key=lambda one: _section(one) != _section(key))
            others = [_with_companions(one, differing, after) for one in near if one not in keys]
            joined = [list(dict.fromkeys(keys + other)) for other in sorted(others, key=len)]
            keys = next((one for one in joined if not _fault(recipe, one, after)), [])
        if keys:
            distinct.setdefault(frozenset(keys), _change(key, keys, before, after))
        else:
            skipped[key] = fault
    changes = list(distinct.values())
    if len(changes) > 1 and frozenset(read).union(*distinct) not in distinct:
        fault = _fault(recipe, differing, after)
        if fault:
            skipped[EVERYTHING] = fault
        else:
            changes.append(_change(EVERYTHING, differing, before, after))
    return Plan(changes, skipped)


def sections(recipe: Params, change: Change) -> dict[str, Any]:
    """The params of a recipe with a change, in sections."""
    return params.nested(dict(change.after), recipe.model_dump())


def _change(key: str, keys: Sequence[str], before: Flat, after: Flat) -> Change:
    return Change(key, {one: before[one] for one in keys}, {one: after[one] for one in keys})


def _section(key: str) -> str:
    return key.partition(".")[0]


def _is_read(key: str, before: Flat, after: Flat) -> bool:
    """Whether a recipe reads a key by itself."""
    section, _, name = key.partition(".")
    if section == "model":
        network = configs.find(before[ARCH])
        return network is not None and name in network.model_fields
    if key == "training.momentum":
        return before[OPTIMIZER] in WITH_MOMENTUM
    if key in WITH[SHRINK]:
        return bool(before[SHRINK]) and before[SHRINK] == after[SHRINK]
    return True


def _with_companions(key: str, differing: Sequence[str], after: Flat) -> list[str]:
    """A key, and the differing ones that are taken back with it, or with one of them."""
    found, ahead = [], [key]
    while ahead:
        one = ahead.pop(0)
        if one not in found:
            found.append(one)
            ahead += [other for other in _companions(one, after) if other in differing]
    return found


def _companions(key: str, after: Flat) -> Sequence[str]:
    """The keys that are taken back with a key, where they differ."""
    if key == ARCH:
        return [one for one in after if _section(one) == "model" and one != ARCH]
    return WITH.get(key, ())


def _fault(recipe: Params, keys: Sequence[str], after: Flat) -> str:
    """What is wrong with a recipe in which these keys have their defaults; empty if nothing is."""
    values = params.nested({key: after[key] for key in keys}, recipe.model_dump())
    try:
        changed = params.check(values, "it")
        dataset = DATASETS.get(changed.data.name)
        if dataset:
            validation.check(changed, dataset.shape, len(dataset.classes), dataset.counts[0])
    except UserError as error:
        return str(error).splitlines()[0].removeprefix("it: ")
    return ""
