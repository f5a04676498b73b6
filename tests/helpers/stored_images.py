"""Your own images, stored as the stage stores them and read back."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from striate.data import arrays
from striate.datasets import image_folder, layouts


def read(path, size=0, test_size=0.2, leave_out=(), resize="crop", folder=None):
    """What data/ holds of a folder or an archive, and what was reported."""
    sides = (size, size) if isinstance(size, int) else tuple(size)
    look = image_folder.Look(sides if sides[0] else None, resize)
    with tempfile.TemporaryDirectory() as scratch:
        data = folder or Path(scratch, "data")
        with layouts.opened(Path(path), data) as found:
            layout = image_folder.divided(found, test_size, leave_out)
            shape = image_folder.shape_of(layout, look)
            report = image_folder.store(layout, look, shape, data)
        manifest = arrays.load_manifest(data)
        parts = {
            part: arrays.LabeledImages(*map(np.array, arrays.map_split(data, part)))
            for part in arrays.SPLITS
            if part in manifest
        }
        return SimpleNamespace(
            classes=tuple(manifest["classes"]), mean=manifest["mean"], std=manifest["std"],
            frame=manifest["frame"], skipped=dict(layout.skipped), counts=report.counts,
            duplicates=tuple(report.duplicates), conflicts=tuple(report.conflicts),
            files={part: arrays.read_files(data, part) for part in parts}, **parts,
        )  # fmt: skip
