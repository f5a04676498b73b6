"""What happens inside a network for one image: filters, feature maps and evidence, as PNGs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from striate.evaluation import heat_maps, inspection
from striate.models.checkpoint import Checkpoint
from striate.reporting.html import AGAINST, FOR, TINY, png_address, strength

QUICK = 1  # of zlib: a page that follows a stroke cannot wait
GAP = 1  # pixels between two tiles
CHANNELS = 64  # of a layer that are shown, at most
FAINTEST = 0.08  # share of the strongest evidence below which a pixel stays clear


def look(trained: Checkpoint, pixels: np.ndarray) -> tuple[Tensor, dict[str, Any]]:
    """Run a network on one image and keep what each layer gives.

    Args:
        trained: the network, in evaluation mode.
        pixels: uint8 (C, H, W).

    Returns:
        Logits, (1, classes); and `layers`, a list of each layer's `name`, number of `channels`,
        `height` and `width` of a map, and its `maps` as one PNG with the channels side by side in
        rows of `columns`; and `heat`, what spoke for the likeliest class, as a PNG.
    """
    inputs = trained.normalization(torch.from_numpy(pixels)[None])
    with torch.no_grad():
        logits = trained.model(inputs)
    maps = inspection.feature_maps(trained.model, inputs)
    evidence = heat_maps.heat_maps(trained.model, inputs, logits.argmax(1))[0]
    layers = [_layer(name, value[0].numpy()) for name, value in maps.items()]
    return logits, {"layers": layers, "heat": heat_png(evidence.numpy())}


def _layer(name: str, maps: np.ndarray) -> dict[str, Any]:
    channels, height, width = maps.shape
    shown = maps[:CHANNELS]
    low, high = min(0.0, float(shown.min())), float(shown.max())
    columns = _columns(len(shown), height, width)
    levels = (shown - low) / max(high - low, TINY)
    return {
        "name": name, "channels": channels, "shown": len(shown), "height": height, "width": width,
        "columns": columns, "maps": _side_by_side(levels, columns),
    }  # fmt: skip


def filters(trained: Checkpoint) -> dict[str, np.ndarray]:
    """What `inspection.last_filters` gives of a network, on the CPU."""
    blank = torch.zeros(1, *trained.description["shape"], dtype=torch.uint8)
    maps = inspection.feature_maps(trained.model, trained.normalization(blank))
    found = inspection.last_filters(
        trained.model, {name: value.shape[1] for name, value in maps.items()}
    )
    return {name: weight.numpy() for name, weight in found.items()}


def filter_png(weights: Mapping[str, np.ndarray], layer: str, channel: int) -> dict[str, Any]:
    """A channel's filter: a tile for each input channel, or one in colour, as a PNG.

    Raises:
        KeyError: the layer has no filters.
        IndexError: it has no such channel.
    """
    kernel = weights[layer][channel][:CHANNELS]
    levels = 0.5 + kernel / (2 * max(float(np.abs(kernel).max()), TINY))
    columns = _columns(len(levels), *levels.shape[1:])
    return {
        "png": _side_by_side(levels, columns), "inputs": len(weights[layer][channel]),
        "columns": columns, "shown": len(levels),
    }  # fmt: skip


def heat_png(evidence: np.ndarray) -> str:
    """Evidence (H, W) as a PNG to lay over the image: red for, blue against, clear where weak."""
    shown = strength(evidence)
    colours = np.where(evidence[..., None] > 0, FOR, AGAINST)
    alpha = np.where(shown < FAINTEST, 0, 230 * np.sqrt(shown))
    layered = np.concatenate([colours, alpha[..., None]], axis=2).round().astype(np.uint8)
    return png_address(Image.fromarray(layered, "RGBA"), compress_level=QUICK)


def _columns(count: int, height: int, width: int) -> int:
    """Columns that make the tiles together about four times as wide as high."""
    return max(1, min(count, round(math.sqrt(4 * count * height / width))))


def _side_by_side(tiles: np.ndarray, columns: int) -> str:
    """Tiles (n, h, w) from 0 to 1 in rows, as a PNG; behind and below each is a clear gap."""
    count, height, width = tiles.shape
    rows = -(-count // columns)
    cells = np.zeros((rows * columns, height + GAP, width + GAP, 2), np.uint8)
    cells[:count, :height, :width, 0] = (255 * tiles).round()
    cells[:count, :height, :width, 1] = 255
    table = cells.reshape(rows, columns, height + GAP, width + GAP, 2).swapaxes(1, 2)
    pixels = np.ascontiguousarray(table).reshape(rows * (height + GAP), -1, 2)
    return png_address(Image.fromarray(pixels, "LA"), compress_level=QUICK)
