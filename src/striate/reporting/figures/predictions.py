"""Test images with their predictions, and the most confident mistakes."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from striate.evaluation.predictions import SHOWN_MISTAKES
from striate.evaluation.scores import surest_mistakes
from striate.reporting.figures.grid import (
    check_labelled,
    check_logits,
    image_grid,
    page,
    predicted_and_true,
    square,
)
from striate.reporting.figures.registry import figure
from striate.reporting.figures.style import MISTAKE
from striate.reporting.numbers import plural
from striate.reporting.results import Results


# The page has galleries of both instead.
@figure("predictions", section=None, alt="Test images with predicted and true class", chart=False)
def draw_predictions(results: Results) -> Figure:
    """Predictions of an experiment for test images of all classes."""
    chosen = results.selection
    return predictions(
        results.images[chosen], results.labels[chosen], results.logits[chosen], results.classes
    )


@figure("mistakes", section=None, alt="The most confident mistakes", chart=False)
def draw_mistakes(results: Results) -> Figure:
    """The most confident mistakes of an experiment."""
    return confident_mistakes(
        results.images, results.labels, results.logits, results.classes, SHOWN_MISTAKES
    )


def predictions(
    images: ArrayLike, labels: ArrayLike, logits: ArrayLike, class_names: Sequence[str]
) -> Figure:
    """Draw test images ten to a row, each titled "predicted:true".

    A mistake has a bold red title and a red frame.

    Args:
        images: (N, C, H, W) in 0..1, C is 1 or 3.
        labels: (N,) integers that index `class_names`.
        logits: (N, K), one column a class.
        class_names: K names.

    Returns:
        One axes with an image and a text a prediction, and a patch a mistake; the figure's
        title counts the correct predictions.

    Raises:
        ValueError: the shapes disagree or a label has no name.
    """
    pixels, truth = check_labelled(images, labels, class_names)
    guesses = check_logits(logits, truth, class_names).argmax(axis=1)
    captions = predicted_and_true(guesses, truth, class_names)
    correct = int((guesses == truth).sum())
    title = f"predicted:true, {correct} of {plural(len(pixels), 'image')} correct"
    figure = image_grid(pixels, captions, min(10, len(pixels)), title)
    axes = figure.axes[0]
    for index in np.flatnonzero(guesses != truth).tolist():
        axes.texts[index].set(color=MISTAKE, weight="bold")
        x0, x1, y1, y0 = axes.images[index].get_extent()
        frame = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=MISTAKE, linewidth=2.5)
        axes.add_patch(frame)
    return figure


def confident_mistakes(
    images: ArrayLike,
    labels: ArrayLike,
    logits: ArrayLike,
    class_names: Sequence[str],
    count: int,
) -> Figure:
    """Draw the most confident mistakes, the most confident first.

    Each is titled "predicted:true" with the softmax probability of the predicted class below.

    Args:
        images: (N, C, H, W) in 0..1, C is 1 or 3.
        labels: (N,) integers that index `class_names`.
        logits: (N, K), one column a class.
        class_names: K names.
        count: the most images to draw, at least 1.

    Returns:
        One axes with an image and a text a mistake, or a sentence if there is none.

    Raises:
        ValueError: the shapes disagree, a label has no name or `count` is below 1.
    """
    pixels, truth = check_labelled(images, labels, class_names)
    scores = check_logits(logits, truth, class_names)
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    wrong, confidence = surest_mistakes(scores, truth)
    if len(wrong) == 0:
        return page(f"There are no mistakes in {plural(len(truth), 'image')}.", 0, 0)[0]

    chosen = wrong[:count]
    pairs = predicted_and_true(scores[chosen].argmax(axis=1), truth[chosen], class_names)
    captions = [f"{pair}\n{share:.1%}" for pair, share in zip(pairs, confidence, strict=False)]
    mistakes = f"{plural(len(wrong), 'mistake')} in {plural(len(truth), 'image')}"
    title = mistakes if len(chosen) == len(wrong) else f"{len(chosen)} most confident of {mistakes}"
    return image_grid(pixels[chosen], captions, square(len(chosen)), f"predicted:true, {title}")
