"""Write docs/params.md from params.yaml, whose comments are the home of these facts."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = """# Every param

From [`params.yaml`](../params.yaml), which is their home, by `make docs`.
`dvc exp run -S KEY=VALUE`
sets one; a faulty value is refused with a line that says what is allowed.
"""
STAGES = {
    "seed": "train",
    "data": "train; `data.name` also download",
    "augment": "train",
    "model": "train",
    "training": "train; `training.device` also evaluate",
    "evaluate": "evaluate",
}
LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?: +(?P<value>[^#\s]+))?(?: +# (?P<said>.*))?$")


def page(text: str) -> str:
    """The page for the text of a params.yaml."""
    lines = [HEAD]
    section = ""
    for match in filter(None, map(LINE.match, text.splitlines())):
        key, value, said = match["key"], match["value"], (match["said"] or "").replace("|", "\\|")
        if not match["indent"]:
            section = key
            lines.append(f"\n## {key}\n")
            if value is None and said:
                lines.append(f"{said[0].upper()}{said[1:]}.\n")
            lines.append(f"Read by {STAGES[key]}.\n")
            lines.append("| key | committed value | what it is |\n|---|---|---|")
        if value is not None:
            full = f"{section}.{key}" if match["indent"] else key
            lines.append(f"| `{full}` | `{value}` | {said} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (ROOT / "docs/params.md").write_text(page((ROOT / "params.yaml").read_text()))
