"""The registry of figures.

To add a figure, add a file to this folder, such as

    @figure("confidences", section="calibration", alt="How many images are how confident")
    def draw(results: Results) -> Figure:
        chart = style.chart(5, 3)
        ...
        return chart

The stage visualize writes it to reports/figures/confidences.png and shows it at the end of its
section of reports/index.html.
"""

import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, TypeAlias

from matplotlib.figure import Figure

from striate.reporting.figures.style import png
from striate.reporting.results import Results

Draw: TypeAlias = Callable[[Results], Figure | Mapping[str, Figure]]

# The page's sections in order: anchor → name in the navigation.
SECTIONS = {
    "curves": "Learning curves",
    "seeds": "Seeds",
    "samples": "Training images",
    "predictions": "Predictions",
    "confusion": "Confusion matrix",
    "classes": "Classes",
    "calibration": "Calibration",
    "mistakes": "Mistakes",
    "shifted": "Shifted images",
    "features": "Feature maps",
    "filters": "Filters",
    "params": "Params",
    "reproduce": "Reproduce",
}


class Entry(NamedTuple):
    """A registered figure: the arguments of `figure`, and the function that draws it."""

    name: str
    section: str | None
    alt: str
    caption: str | Callable[[Results], str]
    chart: bool
    draw: Draw
    narrow: Callable[[Results], Figure] | None


class Drawing(NamedTuple):
    """A drawn figure: its entry, and the PNGs.

    Attributes:
        name: of the file in reports/figures, without .png.
        alt: the text alternative.
        caption: the sentence above it, or nothing.
        entry: what it was drawn by.
        png: the file.
        narrow: the same for narrow screens, if it differs.
    """

    name: str
    alt: str
    caption: str
    entry: Entry
    png: bytes
    narrow: bytes | None = None


_entries: dict[str, Entry] = {}


def figure(
    name: str,
    *,
    section: str | None,
    alt: str,
    caption: str | Callable[[Results], str] = "",
    chart: bool = True,
    narrow: Callable[[Results], Figure] | None = None,
) -> Callable[[Draw], Draw]:
    """Register a function that draws a figure, or several: a mapping from the part to its figure.

    An empty mapping draws none.

    Args:
        name: of the file in reports/figures, without .png; `_` and the part follow if there are
            several.
        section: a key of `SECTIONS`; None for a file that the page does not show.
        alt: the text alternative; "of" and the part follow if there are several.
        caption: a sentence above the figure, or a function that words it.
        chart: whether dark pages may invert it; not for images.
        narrow: draws the figure for narrow screens.

    Raises:
        ValueError: the section does not exist, or the name is taken.
    """
    if section is not None and section not in SECTIONS:
        raise ValueError(f"figure {name}: section must be one of {', '.join(SECTIONS)}")
    if name in _entries:
        raise ValueError(f"there are two figures {name}")

    def register(draw: Draw) -> Draw:
        _entries[name] = Entry(name, section, alt, caption, chart, draw, narrow)
        return draw

    return register


def registered() -> list[Entry]:
    """All figures of this package, by name."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        import_module(f"{__package__}.{module.name}")
    return sorted(_entries.values())


def drawings(entry: Entry, results: Results) -> list[Drawing]:
    """Draw a figure: one drawing, or one for each of its parts."""
    drawn = entry.draw(results)
    caption = entry.caption if isinstance(entry.caption, str) else entry.caption(results)
    if isinstance(drawn, Figure):
        narrow = png(entry.narrow(results)) if entry.narrow else None
        return [Drawing(entry.name, entry.alt, caption, entry, png(drawn), narrow)]
    captions = [caption] + [""] * len(drawn)
    return [
        Drawing(f"{entry.name}_{part}", f"{entry.alt} of {part}", above, entry, png(figure))
        for above, (part, figure) in zip(captions, drawn.items(), strict=False)
    ]
