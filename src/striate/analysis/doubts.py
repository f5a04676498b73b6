"""Labels doubted by networks that were not trained on their images.

Confident learning: C. Northcutt, L. Jiang and I. Chuang, "Confident Learning: Estimating
Uncertainty in Dataset Labels", arXiv:1911.00068, through cleanlab, its authors' library.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from striate.data import arrays
from striate.evaluation import predictions
from striate.evaluation.scores import softmax


class Doubt(NamedTuple):
    """An image that is classified otherwise than labelled.

    Attributes:
        image: its index in its set.
        label: the class it is labelled with.
        suggested: the likeliest class.
        label_probability: of the label.
        suggested_probability: of the likeliest class.
    """

    image: int
    label: int
    suggested: int
    label_probability: float
    suggested_probability: float


def mean_test_probabilities(data: Path, folders: Sequence[Path]) -> np.ndarray:
    """The mean of what networks said of the test images when they were evaluated.

    Args:
        data: the folder `data`.
        folders: the folder `predictions` of each network.

    Returns:
        float64 (N, classes).

    Raises:
        UserError: a file is missing or broken.
    """
    manifest = arrays.load_manifest(data)
    shape = (manifest["test"]["count"], len(manifest["classes"]))
    mean: np.ndarray = np.mean(
        [softmax(predictions.read_logits(folder, shape)) for folder in folders], axis=0
    )
    return mean


def doubtful(probabilities: np.ndarray, labels: np.ndarray) -> list[Doubt]:
    """All images that are classified otherwise than labelled, the least probable label first.

    Args:
        probabilities: float (N, classes), each row by networks that were not trained on its image.
        labels: int64 (N,).
    """
    likeliest = probabilities.argmax(1)
    found = np.flatnonzero(likeliest != labels)
    own = probabilities[found, labels[found]]
    order = np.argsort(own, kind="stable")
    rows = zip(found[order].tolist(), own[order].tolist(), strict=True)
    return [
        Doubt(i, int(labels[i]), int(likeliest[i]), share, float(probabilities[i, likeliest[i]]))
        for i, share in rows
    ]


def estimated_wrong(probabilities: np.ndarray, labels: np.ndarray) -> int:
    """How many labels are probably wrong, by the off-diagonal entries of the confident joint.

    Args:
        probabilities: as for `doubtful`.
        labels: int64 (N,).
    """
    from cleanlab.count import num_label_issues

    return int(num_label_issues(labels, probabilities))
