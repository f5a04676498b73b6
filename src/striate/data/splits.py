"""Which images go where: a stratified split, drawn by seed."""

import numpy as np


def count_of_second(total: int, size: float) -> int:
    """How many of `total` images the second part of a split has; `size` as in `stratified_split`.

    Raises:
        ValueError: the first part would be empty.
    """
    wanted = round(size * total) if size < 1 else int(size)
    if wanted >= total:
        raise ValueError(f"{wanted} of {total} images leave none over")
    return wanted


def stratified_split(labels: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide indices so that every class keeps its share in both parts.

    Args:
        labels: integer classes, shape (N,).
        size: the second part: a fraction below 1, or a count of images.
        seed: the draw. The legacy generator is used because NumPy promises its stream for ever.

    Returns:
        The indices of the first and of the second part, each in ascending order.

    Raises:
        ValueError: the first part would be empty.
    """
    total = len(labels)
    wanted = count_of_second(total, size)
    random = np.random.RandomState(seed)
    classes, counts = np.unique(labels, return_counts=True)
    # Largest remainder: the shares add up to `wanted` and differ from exact ones by less than 1.
    exact = counts * wanted / total
    shares = np.floor(exact).astype(int)
    shares[np.argsort(shares - exact, kind="stable")[: wanted - shares.sum()]] += 1
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in zip(classes, shares, strict=True)
    ]
    second = np.sort(np.concatenate(chosen)).astype(int)
    return np.setdiff1d(np.arange(total), second), second
