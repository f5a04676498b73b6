"""Named sets of params in recipes/, as arguments for `dvc exp run`."""

import json
from pathlib import Path
from typing import Any

from striate.config.params import check, flatten, load
from striate.config.yaml_loader import read_yaml
from striate.errors import UserError

FOLDER = Path("recipes")


def names() -> dict[str, str]:
    """All recipes, each with the comment at the head of its file as one line.

    Raises:
        UserError: there is no folder of recipes.
    """
    if not FOLDER.is_dir():
        raise UserError(f"there is no {FOLDER}/ here; commands run at the root of the repository")
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        head = lines[: next((n for n, line in enumerate(lines) if line[:1] != "#"), len(lines))]
        found[path.stem] = " ".join(line.lstrip("# ") for line in head)
    return found


def read(name: str) -> dict[str, Any]:
    """Read the params of a recipe, in sections.

    It needs no keys that its network does not read.

    Raises:
        UserError: there is no such recipe, or params.yaml with the recipe's values is faulty.
    """
    known = names()
    path = FOLDER / f"{name}.yaml"
    if name not in known:
        raise UserError(f"there is no {path}; the recipes are {', '.join(known)}")
    recipe = read_yaml(path)
    merged = load().model_dump()
    for section, values in recipe.items():
        both = isinstance(merged.get(section), dict) and isinstance(values, dict)
        merged[section] = merged[section] | values if both else values
    check(merged, path)
    return recipe


def arguments(recipe: dict[str, Any]) -> list[str]:
    """A recipe as `-S key=value …`; no argument holds a blank, so that a shell can split them."""
    found = []
    for key, value in flatten(recipe).items():
        text = json.dumps(value, separators=(",", ":")).strip('"')
        found += ["-S", f"{key}={text}"]
    return found
