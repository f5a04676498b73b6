"""The digits that come with scikit-learn: 8×8 pixels of 17 gray levels; no download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from striate.datasets.registry import Dataset, register

if TYPE_CHECKING:
    from striate.data.arrays import LabeledImages


def read(folder: Path) -> tuple[LabeledImages, LabeledImages]:
    """Split scikit-learn's digits, which come without a test set, in one fixed way."""
    import numpy as np
    from sklearn.datasets import load_digits

    from striate.data.arrays import LabeledImages
    from striate.data.splits import stratified_split

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    train, test = stratified_split(labels, 360, seed=0)
    return LabeledImages(images[train], labels[train]), LabeledImages(images[test], labels[test])


register(
    Dataset(
        name="digits",
        classes=tuple("0123456789"),
        shape=(1, 8, 8),
        counts=(1437, 360),
        peak=16,
        mean=(0.3058,),
        std=(0.3766,),
        read=read,
        page="https://archive.ics.uci.edu/dataset/80",
        licence="CC BY 4.0",
    )
)
