"""Check params against the size and the number of the images, before any is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from striate.data.splits import check_selection, validation_count
from striate.errors import UserError
from striate.models.sizing import check_last_batch

if TYPE_CHECKING:
    from striate.config.params import Augment, Params


def check(
    params: Params,
    shape: Sequence[int],
    classes: int,
    count: int,
    processes: int = 1,
    given: int = 0,
) -> None:
    """Refuse params that no training on these images can have.

    Args:
        params: all of params.yaml.
        shape: channels, height and width of an image.
        classes: how many there are.
        count: training images, before any is held out.
        processes: among which each batch is divided.
        given: images of a validation set that the data set has itself.

    Raises:
        UserError: names the key and the largest possible value.
    """
    network, shrink = params.model, params.augment.shrink
    check_augment(params.augment, shape)
    network.check_fits(shape, classes)
    if 0 < shrink < (smallest := network.smallest_side()):
        raise UserError(
            f"augment.shrink is {shrink}, too small for {network.size_keys};"
            f" the smallest possible value is {smallest}, or 0"
        )
    if shrink:
        try:
            network.check_size((shrink, shrink))
        except UserError as error:
            raise UserError(f"augment.shrink is {shrink}, and {error}") from None
    held_out = validation_count(params.data.val_size, params.data.fold, count, given)
    check_selection(params.training, held_out or given)
    if network.normalizes_one_value(shrink or min(shape[1:])):
        training = params.training
        left = params.data.per_class * classes or count - held_out
        check_last_batch(left, training.batch_size, processes, training.accumulate)


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
