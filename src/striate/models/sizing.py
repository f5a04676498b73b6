"""Sizes of images inside a network and numbers of its parameters, in plain arithmetic.

It needs neither torch nor pydantic, so that networks and their configs share it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from striate.errors import UserError

LENET5_WIDTHS = (6, 16, 120, 84)  # C1, C3, C5 and F6 of the paper
GABOR_PHASES = 4  # of each orientation of a Gabor filter
HALVINGS = 2  # of an image in the recurrent network
STAGES = 3  # of a residual network for small images
TIMM_STRIDE = 32  # by which most networks of timm divide height and width
MLP_RATIO = 4  # hidden units of a transformer's MLP, as a multiple of its width
MAX_PARAMETERS = 2**28  # 1 GiB, and three times as much again to train them with Adam


def channels(width: int | list[int], layers: int) -> list[int]:
    """The channels of each layer: `width` doubled from layer to layer, or as listed."""
    return width if isinstance(width, list) else [width << number for number in range(layers)]


def equal_widths(width: int | list[int], layers: int) -> list[int]:
    """The units of each layer: `width` in all of them, or as listed."""
    return width if isinstance(width, list) else [width] * layers


def lenet5_padding(side: int) -> tuple[int, int]:
    """Pixels before and behind a side of an image, which make it a multiple of 16."""
    missing = -side % 16
    return missing // 2, missing - missing // 2


def lenet5_sides(size: Sequence[int]) -> tuple[int, int]:
    """Height and width of the feature maps before C5, which its filters cover.

    Args:
        size: height and width of an image.
    """
    height, width = (-(-side // 16) * 4 - 3 for side in size)  # (16 m - 4) / 2 = 8 m - 2, …
    return height, width


def side_after_whitening(side: int, whiten: int) -> int:
    """The side of an image behind whitening filters of side `whiten`; 0 means that it has none."""
    return side - max(whiten - 1, 0)


def side_after_layers(side: int, layers: int, pool: str) -> int:
    """The side of an image that each layer halves: pooling rounds down, a stride rounds up."""
    return -(-side >> layers) if pool == "stride" else side >> layers


def check_layers(layers: int, size: Sequence[int], whiten: int = 0) -> None:
    """Refuse more layers than an image can be halved.

    Args:
        layers: how many layers halve the image, rounding down.
        size: height and width of the image.
        whiten: side of the whitening filters in front, which take `whiten` - 1 pixels off.

    Raises:
        UserError: names the key and the largest possible value.
    """
    smaller = side_after_whitening(min(size), whiten)
    most = max(smaller, 0).bit_length() - 1
    pixels = f"images of {size[0]}×{size[1]} pixels"
    if most < 1 and min(size) > 1:
        raise UserError(
            f"model.whiten is {whiten}, too large for {pixels};"
            f" the largest possible value is {min(size) - 1}"
        )
    if layers > most:
        raise UserError(
            f"model.layers is {layers}, too many for {pixels}, "
            f"which each layer halves; the largest possible value is {most}"
        )


def check_patch(patch: int, size: Sequence[int]) -> None:
    """Refuse patches that do not tile an image.

    Args:
        patch: side of a patch in pixels.
        size: height and width of the image.

    Raises:
        UserError: names the key and the possible values.
    """
    if any(side % patch for side in size):
        both = math.gcd(*size)
        possible = [str(side) for side in range(1, both + 1) if both % side == 0]
        raise UserError(
            f"model.patch is {patch}, which does not tile images of {size[0]}×{size[1]} pixels;"
            f" it must be one of {', '.join(possible)}"
        )


def conv_channels(
    inputs: int, widths: list[int], convs_per_layer: int
) -> Iterator[tuple[int, int]]:
    """Input and output channels of each convolution, for layers of several convolutions."""
    for outputs in widths:
        for _ in range(convs_per_layer):
            yield inputs, outputs
            inputs = outputs


def conv_parameters(inputs: int, outputs: int, kernel_size: int, *, bias: bool, norm: bool) -> int:
    """Count the parameters of a square convolution and of the norm behind it, if any.

    A linear layer counts as a convolution of one pixel.
    """
    return inputs * outputs * kernel_size**2 + outputs * (int(bias) + 2 * int(norm))


def count_parts(batch: int, processes: int, accumulate: int) -> int:
    """In how many passes each process computes its part of a batch.

    All take equally many, as norms that see all processes need it. A batch of few images takes
    fewer passes, so that none is empty in the process that has the most images.

    Args:
        batch: images in it.
        processes: among which it is divided, into parts that differ by one at most.
        accumulate: `training.accumulate`.
    """
    return max(1, min(accumulate, -(-batch // processes)))


def check_last_batch(count: int, batch_size: int, processes: int = 1, accumulate: int = 1) -> None:
    """Refuse a step in which a norm sees a single image.

    Call it where a single image leaves a batch norm one value a channel, which has no deviation.

    Args:
        count: training images.
        batch_size: images in a step.
        processes: among which each batch is divided, into parts that differ by one at most.
        accumulate: into how many such parts a process divides its part.

    Raises:
        UserError: names the key and what else would do.
    """
    last = count % batch_size or batch_size
    for batch in (min(batch_size, count), last):
        passes = count_parts(batch, processes, accumulate)
        ends = {batch // processes, -(-batch // processes)}
        if 1 in {size for end in ends for size in (end // passes, -(-end // passes))}:
            break
    else:
        return
    parts = processes * count_parts(last, processes, accumulate)
    said = "" if parts == 1 else f", in {parts} parts, one of a single image"
    raise UserError(
        f"training.batch_size is {batch_size}, which leaves {last:,} of {count:,} images to the"
        f" last step{said}: too few for a batch norm where a channel has one value; choose"
        f" another size{' or a smaller training.accumulate' if accumulate > 1 else ''}"
    )
