"""Named sets of params in recipes/, as arguments for `dvc exp run`.

Recipes in recipes/ladder/ are rungs: networks in the order of their years. A rung has settings for
several data sets, and shares all that it does not say with the others.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError, field_validator

from striate.config.params import check, flatten, load, nested, sections
from striate.config.yaml_loader import ParamsError, read_yaml
from striate.datasets import registry
from striate.errors import UserError
from striate.schema import Section, explain

FOLDER = Path("recipes")
LADDER = "ladder"  # the folder of the rungs, and the key by which a recipe is one
SHARED = "_all"  # the file there of what all rungs share; it is no recipe
DATA_SETS = (*registry.names(), "folder")
INSTEAD = (
    "the keys that differ on other data sets, as mnist: {training.epochs: 3}; those of"
    f" params.yaml, for {', '.join(DATA_SETS)}"
)


class Rung(Section):
    """The block `ladder` of a recipe: what it stands for, and what other data sets need."""

    year: Annotated[int, Field(ge=1900, le=2100)]
    name: Annotated[str, Field(min_length=1, max_length=24, description="1 to 24 letters")]
    paper: Annotated[str, Field(pattern="^https://", description="the address of the paper")]
    instead: dict[str, dict[str, Any]] = Field(default_factory=dict, description=INSTEAD)

    @field_validator("instead", mode="before")
    @classmethod
    def _keys_by_data_set(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not {*value} <= {*DATA_SETS}:
            raise ValueError(INSTEAD)
        if not all(isinstance(own, dict) and {*own} <= _keys() for own in value.values()):
            raise ValueError(INSTEAD)
        return value


@cache
def _keys() -> frozenset[str]:
    """The dotted keys of params.yaml; all rungs are checked against them."""
    every = sections().items()
    return frozenset(f"{section}.{key}" for section, kind in every for key in kind.model_fields)


class Recipe(NamedTuple):
    """A recipe.

    Attributes:
        params: in sections; all that the recipe sets.
        rung: None where it is none.
    """

    params: dict[str, Any]
    rung: Rung | None


def names() -> dict[str, str]:
    """All recipes, each with the comment at the head of its file as one line.

    Raises:
        UserError: there is no folder of recipes.
    """
    if not FOLDER.is_dir():
        raise UserError(f"there is no {FOLDER}/ here; commands run at the root of the repository")
    found = {}
    for path in sorted([*FOLDER.glob("*.yaml"), *(FOLDER / LADDER).glob("*.yaml")]):
        if path.stem != SHARED:
            lines = path.read_text(encoding="utf-8").splitlines()
            head = lines[: next((n for n, line in enumerate(lines) if line[:1] != "#"), len(lines))]
            name = path.relative_to(FOLDER).with_suffix("").as_posix()
            found[name] = " ".join(line.lstrip("# ") for line in head)
    return found


def exists(name: str) -> bool:
    """Whether a name is that of a recipe, or of a recipe and a data set."""
    return FOLDER.is_dir() and _file_and_data(name)[0] in names()


def read(name: str) -> dict[str, Any]:
    """Read the params of a recipe, in sections.

    It needs no keys that its network does not read.

    Args:
        name: as `names` has it; behind that of a rung may stand a data set: `ladder/vit/mnist`.

    Raises:
        UserError: there is no such recipe, or params.yaml with the recipe's values is faulty.
    """
    return load_recipe(name).params


def load_recipe(name: str) -> Recipe:
    """Read a recipe with what makes it a rung; arguments and errors are those of `read`."""
    file, data = _file_and_data(name)
    path = FOLDER / f"{file}.yaml"
    known = names()
    if file not in known:
        raise UserError(f"there is no {path}; the recipes are {', '.join(known)}")
    recipe, rung = _for_data(path, data)
    merged = load().model_dump()
    for section, values in recipe.items():
        both = isinstance(merged.get(section), dict) and isinstance(values, dict)
        merged[section] = merged[section] | values if both else values
    check(merged, path)
    return Recipe(recipe, rung)


def rungs(data: str) -> dict[str, Rung]:
    """The rungs for a data set by the names of their recipes, in the order of their years.

    Of one year, the file whose name comes first stands first.

    Raises:
        UserError: a file is faulty, or no rung is for that data set.
    """
    found, known = {}, set[str]()
    for name in names():
        if not name.startswith(f"{LADDER}/"):
            continue
        recipe, rung = load_recipe(name)
        if rung:
            own = {recipe["data"]["name"], *rung.instead}
            known |= own
            if data in own:
                found[f"{name}/{data}"] = rung
    if not found:
        raise UserError(f"no rung is for {data!r:.60}; there are rungs for {_listed(known)}")
    return dict(sorted(found.items(), key=lambda one: one[1].year))


def _file_and_data(name: str) -> tuple[str, str]:
    """The recipe and the data set, if any, that a name such as `ladder/vit/mnist` means."""
    file, _, data = name.rpartition("/")
    is_file = (FOLDER / f"{name}.yaml").is_file()
    return (name, "") if is_file or not (FOLDER / f"{file}.yaml").is_file() else (file, data)


def _for_data(path: Path, data: str) -> tuple[dict[str, Any], Rung | None]:
    """The params of a recipe's file, with those of another data set if one is named."""
    recipe = read_yaml(path)
    is_rung, block = path.parent == FOLDER / LADDER, recipe.pop(LADDER, None)
    if is_rung and block is None:
        raise UserError(
            f"{path} has no block `{LADDER}`, which each recipe in that folder needs:"
            f" {', '.join(Rung.model_fields)}"
        )
    if not is_rung and block is not None:
        raise UserError(
            f"{path} has the block `{LADDER}`, which only recipes in {FOLDER / LADDER}/ have"
        )
    if block is None:
        if data:
            raise UserError(f"{path} is no rung, so {data!r:.60} cannot follow its name")
        return recipe, None
    try:
        rung = Rung.model_validate(block)
    except ValidationError as error:
        raise ParamsError(explain(error, path, {LADDER: Rung}, inside=LADDER)) from None
    flat = flatten(read_yaml(path.with_stem(SHARED))) | flatten(recipe)
    own = str(flat.get("data.name"))
    if data not in ("", own, *rung.instead):
        raise UserError(f"{path} is for {_listed({own, *rung.instead})}, not for {data!r:.60}")
    if data not in ("", own):
        flat |= {"data.name": data, **flatten(rung.instead[data])}
    return nested(flat, {}), rung


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def arguments(recipe: dict[str, Any]) -> list[str]:
    """A recipe as `-S key=value …`; no argument holds a blank, so that a shell can split them."""
    found = []
    for key, value in flatten(recipe).items():
        text = json.dumps(value, separators=(",", ":")).strip('"')
        found += ["-S", f"{key}={text}"]
    return found
