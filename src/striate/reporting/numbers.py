"""Numbers as people read them."""

from striate.evaluation.scores import wilson


def plural(count: float, noun: str) -> str:
    """A count with its noun: `1 image`, `2 images`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(fraction: float, digits: int = 2) -> str:
    """A fraction in percent."""
    return f"{fraction:.{digits}%}"


def epochs(count: float) -> str:
    """A number of epochs with its noun."""
    return plural(count, "epoch")


def interval(hits: int, total: int) -> str:
    """Wilson's 95 % interval of a proportion, in percent."""
    low, high = wilson(hits, total)
    return f"{100 * low:.2f} to {high:.2%}"
