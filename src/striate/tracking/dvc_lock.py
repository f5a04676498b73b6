"""dvc.lock: the params and hashes that DVC recorded for each stage."""

from typing import Any, NamedTuple

import yaml

from striate.config.params import flatten
from striate.config.yaml_loader import Loader
from striate.errors import one_line

LOCK = "dvc.lock"


class Stage(NamedTuple):
    """What a stage was run with, and what it read and wrote."""

    params: dict[str, Any]  # flat, of params.yaml
    deps: dict[str, str]  # path → DVC's hash
    outs: dict[str, str]


def parse(text: str) -> dict[str, Stage]:
    """The stages in the text of a dvc.lock, by name.

    Raises:
        ValueError: it is not a dvc.lock; says why in one line.
    """
    try:
        stages = yaml.load(text, Loader)["stages"]  # noqa: S506
        return {
            name: Stage(
                flatten(stage.get("params", {}).get("params.yaml", {})),
                _hashes(stage.get("deps", [])),
                _hashes(stage.get("outs", [])),
            )
            for name, stage in stages.items()
        }
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(one_line(error)) from None


def _hashes(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["path"]: entry["md5"] for entry in entries if "md5" in entry}
