"""What params may be together, and for images of a given size and number.

Plain arithmetic, so that a stage can refuse before it fetches anything, without loading torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from striate.errors import UserError

if TYPE_CHECKING:
    pass

MOST_WEIGHTS = 2**28  # 1 GiB of them, and thrice as much again to train them with Adam


def check_layers(layers: int, size: Sequence[int], whiten: int) -> None:
    """Refuse more layers than images of a size can be halved.

    Args:
        layers: how many are asked for.
        size: height and width of an image.
        whiten: side of the filters in front, which take `whiten` - 1 pixels off.

    Raises:
        UserError: names the key and the largest possible value.
    """
    smaller = _whitened(min(size), whiten)
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


def check_network(model: dict[str, Any], shape: Sequence[int], classes: int) -> None:
    """Refuse a network that does not fit the images, or that is too large for any machine.

    Args:
        model: the section `model` of params.yaml.
        shape: channels, height and width of an image.
        classes: how many there are.

    Raises:
        UserError: names the keys.
    """
    check_layers(model["layers"], shape[1:], model["whiten"])
    found = weights(model, shape, classes)
    if found > MOST_WEIGHTS:
        raise UserError(
            f"model.width, layers, kernel_size and convs_per_layer make {found:,} weights;"
            f" the largest possible number is {MOST_WEIGHTS:,}"
        )


def weights(model: dict[str, Any], shape: Sequence[int], classes: int) -> int:
    """How many weights the convolutions and the linear layer of a network have, without biases."""
    (inputs, *size), area, total = shape, model["kernel_size"] ** 2, 0
    if whiten := model["whiten"]:
        total = 2 * (inputs * whiten**2) ** 2
        inputs, size = 2 * inputs * whiten**2, [_whitened(side, whiten) for side in size]
    width, layers = model["width"], model["layers"]
    for outputs in width if isinstance(width, list) else [width << n for n in range(layers)]:
        total += (inputs + (model["convs_per_layer"] - 1) * outputs) * outputs * area
        inputs = outputs
    pixels = 1 if model["arch"] == "speedrun" else (size[0] >> layers) * (size[1] >> layers)
    return total + int(inputs * pixels * classes)


def check_last_batch(
    model: dict[str, Any], side: int, count: int, batch_size: int, processes: int = 1
) -> None:
    """Refuse to normalise a batch of one value a channel, which has no deviation.

    The speedrun network normalises after it has pooled, so its last layer may see single pixels.

    Args:
        model: the section `model` of params.yaml.
        side: the smaller one of the smallest images.
        count: images to learn from.
        batch_size: images in a step.
        processes: among which each batch is divided, into parts that differ by one at most.

    Raises:
        UserError: names the key and what else would do.
    """
    pixels = _whitened(side, model["whiten"]) >> model["layers"]
    if not (model["arch"] == "speedrun" and model["norm"] == "batch" and pixels == 1):
        return
    last = count % batch_size or batch_size
    batches = (min(batch_size, count), last)
    if 1 not in {
        size for batch in batches for size in (batch // processes, -(-batch // processes))
    }:
        return
    of_them = "" if processes == 1 else f", in {processes} parts, one of a single image"
    raise UserError(
        f"training.batch_size is {batch_size}, which leaves {last:,} of {count:,} images to the"
        f" last step{of_them}: too few for model.norm=batch where the layers leave 1 pixel; choose"
        " another size, or fewer model.layers"
    )


def _whitened(side: int, whiten: int) -> int:
    """The side of an image behind the whitening filters."""
    return side - max(whiten - 1, 0)
