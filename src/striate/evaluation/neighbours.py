"""The training images that a network takes for the most similar to an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from striate.models.registry import Network

MOST_COMPARED = 10_000  # training images, so that looking for neighbours costs about a scoring


def compared(count: int) -> np.ndarray:
    """The indices of the training images among which neighbours are looked for, ascending.

    All if there are few, else equally far apart: whole classes may lie side by side.
    """
    return np.unique(np.linspace(0, count - 1, min(count, MOST_COMPARED)).astype(int))


@torch.no_grad()
def nearest(
    model: Network,
    images: Tensor,
    others: Iterable[tuple[Tensor, Tensor]],
    normalize: Callable[[Tensor], Tensor],
    *,
    count: int,
) -> Tensor:
    """The images whose last features have the smallest angle to those of an image.

    Args:
        model: in evaluation mode, on the device of all images.
        images: uint8 (N, C, H, W).
        others: batches among which the nearest are looked for, each with its images' indices, int64
            (M,), and the images, uint8 (M, C, H, W).
        normalize: uint8 images → inputs of the network.
        count: how many for each image; of fewer others, all.

    Returns:
        Their indices, the nearest first, int64 (N, count).
    """

    def directions(batch: Tensor) -> Tensor:
        return F.normalize(model.features(normalize(batch)).float().flatten(1), dim=1)

    wanted = directions(images)
    best = wanted.new_empty(len(images), 0)
    indices = torch.empty_like(best, dtype=torch.int64)
    for own, batch in others:
        found = wanted @ directions(batch).T
        best = torch.cat([best, found], 1)
        indices = torch.cat([indices, own.to(found.device).expand_as(found).long()], 1)
        best, kept = best.topk(min(count, best.shape[1]), 1)
        indices = indices.gather(1, kept)
    return indices
