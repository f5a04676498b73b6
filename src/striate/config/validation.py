"""What params may be together for images of a given size and number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from striate.errors import UserError

if TYPE_CHECKING:
    from striate.config.params import Augment, Params
from striate.data.splits import check_selection, validation_count
from striate.models.sizing import check_last_batch, check_network


def check(
    params: Params, shape: Sequence[int], classes: int, count: int, processes: int = 1
) -> None:
    """Refuse params that no training on these images can have.

    Args:
        params: all of params.yaml.
        shape: channels, height and width of an image.
        classes: how many there are.
        count: training images, before any is held out.
        processes: among which each batch is divided.

    Raises:
        UserError: names the key and the largest possible value.
    """
    model = params.model.model_dump()
    check_augment(params.augment, shape)
    check_network(model, shape, classes)
    smallest = 2**params.model.layers + max(params.model.whiten - 1, 0)
    if 0 < params.augment.shrink < smallest:
        raise UserError(
            f"augment.shrink is {params.augment.shrink}, too small for model.layers and"
            f" model.whiten; the smallest possible value is {smallest}, or 0"
        )
    held = validation_count(params.data.val_size, count)
    check_selection(params.training, held)
    learnt = count - held
    side = params.augment.shrink or min(shape[1:])
    check_last_batch(model, side, learnt, params.training.batch_size, processes)


def check_augment(settings: Augment, shape: Sequence[int]) -> None:
    """Refuse lengths that do not fit images of this shape: channels, height, width.

    Raises:
        UserError: names the key and the largest possible value.
    """
    _, height, width = shape
    smaller = min(height, width)
    for key, largest in (("translate", smaller - 1), ("cutout", smaller), ("shrink", smaller)):
        value = getattr(settings, key)
        if value > largest:
            raise UserError(
                f"augment.{key} is {value}, too large for images of {height}×{width} pixels; "
                f"the largest possible value is {largest}"
            )
