"""The search space: a YAML file with a range, choices or one value for each param."""

from __future__ import annotations

import json
import math
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from striate.config import validation
from striate.config.params import Params, check, nested
from striate.config.yaml_loader import read_yaml
from striate.data import splits
from striate.datasets import registry
from striate.errors import UserError

if TYPE_CHECKING:
    import optuna

RANGE_KEYS = {"low", "high", "step", "log"}
MAX_CHOICES = 50
DIGITS = 4  # significant digits of a sampled float
# These decide which images score a trial, and must be equal for all trials.
SCORED_BY = (
    "seed", "data.name", "data.path", "data.size", "data.resize", "data.test_size", "data.val_size",
    "data.split_seed", "data.fold", "data.leave_out",
)  # fmt: skip


def read(path: Path, base: Params) -> dict[str, Any]:
    """Read a search space, and check the params that a trial may draw from it.

    Args:
        path: a YAML file: for each param a range, a list of choices, or one fixed value.
        base: the params that the space does not set.

    Returns:
        What the file holds.

    Raises:
        UserError: names the key, and what it may be. Checked are the ends of each range and all
            choices, each with those of every other key.
    """
    space = read_yaml(path)
    extremes = {}
    for key, entry in space.items():
        if not isinstance(key, str) or (key != "seed" and key.count(".") != 1):
            raise UserError(f"{path}: {key!r} is not the name of a param, such as model.layers")
        extremes[key] = _extremes(f"{path}: {key}", entry)
        if varies(entry) and (key in SCORED_BY or key.startswith("evaluate.")):
            raise UserError(
                f"{path}: {key} must be one value: it says how networks are scored, not what they"
                " learn"
            )
    if not any(varies(entry) for entry in space.values()):
        raise UserError(f"{path}: no param varies; give one a list, or a range with low and high")
    first = {key: values[0] for key, values in extremes.items()}
    chosen = [key for key, values in extremes.items() if len(values) > 1]
    _check_drawn(base, first, path)
    # Each constraint of the schema is between two params.
    for keys in combinations(chosen, min(2, len(chosen))):
        for drawn in product(*(extremes[key] for key in keys)):
            _check_drawn(base, first | dict(zip(keys, drawn, strict=True)), path)
    return space


def varies(entry: Any) -> bool:
    """Whether an entry of a search space may differ between trials."""
    return isinstance(entry, list | dict)


def _extremes(where: str, entry: Any) -> list[Any]:
    """The choices, the ends of a range, or the one value.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(entry, list):
        texts = [json.dumps(choice) for choice in entry]
        if not 0 < len(entry) <= MAX_CHOICES or len(set(texts)) < len(texts):
            raise UserError(f"{where} must list 1 to {MAX_CHOICES} choices, each once")
        return entry
    if not isinstance(entry, dict):
        return [entry]
    numbers = {name: entry.get(name) for name in ("low", "high", "step") if name in entry}
    if set(entry) - RANGE_KEYS or not {"low", "high"} <= set(entry):
        raise UserError(f"{where} is no range; it must hold low and high, and perhaps step or log")
    for name, value in numbers.items():
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise UserError(f"{where}: {name} is {value!r}; it must be a number")
    low, high, step = entry["low"], entry["high"], entry.get("step")
    log = entry.get("log", False)
    if low >= high:
        raise UserError(f"{where}: low is {low}; it must be less than high, which is {high}")
    if not isinstance(log, bool):
        raise UserError(f"{where}: log is {log!r}; it must be true or false")
    if log and (low <= 0 or step is not None):
        raise UserError(f"{where}: with log, low must be above 0, and there can be no step")
    if step is not None:
        count = (high - low) / step if step > 0 else 0.5
        if not math.isclose(count, round(count), abs_tol=1e-9):
            raise UserError(f"{where}: from low to high must be a whole number of steps above 0")
    return [low, high]


def _check_drawn(base: Params, drawn: dict[str, Any], path: Path) -> None:
    """Refuse params that the schema or the images do not allow."""
    settings = check(override(base, drawn), path)
    known = registry.DATASETS.get(settings.data.name)
    try:
        if known is not None:
            shape, count = known.shape, known.counts[0]
            validation.check(settings, shape, len(known.classes), count)
            held_out = float(
                splits.validation_count(settings.data.val_size, settings.data.fold, count)
            )
        else:
            # The number of images is not known.
            held_out = settings.data.val_size if settings.data.fold == "none" else 1.0
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not held_out:
        raise UserError(
            f"data.val_size is {settings.data.val_size:g}, which leaves no validation images to"
            " choose by; it must be larger"
        )


def override(base: Params, drawn: dict[str, Any]) -> dict[str, Any]:
    """The params as sections, with some values replaced, by keys such as `model.width`."""
    return nested(drawn, base.model_dump())


def propose(trial: optuna.Trial, space: dict[str, Any], base: Params) -> dict[str, Any]:
    """Have Optuna propose each param that varies; returns its values, as Optuna stores them."""
    values = flat(base)
    for key, entry in space.items():
        if isinstance(entry, list):
            trial.suggest_categorical(key, [_encoded(choice) for choice in entry])
        elif isinstance(entry, dict):
            low, high, log = entry["low"], entry["high"], entry.get("log", False)
            if isinstance(values[key], float):  # also where the ends are written as 0 and 1
                trial.suggest_float(key, low, high, log=log, step=entry.get("step"))
            else:
                trial.suggest_int(key, low, high, log=log, step=entry.get("step", 1))
    return trial.params


def flat(base: Params) -> dict[str, Any]:
    """Like `striate.config.params.flatten`, but 1.0 stays a float."""
    sections = base.model_dump()
    flat = {"seed": sections.pop("seed")}
    return flat | {f"{name}.{k}": v for name, keys in sections.items() for k, v in keys.items()}


def _encoded(choice: Any) -> Any:
    """A choice as Optuna stores it: lists as JSON."""
    return json.dumps(choice) if isinstance(choice, list) else choice


def values_of(proposed: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    """The params that a trial sets: rounded proposals, and fixed values."""
    found = {}
    for key, entry in space.items():
        if isinstance(entry, list):
            found[key] = next(c for c in entry if _encoded(c) == proposed[key])
        elif isinstance(entry, dict):
            value = proposed[key]
            if isinstance(value, float):
                value = min(max(float(f"{value:.{DIGITS}g}"), entry["low"]), entry["high"])
            found[key] = value
        else:
            found[key] = entry
    return found
