"""Striate: a reproducible pipeline for convolutional image classifiers.

For notebooks it offers `runs`, `load` and `show`; see docs/python.md.
"""

import gc
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from striate.notebook import load, runs, show

__all__ = ["load", "runs", "show"]

# A process lives for seconds and loads packages of thousands of modules. It compiles them once,
# also where the environment forbids that to a container's image; without this, each start of a
# stage costs up to half a minute.
sys.dont_write_bytecode = False
# Most of what loading makes stays, and looking for garbage in it takes a third of the time.
gc.set_threshold(20_000, 50, 1_000)


def __getattr__(name: str) -> Any:
    # Commands import this package too, and need none of what a notebook does.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from striate import notebook

    return getattr(notebook, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
