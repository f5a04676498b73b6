"""Which font draws which letter, and class names that fit a figure."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from matplotlib.font_manager import findfont, fontManager, get_font

FONT = "DejaVu Sans"  # ships with matplotlib: the same letters on every machine
# Fonts that show no letter, or another one than its code says.
NO_TEXT = ("cm", "Last Resort", "STIXNonUnicode", "STIXSize")
MAX_NAME = 24  # letters of a class name, so that no figure has more pixels than anyone looks at


def families(text: str) -> list[str]:
    """The fonts that a text needs, `FONT` first."""
    return list(dict.fromkeys([FONT, *filter(None, map(_family, text.replace("\n", "")))]))


def drawable(text: str) -> str:
    """A text in which the code, as U+4E2D, replaces each letter that no font here can draw."""
    if all(map(_family, text)):
        return text
    # Letters that only join or direct others are not drawn by themselves.
    visible = (letter for letter in text if unicodedata.category(letter) != "Cf")
    drawn = (letter if _family(letter) else f" U+{ord(letter):04X} " for letter in visible)
    return " ".join("".join(drawn).split())


def short_names(names: Sequence[str], limit: int = MAX_NAME) -> list[str]:
    """Cut names to `limit` letters; different names stay different.

    The middle of a long name is left out. If that makes names equal, their numbers follow.
    """
    before, after = (limit - 1) // 2, limit // 2
    short = [
        name if len(name) <= limit else f"{name[:before]}…{name[-after:]}"
        for name in map(drawable, names)
    ]
    times = Counter(short)
    return [name if times[name] == 1 else f"{name} ({number})" for number, name in enumerate(short)]


@cache
def _family(letter: str) -> str | None:
    """The font that draws a letter: `FONT`, or else the first one of this machine that has it."""
    if ord(letter) in _letters(findfont(FONT)):
        return FONT
    others = {
        entry.name: entry.fname
        for entry in fontManager.ttflist
        if (entry.style, entry.weight) == ("normal", 400) and not entry.name.startswith(NO_TEXT)
    }
    return next((name for name in sorted(others) if ord(letter) in _letters(others[name])), None)


@cache
def _letters(path: str) -> frozenset[int]:
    """The codes of the letters that a font draws as outlines.

    None for a damaged font, a bitmap font, or one removed since matplotlib listed the fonts.
    """
    try:
        font = get_font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap() if font.scalable else ())
