"""Write docs/params.md from params.yaml, whose comments are the home of these facts."""

import re
from pathlib import Path

import yaml
from cells import cell

ROOT = Path(__file__).parent.parent
HEAD = """# Every param

From [`params.yaml`](../params.yaml), which is their home, by `make docs`.
`dvc exp run -S KEY=VALUE`
sets one; a faulty value is refused with a line that says what is allowed.
"""
# Stage → the params that it reads: whole sections, or single keys of them.
READ: dict[str, list[str]] = {
    stage: [str(key) for key in entry["params"]]
    for stage, entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}
LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s]+))?(?: +# (?P<said>.*))?$")


def readers(section: str) -> str:
    """Which stages read a section of params.yaml, in a sentence."""
    said = [f"Read by {_joined([stage for stage, keys in READ.items() if section in keys])}"]
    for stage, keys in READ.items():
        if some := [f"`{key}`" for key in keys if key.startswith(f"{section}.")]:
            said.append(f"{stage} reads only {_joined(some)}")
    return "; ".join(said) + "."


def _joined(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def page(text: str) -> str:
    """The page for the text of a params.yaml."""
    lines = [HEAD]
    section = ""
    for match in filter(None, map(LINE.match, text.splitlines())):
        key, value, said = match["key"], match["value"], cell(match["said"] or "")
        if not match["indent"]:
            section = key
            lines.append(f"\n## {key}\n")
            if value is None and said:
                lines.append(f"{said[0].upper()}{said[1:]}.\n")
            lines.append(f"{readers(key)}\n")
            lines.append("| key | committed value | what it is |\n|---|---|---|")
        if value is not None:
            full = f"{section}.{key}" if match["indent"] else key
            lines.append(f"| `{full}` | `{value}` | {said} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs/params.md").write_text(page((ROOT / "params.yaml").read_text()))
