"""Sections of a params file as pydantic classes, and one line for each fault that one finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

MAX_FAULTS = 20  # listed in one message


class Section(BaseModel):
    """A section: refuses unknown keys, coerces no types, and cannot be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def explain(
    error: ValidationError,
    path: str | Path,
    sections: dict[str, type[BaseModel]],
    inside: str | None = None,
) -> str:
    """Explain what pydantic refused: a line for each fault, with key, value and what is allowed.

    Args:
        error: the faults.
        path: of the file, as the lines name it.
        sections: the class of each section by its name; that of the whole file is `""`.
        inside: the section that was checked alone; None for the whole file.
    """
    start = () if inside is None else (inside,)
    lines = [
        f"{path}: {_explain_fault(start + fault['loc'], fault, sections)}"
        for fault in error.errors()[:MAX_FAULTS]
    ]
    if error.error_count() > MAX_FAULTS:
        lines.append(f"{path}: and {error.error_count() - MAX_FAULTS} more faults")
    return "\n       ".join(lines)


def shorten(value: Any) -> str:
    """A value as text without line breaks, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write a whole number of thousands of digits
        text = f"a number of {value.bit_length():,} bits"
    return text[:60] + "…" if len(text) > 61 else text


def _explain_fault(loc: tuple[Any, ...], fault: Any, sections: dict[str, type[BaseModel]]) -> str:
    """One line for the fault at a place in the file."""
    key = ".".join(_name(part) for part in loc)
    if fault["type"] in ("extra_forbidden", "invalid_key"):
        return f"{key} is not a known key; known here: {_known_keys(loc[:-1], sections)}"
    if fault["type"] == "missing":
        return f"{key} is missing; it must be {_allowed(loc, sections)}"
    if fault["type"] != "value_error":
        return f"{key} is {shorten(fault['input'])}; it must be {_allowed(loc, sections)}"
    if len(loc) < 2:
        return str(fault["ctx"]["error"])  # keys that contradict each other
    return f"{key} is {shorten(fault['input'])}; it must be {fault['ctx']['error']}"


def _name(part: Any) -> str:
    plain = str(part).isidentifier() and str(part).isascii() and len(str(part)) <= 60
    return str(part) if plain or isinstance(part, int) else shorten(part)


def _known_keys(loc: tuple[Any, ...], sections: dict[str, type[BaseModel]]) -> str:
    return ", ".join(sections[".".join(loc)].model_fields)


def _allowed(loc: tuple[Any, ...], sections: dict[str, type[BaseModel]]) -> str:
    """What the schema allows at a key, in words."""
    if ".".join(loc) in sections:
        return f"a section with the keys {_known_keys(loc, sections)}"
    *parents, key = loc
    field = sections[".".join(parents)].model_json_schema()["properties"][key]
    if "description" in field:
        return str(field["description"])
    if "enum" in field or "const" in field:
        return "one of " + ", ".join(field.get("enum", [field.get("const")]))
    if field["type"] == "boolean":
        return "true or false"
    if field["type"] == "string":
        return "a path"
    kind = "a whole number" if field["type"] == "integer" else "a number"
    above, least = field.get("exclusiveMinimum"), field.get("minimum")
    below, most = field.get("exclusiveMaximum"), field.get("maximum")
    low = f"from {least:.15g}" if above is None else f"above {above:.15g}"
    if below is not None:
        return f"{kind} {low} to below {below:.15g}"
    return f"{kind} {low} to {most:.15g}"
