"""YAML as plain values: read fast where this project wrote it, strictly where people did."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from striate.errors import UserError
from striate.schema import shorten

MAX_BYTES = 100_000  # of a params file; the committed one has a few thousand


class ParamsError(UserError):
    """A params file cannot be read, or holds values that the schema refuses."""


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader; libyaml's, where there is one, is eight times as fast."""


class _StrictLoader(yaml.SafeLoader):
    """The safe loader without what params do not need and what would surprise a reader.

    A tag would make objects, an alias can make a few lines stand for millions of values, and of
    two equal keys the last would win silently.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _refused("an alias or anchor (& or *) has no place here", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _refused(f"the tag {shorten(event.tag)} has no place here", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise _refused(f"the key {shorten(key.value)} stands twice", key.start_mark)
            if key.tag == "tag:yaml.org,2002:merge":
                raise _refused("the key '<<' has no place here", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError):  # the 31st of February, or a number without an end
            raise _refused(f"{shorten(node.value)} is not a value", node.start_mark) from None


# DVC writes 1e-05, which is a number to both loaders, as to DVC.
for _loader in (Loader, _StrictLoader):
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _refused(problem: str, mark: yaml.Mark) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def read_yaml(path: str | Path) -> dict[Any, Any]:
    """Read a YAML file of plain values that holds keys at its top level.

    Raises:
        ParamsError: the file is missing, too large or not such YAML; the message has one line.
    """
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        text = content.decode() if len(content) <= MAX_BYTES else None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParamsError(
            f"{path} cannot be read: {reason}; commands run at the root of the repository"
        ) from None
    if text is None:
        raise ParamsError(f"{path} has more than {MAX_BYTES:,} bytes, too many for such a file")
    try:
        values = yaml.load(text, _StrictLoader)  # noqa: S506
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", error)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ParamsError(
            f"{path}{place} is not valid YAML: {' '.join(str(problem).split())}"
        ) from None
    except RecursionError:
        raise ParamsError(f"{path} is not valid YAML: it is nested too deeply") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} must hold keys and their values, as `key: value`")
    return values
