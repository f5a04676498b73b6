"""The training images that a network takes for the most similar to an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from striate.models.registry import Network


@torch.no_grad()
def nearest(
    model: Network,
    images: Tensor,
    others: Iterable[Tensor],
    normalize: Callable[[Tensor], Tensor],
    *,
    count: int,
) -> Tensor:
    """The images whose last features have the smallest angle to those of an image.

    Args:
        model: in evaluation mode, on the device of all images.
        images: uint8 (N, C, H, W).
        others: batches, each uint8 (M, C, H, W), among which the nearest are looked for.
        normalize: uint8 images → inputs of the network.
        count: how many for each image; of fewer others, all.

    Returns:
        Their indices over all batches, the nearest first, int64 (N, count).
    """

    def directions(batch: Tensor) -> Tensor:
        return F.normalize(model.features(normalize(batch)).float().flatten(1), dim=1)

    wanted, seen = directions(images), 0
    best = wanted.new_empty(len(images), 0)
    indices = torch.empty_like(best, dtype=torch.int64)
    for batch in others:
        found = wanted @ directions(batch).T
        places = torch.arange(seen, seen + len(batch), device=found.device)
        best = torch.cat([best, found], 1)
        indices = torch.cat([indices, places.expand_as(found)], 1)
        best, kept = best.topk(min(count, best.shape[1]), 1)
        indices = indices.gather(1, kept)
        seen += len(batch)
    return indices
