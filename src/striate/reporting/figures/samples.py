"""Training images under the names of their classes."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from striate.reporting.figures.fonts import short_names
from striate.reporting.figures.grid import check_labelled, image_grid, square
from striate.reporting.figures.registry import figure
from striate.reporting.numbers import plural
from striate.reporting.results import Results


# The page has a gallery of them instead.
@figure("samples", section=None, alt="Training images of all classes", chart=False)
def draw(results: Results) -> Figure:
    """The training images of an experiment."""
    return samples(results.train_images, results.train_labels, results.classes)


def samples(images: ArrayLike, labels: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw training images in a square grid, each under the name of its class.

    Args:
        images: (N, C, H, W) in 0..1, C is 1 or 3.
        labels: (N,) integers that index `class_names`.
        class_names: one name a class.

    Returns:
        One axes with an image and a text a sample.

    Raises:
        ValueError: the shapes disagree or a label has no name.
    """
    pixels, truth = check_labelled(images, labels, class_names)
    names = short_names(class_names)
    captions = [names[label] for label in truth]
    title = plural(len(pixels), "training image")
    return image_grid(pixels, captions, square(len(pixels)), title)
