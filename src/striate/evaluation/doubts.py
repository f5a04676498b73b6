"""Labels doubted by networks that were not trained on their images.

Confident learning: C. Northcutt, L. Jiang and I. Chuang, "Confident Learning: Estimating
Uncertainty in Dataset Labels", arXiv:1911.00068, through cleanlab, its authors' library.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Unseen(NamedTuple):
    """Images, and how networks classify them that were not trained on them.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        probabilities: float64 (N, classes).
        classes: their names.
        peak: the largest pixel value.
        files: of the images, relative to data.path; none if the data set is not made of files.
    """

    images: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    classes: list[str]
    peak: int
    files: list[str]


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


def doubtful(probabilities: np.ndarray, labels: np.ndarray) -> list[Doubt]:
    """All images that are classified otherwise than labelled, the least probable label first.

    Args:
        probabilities: float (N, classes), each row by a network that was not trained on its image.
        labels: int64 (N,).
    """
    from cleanlab.filter import find_label_issues

    ranked = find_label_issues(
        labels, probabilities, filter_by="predicted_neq_given",
        return_indices_ranked_by="self_confidence", n_jobs=1,
    )  # fmt: skip
    suggested = probabilities[ranked].argmax(1)
    return [
        Doubt(
            int(i), int(labels[i]), int(k), float(probabilities[i, labels[i]]),
            float(probabilities[i, k]),
        )
        for i, k in zip(ranked, suggested, strict=True)
    ]  # fmt: skip


def estimated_wrong(probabilities: np.ndarray, labels: np.ndarray) -> int:
    """How many labels are probably wrong, by the off-diagonal entries of the confident joint.

    Args:
        probabilities: as for `doubtful`.
        labels: int64 (N,).
    """
    from cleanlab.count import num_label_issues

    return int(num_label_issues(labels, probabilities))
