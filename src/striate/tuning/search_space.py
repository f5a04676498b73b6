"""What a search may draw: a file with a range, choices or one value for each param."""

from __future__ import annotations

import json
import math
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate.config import validation
from striate.config.params import Params, check, read_yaml
from striate.data import splits
from striate.datasets import registry
from striate.errors import UserError

if TYPE_CHECKING:
    import optuna

RANGE_KEYS = {"low", "high", "step", "log"}
MOST_CHOICES = 50
DIGITS = 4  # significant ones of a number that is drawn
# These say which images a trial is scored on, and trials that are compared share them.
MEASURE = ("seed", "data.name", "data.path", "data.size", "data.test_size", "data.val_size")


def read(path: Path, base: Params) -> dict[str, Any]:
    """Read a space, and check everything that a trial may draw from it.

    Args:
        path: a YAML file: for each param a range, a list of choices, or one fixed value.
        base: the params that hold where the space says nothing.

    Returns:
        What the file holds.

    Raises:
        UserError: names the key, and what it may be. Of ranges the ends are tried, each with all
            choices and ends of every other key.
    """
    space = read_yaml(path)
    tried = {}
    for key, asked in space.items():
        if not isinstance(key, str) or (key != "seed" and key.count(".") != 1):
            raise UserError(f"{path}: {key!r} is not the name of a param, such as model.layers")
        tried[key] = _ends(f"{path}: {key}", asked)
        if varies(asked) and (key in MEASURE or key.startswith("evaluate.")):
            raise UserError(
                f"{path}: {key} must be one value: it says how networks are scored, not what they"
                " learn"
            )
    if not any(varies(asked) for asked in space.values()):
        raise UserError(f"{path}: no param varies; give one a list, or a range with low and high")
    first = {key: values[0] for key, values in tried.items()}
    chosen = [key for key, values in tried.items() if len(values) > 1]
    _check_drawn(base, first, path)
    # What the schema refuses of values together, it refuses of two.
    for keys in combinations(chosen, min(2, len(chosen))):
        for drawn in product(*(tried[key] for key in keys)):
            _check_drawn(base, first | dict(zip(keys, drawn, strict=True)), path)
    return space


def varies(asked: Any) -> bool:
    """Whether trials may differ in what a space asks for."""
    return isinstance(asked, list | dict)


def _ends(place: str, asked: Any) -> list[Any]:
    """The choices, the ends of a range, or the one value.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(asked, list):
        texts = [json.dumps(choice) for choice in asked]
        if not 0 < len(asked) <= MOST_CHOICES or len(set(texts)) < len(texts):
            raise UserError(f"{place} must list 1 to {MOST_CHOICES} choices, each once")
        return asked
    if not isinstance(asked, dict):
        return [asked]
    numbers = {name: asked.get(name) for name in ("low", "high", "step") if name in asked}
    if set(asked) - RANGE_KEYS or not {"low", "high"} <= set(asked):
        raise UserError(f"{place} is no range; it must hold low and high, and perhaps step or log")
    for name, value in numbers.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise UserError(f"{place}: {name} is {value!r}; it must be a number")
    low, high, step = asked["low"], asked["high"], asked.get("step")
    log = asked.get("log", False)
    if low >= high:
        raise UserError(f"{place}: low is {low}; it must be less than high, which is {high}")
    if not isinstance(log, bool):
        raise UserError(f"{place}: log is {log!r}; it must be true or false")
    if log and (low <= 0 or step is not None):
        raise UserError(f"{place}: with log, low must be above 0, and there can be no step")
    if step is not None:
        count = (high - low) / step if step > 0 else 0.5
        if not math.isclose(count, round(count), abs_tol=1e-9):
            raise UserError(f"{place}: from low to high must be a whole number of steps above 0")
    return [low, high]


def _check_drawn(base: Params, drawn: dict[str, Any], path: Path) -> None:
    """Refuse what no training can have, by the schema and by the images."""
    settings = check(laid_over(base, drawn), path)
    known = registry.DATASETS.get(settings.data.name)
    try:
        if known is not None:
            shape, count = known.shape, known.counts[0]
            validation.check(settings, shape, len(known.classes), count)
            held = float(splits.validation_count(settings.data.val_size, count))
        else:
            held = settings.data.val_size  # of a person's own pictures, whose number is not known
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not held:
        raise UserError(
            f"data.val_size is {settings.data.val_size:g}, which leaves no validation images to"
            " choose by; it must be larger"
        )


def laid_over(base: Params, drawn: dict[str, Any]) -> dict[str, Any]:
    """The params as sections, with some of their values replaced, by keys such as `model.width`."""
    return nested(drawn, base.model_dump())


def nested(values: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    """Put values that have keys such as `model.width` into sections, which are returned."""
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        if section:
            sections.setdefault(section, {})[name] = value
        else:
            sections[name] = value
    return sections


def propose(trial: optuna.Trial, space: dict[str, Any], base: Params) -> dict[str, Any]:
    """What Optuna proposes for each param that varies, as it keeps it."""
    values = flat(base)
    for key, asked in space.items():
        if isinstance(asked, list):
            trial.suggest_categorical(key, [_named(choice) for choice in asked])
        elif isinstance(asked, dict):
            low, high, log = asked["low"], asked["high"], asked.get("log", False)
            if isinstance(values[key], float):  # also where the ends are written as 0 and 1
                trial.suggest_float(key, low, high, log=log, step=asked.get("step"))
            else:
                trial.suggest_int(key, low, high, log=log, step=asked.get("step", 1))
    return trial.params


def flat(base: Params) -> dict[str, Any]:
    """Like `striate.config.params.flatten`, but 1.0 stays a number with a fraction."""
    sections = base.model_dump()
    flat = {"seed": sections.pop("seed")}
    return flat | {f"{name}.{k}": v for name, keys in sections.items() for k, v in keys.items()}


def _named(choice: Any) -> Any:
    """A choice as Optuna stores it, which knows no lists."""
    return json.dumps(choice) if isinstance(choice, list) else choice


def values_of(proposed: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    """The params that a trial sets: what was proposed, in few digits, and what is fixed."""
    found = {}
    for key, asked in space.items():
        if isinstance(asked, list):
            found[key] = next(c for c in asked if _named(c) == proposed[key])
        elif isinstance(asked, dict):
            value = proposed[key]
            if isinstance(value, float):
                value = min(max(float(f"{value:.{DIGITS}g}"), asked["low"]), asked["high"])
            found[key] = value
        else:
            found[key] = asked
    return found
