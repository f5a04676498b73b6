"""Normalisation: pixels → inputs of a network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """How a pixel becomes an input of the network: `(pixel / peak - mean) / std`."""

    peak: int
    mean: list[float] | None  # of each channel; None leaves pixels between 0 and 1
    std: list[float] | None

    def __call__(self, images: Tensor) -> Tensor:
        """Pixels (N, C, H, W), uint8 or float → float32 of the same shape and memory format."""
        # One division, as in torchvision's ToTensor, so that results agree to the last bit. A copy,
        # because a served model gets floats, which would change in place.
        inputs = images.to(torch.float32, copy=True).div_(self.peak)
        if self.mean is None or self.std is None:
            return inputs
        # With channels innermost, whole rows are much faster than three numbers at a time.
        by_row = inputs.is_contiguous(memory_format=torch.channels_last)
        width = inputs.shape[3] if by_row else 0
        # A tensor made under torch.export belongs to that export and must not be cached.
        made = _by_channel.__wrapped__ if torch.compiler.is_compiling() else _by_channel
        mean, std = made(tuple(self.mean), tuple(self.std), width, images.device)
        view = inputs.permute(0, 2, 3, 1).flatten(2) if by_row else inputs
        view.sub_(mean).div_(std)
        return inputs


@cache
def _by_channel(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Both as (C, 1, 1), or repeated over a row, (width × C)."""
    pair = (torch.tensor(value, device=device) for value in (mean, std))
    first, second = (t.repeat(width) if width else t[:, None, None] for t in pair)
    return first, second


def pick_normalization(manifest: dict[str, Any], mode: str) -> Normalization:
    """The normalisation of a data set.

    Args:
        manifest: of the data set.
        mode: `unit` or `standard`, as `data.normalize` has it.
    """
    if mode == "unit":
        return Normalization(manifest["peak"], None, None)
    return Normalization(manifest["peak"], manifest["mean"], manifest["std"])
