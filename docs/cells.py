"""Text in the tables of the pages that `make docs` writes."""

import re


def cell(text: str) -> str:
    """Plain text, of which backticks mark code, as a cell of a table in Markdown."""
    return re.sub(r"([|*<])", r"\\\1", text)
