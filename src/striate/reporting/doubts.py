"""Doubtful labels: a page, a table, and a list of files to leave out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from striate.data import arrays, files, json_csv
from striate.evaluation.doubts import Doubt, Unseen
from striate.reporting.html import Tile, render, tile
from striate.reporting.numbers import percent, plural

SHOWN = 200  # images on the page, at most
COLUMNS = ("index", "label", "suggested", "label_probability", "suggested_probability")


def write(
    said: Unseen, ranked: Sequence[Doubt], wrong: int, split: str, folder: Path
) -> list[Path]:
    """Write `index.html`, `doubts.csv` and, of training images from files, `leave_out.txt`.

    Args:
        said: what the networks say.
        ranked: the most doubtful first.
        wrong: how many labels are probably wrong; so many of the first are to be left out.
        split: "training" or "test".
        folder: receives the files.

    Returns:
        Their paths.
    """
    page, table, listed = folder / "index.html", folder / "doubts.csv", folder / "leave_out.txt"
    columns = [*(["file"] if said.files else []), *COLUMNS]
    files.write(page, _page(said, ranked, wrong, split).encode())
    json_csv.write_table(table, [_row(said, one) for one in ranked], columns)
    if not said.files or split != "training":
        return [page, table]
    names = [said.files[one.image] for one in ranked[:wrong]]
    files.write(listed, "".join(f"{name}\n" for name in names).encode())
    return [page, table, listed]


def _row(said: Unseen, one: Doubt) -> dict[str, Any]:
    file = {"file": said.files[one.image]} if said.files else {}
    return file | {
        "index": one.image, "label": said.classes[one.label],
        "suggested": said.classes[one.suggested],
        "label_probability": f"{one.label_probability:.6f}",
        "suggested_probability": f"{one.suggested_probability:.6f}",
    }  # fmt: skip


def _page(said: Unseen, ranked: Sequence[Doubt], wrong: int, split: str) -> str:
    count = plural(len(ranked), "doubtful label")
    shown = ranked[:SHOWN]
    return render(
        "doubts.html.j2",
        title=f"{count} among {len(said.labels):,} {split} images",
        wrong=wrong,
        tiles=[_tile(said, one) for one in shown],
        shown=len(shown),
        can_leave_out=bool(said.files) and split == "training",
    )


def _tile(said: Unseen, one: Doubt) -> Tile:
    (image,) = arrays.scale_to_unit(said.images[one.image : one.image + 1], said.peak)
    name = said.files[one.image] if said.files else f"image {one.image:,}"
    label, other = said.classes[one.label], said.classes[one.suggested]
    own, others = percent(one.label_probability, 1), percent(one.suggested_probability, 1)
    return tile(image, f"{label} {own}, or {other} {others}")._replace(note=name)
