"""What `import striate` offers a notebook: experiments, images and pictures; see docs/python.md."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from striate.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray

    from striate.tracking.records import Record

MOST_SHOWN = 400  # images of a picture; more cannot be told apart
ROUNDED = 1e-3  # by how much pixels may be outside 0..1, as after an interpolation
FIRST = ("val_accuracy", "test_accuracy", "test_errors", "parameters")  # scores that come first


class Data(NamedTuple):
    """A data set in memory.

    Attributes:
        name: as in `data.name`; of your own images, the name of their folder.
        classes: their names, in the order of the labels.
        train_images: float32 (N, C, H, W) in 0..1, before a validation set is split off.
        train_labels: int64 (N,).
        test_images: float32 (M, C, H, W) in 0..1.
        test_labels: int64 (M,).
    """

    name: str
    classes: list[str]
    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]


class Picture:
    """A figure that Jupyter shows inline as the last value of a cell.

    Attributes:
        figure: matplotlib's.
    """

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        from striate.reporting.figures.style import png
        from striate.reporting.html import shown_width

        content = png(self.figure)
        return content, {"width": shown_width(content)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as a PNG.

        Raises:
            ValueError: the name does not end with .png.
            OSError: the file cannot be written.
        """
        from striate.reporting.figures.style import save

        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"the name of a picture must end with .png, not {str(path)!r}")
        save(self.figure, path)


def root() -> Path:
    """The repository around the working directory.

    Raises:
        UserError: there is none.
    """
    from striate.tracking import git

    found = git.repository_around(Path.cwd())
    if found is None:
        raise UserError(f"{Path.cwd()} is not in a DVC repository")
    return found


def runs() -> pd.DataFrame:
    """All experiments, as `striate experiments` has them, but a row for each seed.

    Returns:
        A row for each experiment, indexed by its name: `setting` (equal for experiments that
        differ in the seed alone), `seed`, the params that differ between settings by their dotted
        keys, and the scores of metrics/train.json, and of metrics/test.json with `test_` before
        their names; NaN where an experiment lacks one. Settings with the best mean validation
        accuracy come first. Experiments that cannot be read, and repeated seeds, are left out with
        a warning.

    Raises:
        UserError: this is no repository, or no experiment has finished here.
    """
    import pandas as pd

    from striate.analysis import overview
    from striate.config.params import meant
    from striate.tracking import groups, records

    found, left_out, _ = records.find(root())
    for line in records.in_words(left_out):
        warnings.warn(f"left out: {line}", stacklevel=2)
    if not found:
        raise UserError(records.NOTHING_FINISHED)
    grouped = sorted(groups.group(found), key=groups.place)
    repeated = [record.names[0].name for group in grouped for record in group.repeated]
    if repeated:
        warnings.warn(f"left out, as they repeat a seed: {', '.join(repeated)}", stacklevel=2)
    keys = [key for key in overview.varied(grouped) if key != overview.SEED]
    names = groups.told_apart({group.key: group.name for group in grouped})
    rows = [
        {"experiment": member.names[0].name, "setting": names[group.key], "seed": seed}
        | {key: _cell(meant(member.params, key)) for key in keys}
        | _scores(member)
        for group in grouped
        for seed, member in zip(group.seeds, group.members, strict=True)
    ]
    return pd.DataFrame(rows).set_index("experiment")


def _cell(value: Any) -> Any:
    """A param's value; a list as text, because pandas cannot group by lists."""
    return str(value) if isinstance(value, list) else value


def _scores(record: Record) -> dict[str, float]:
    scores = record.train | {f"test_{key}": value for key, value in record.test.items()}
    first = {key: scores[key] for key in FIRST if key in scores}
    return first | scores


def load(name: str | None = None) -> Data:
    """Load the images and labels of a data set.

    Args:
        name: a value of `data.name`, such as `digits` or `mnist`. It is read from data/ if that
            holds it, else from the mirror or the web, and verified. Without a name: what data/
            holds, which may be your own images.

    Raises:
        UserError: no data set has this name, it cannot be fetched, or data/ holds none.
    """
    from striate.data import arrays
    from striate.datasets import registry

    if name is not None and name not in registry.names():
        own = "; load() without a name reads your own images from data/" * (name == "folder")
        raise UserError(
            f"no data set is called {name!r:.60}; there are {', '.join(registry.names())}{own}"
        )
    if name is not None and _stored_name() != name:
        return _fetched(name)
    folder = root() / "data"
    manifest = arrays.load_manifest(folder)
    (train, train_labels), (test, test_labels) = (
        arrays.map_split(folder, split) for split in ("train", "test")
    )
    return Data(
        manifest["name"],
        manifest["classes"],
        arrays.scale_to_unit(train, manifest["peak"]),
        train_labels,
        arrays.scale_to_unit(test, manifest["peak"]),
        test_labels,
    )


def _stored_name() -> str | None:
    """The name of the data set in data/, if there is one."""
    from striate.data import arrays

    try:
        return str(arrays.load_manifest(root() / "data")["name"])
    except UserError:
        return None


def _fetched(name: str) -> Data:
    from striate.data.arrays import scale_to_unit
    from striate.datasets import fetch, registry

    found = fetch.fetch(registry.DATASETS[name], os.environ.get(fetch.MIRROR_VARIABLE))
    return Data(
        name,
        list(found.classes),
        scale_to_unit(found.train.images, found.peak),
        found.train.labels,
        scale_to_unit(found.test.images, found.peak),
        found.test.labels,
    )


def show(
    images: ArrayLike,
    labels: ArrayLike | None = None,
    predicted: ArrayLike | None = None,
    *,
    classes: Sequence[str] | None = None,
) -> Picture:
    """Draw images in a grid, each below its class, or below what a network said.

    Args:
        images: floats (N, C, H, W) with C of 1 or 3, or (N, H, W), in 0..1; at most 400.
        labels: integers (N,), the true class of each.
        predicted: integers (N,); captions are then `predicted:true`, mistakes are red, and the
            title counts the correct ones.
        classes: the name of each class; without it, captions are numbers.

    Raises:
        ValueError: the shapes disagree, a label has no name, there are more than 400 images, one
            has pixels outside 0..1, or `predicted` comes without `labels`.
    """
    import numpy as np

    from striate.reporting.figures import grid, predictions
    from striate.reporting.figures.fonts import short_names
    from striate.reporting.numbers import plural

    pixels = _array(images)
    pixels = grid.check_images(pixels[:, None] if pixels.ndim == 3 else pixels)
    if len(pixels) > MOST_SHOWN:
        raise ValueError(f"{len(pixels):,} images are too many to show; try images[:100]")
    darkest, brightest = pixels.min(), pixels.max()
    if not (darkest >= -ROUNDED and brightest <= 1 + ROUNDED):  # nor nan
        raise ValueError(
            f"pixels span {darkest:g}..{brightest:g}; they must be in 0..1"
            + (": divide those of 8 bits by 255" if brightest > 2 else "")
        )
    pixels = pixels.clip(0, 1)
    if labels is None and predicted is not None:
        raise ValueError("predicted needs the true labels beside it")
    given = [_array(one) for one in (labels, predicted) if one is not None]
    if classes is None:  # what is no integer is refused below
        whole = [one for one in given if np.issubdtype(one.dtype, np.integer)]
        if any(one.min(initial=0) < 0 for one in whole):
            raise ValueError("labels and predictions must be 0 or more")
        highest = max((int(one.max(initial=0)) for one in whole), default=0)
        classes = list(map(str, range(highest + 1)))
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise ValueError(f"classes must be a list of names, not {classes!r:.60}")
    names = [str(name) for name in classes]
    for one in given:
        grid.check_labelled(pixels, one, names)
    if predicted is not None:
        scores = np.eye(len(names))[given[1]]  # the predicted class gets the highest
        return Picture(predictions.predictions(pixels, given[0], scores, names))
    short = short_names(names)
    captions = [short[label] for label in given[0]] if given else [""] * len(pixels)
    heading = plural(len(pixels), "image")
    return Picture(grid.image_grid(pixels, captions, grid.square(len(pixels)), heading))


def _array(values: ArrayLike) -> NDArray[Any]:
    """Values as an array, also those of a tensor with gradients or on a GPU."""
    import numpy as np

    if isinstance(values, list | tuple) and values and hasattr(values[0], "detach"):
        return np.array([_array(one) for one in values])
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
