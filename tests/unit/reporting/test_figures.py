import dataclasses
import itertools
import re
from functools import partial

import numpy as np
import pytest
from made_up import made_up_results
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.font_manager import FontEntry
from PIL import Image

from striate.reporting import report, seeds
from striate.reporting.figures import fonts, grid, registry, style
from striate.reporting.figures.attention import attention
from striate.reporting.figures.calibration import calibration
from striate.reporting.figures.confusion import confusion_matrix
from striate.reporting.figures.curves import learning_curves, overlaid_curves
from striate.reporting.figures.feature_maps import feature_maps
from striate.reporting.figures.filters import filters
from striate.reporting.figures.predictions import confident_mistakes, predictions
from striate.reporting.figures.samples import samples
from striate.reporting.figures.seeds import accuracies
from striate.reporting.figures.trade_off import MAX_NAMED, Panel, trade_off

DIGITS = [str(digit) for digit in range(10)]
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def dataset(count, channels=1, size=8, classes=10):
    random = np.random.default_rng(0)
    images = random.random((count, channels, size, size), dtype=np.float32)
    return images, random.integers(0, classes, count)


def sure_logits(predicted, classes=10, strength=8.0):
    """Logits whose largest column is `predicted`."""
    logits = np.zeros((len(predicted), classes), dtype=np.float32)
    logits[np.arange(len(predicted)), predicted] = strength
    return logits


def captions(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def tiles(figure):
    """The images of the only axes, each with its caption right above it."""
    (axes,) = figure.axes
    for text, (left, top, width, _) in zip(axes.texts, boxes(figure), strict=True):
        x, y = text.get_position()
        assert x == (left if text.get_ha() == "left" else left + width / 2)
        assert text.get_va() == "baseline"
        assert 0 < top - y < grid.CAPTION / 2
    return list(axes.images)


def pixels(figure):
    return [np.ma.filled(image.get_array(), np.nan) for image in tiles(figure)]


def boxes(figure):
    """Left, top, width and height of each image in pixels."""
    extents = [image.get_extent() for image in figure.axes[0].images]
    return [(left, top, right - left, bottom - top) for left, right, bottom, top in extents]


def assert_crisp(figure, path, border=0):
    """In the PNG a pixel of an image is a square of one colour, but for `border` at its edge."""
    style.save(figure, path)
    page = np.asarray(Image.open(path).convert("RGBA"))
    inside = slice(border, -border or None)
    for image, (left, top, width, height) in zip(tiles(figure), boxes(figure), strict=True):
        colours = image.to_rgba(image.get_array(), bytes=True)
        colours[colours[..., 3] == 0] = 255  # the page shows through the gaps
        scale = width // colours.shape[1]
        assert (height, width) == (scale * colours.shape[0], scale * colours.shape[1])
        squares = colours.repeat(scale, axis=0).repeat(scale, axis=1)
        drawn = page[top : top + height, left : left + width]
        np.testing.assert_array_equal(drawn[inside, inside], squares[inside, inside])
    return page


def assert_titles_keep_apart(figure):
    """No two texts overlap, and none leaves the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    page = figure.bbox
    texts = [*figure.axes[0].texts, figure._suptitle]
    extents = [text.get_window_extent(renderer) for text in texts]
    for index, box in enumerate(extents):
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
        for other in extents[index + 1 :]:
            assert not box.overlaps(other), (texts[index].get_text(), box, other)


class TestSamples:
    def test_all_in_order(self):
        images, labels = dataset(50)
        figure = samples(images, labels, DIGITS)
        assert captions(figure) == [str(label) for label in labels]
        np.testing.assert_array_equal(pixels(figure), images[:, 0])

    def test_grid_is_square(self):
        places = boxes(samples(*dataset(36), DIGITS))
        lefts, tops = (sorted({box[side] for box in places}) for side in (0, 1))
        assert len(lefts) == len(tops) == 6
        assert [box[:2] for box in places] == [(left, top) for top in tops for left in lefts]
        assert {box[2:] for box in places} == {(136, 136)}  # 8 pixels, 17 times as large

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_fewer_images(self, count):
        figure = samples(*dataset(count), DIGITS)
        assert len(tiles(figure)) == count
        assert figure.get_suptitle() == f"{count} training image{'s' * (count > 1)}"

    def test_grey_scale_is_absolute(self):
        figure = samples(np.full((1, 1, 4, 4), 0.5), [0], DIGITS)
        (image,) = tiles(figure)
        assert image.get_clim() == (0, 1)
        assert image.get_cmap().name == "gray"
        assert image.get_interpolation() == "nearest"

    def test_colour_channels_go_last(self):
        images = np.zeros((1, 3, 4, 4), dtype=np.float32)
        images[0, 2] = 1  # blue
        figure = samples(images, [0], CIFAR)
        np.testing.assert_array_equal(pixels(figure)[0][0, 0], [0, 0, 1])

    @pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 28), (3, 32)])
    def test_crisp(self, channels, size, tmp_path):
        figure = samples(*dataset(36, channels, size), DIGITS)
        assert_crisp(figure, tmp_path / "samples.png")


class TestFilters:
    def test_mosaic_places_every_weight(self):
        weight = np.arange(5 * 2 * 3 * 3, dtype=np.float32).reshape(5, 2, 3, 3)
        figure = filters(weight, "conv1")
        assert captions(figure) == ["input channel 0", "input channel 1"]
        for channel, mosaic in enumerate(pixels(figure)):
            # 5 kernels in 2 rows of 3, 3 pixels each with 1 between.
            assert mosaic.shape == (7, 11)
            for kernel in range(5):
                top, left = 4 * (kernel // 3), 4 * (kernel % 3)
                np.testing.assert_array_equal(
                    mosaic[top : top + 3, left : left + 3], weight[kernel, channel]
                )
            assert np.isnan(mosaic[3]).all()
            assert np.isnan(mosaic[:, [3, 7]]).all()
            assert np.isnan(mosaic[4:, 8:]).all()

    def test_one_scale_symmetric_about_zero(self):
        weight = np.zeros((4, 6, 3, 3))
        weight[1, 2, 0, 0] = -0.75
        weight[0, 5, 1, 1] = 0.5
        figure = filters(weight, "conv1")
        assert len(tiles(figure)) == 6
        assert {image.get_clim() for image in tiles(figure)} == {(-0.75, 0.75)}

    def test_colour_bar(self):
        figure = filters(np.full((4, 1, 3, 3), 0.25), "conv1")
        (bar,) = figure.axes[0].child_axes
        assert [label.get_text() for label in bar.get_yticklabels()] == ["−0.25", "0", "0.25"]

    @pytest.mark.parametrize(("inputs", "columns"), [(1, 1), (6, 3), (32, 8)])
    def test_colour_bar_stands_beside_the_first_row(self, inputs, columns):
        figure = filters(np.ones((4, inputs, 3, 3)), "conv1")
        places = boxes(figure)
        left, top, width, height = places[columns - 1]
        assert [box for box in places if box[1] == top] == places[:columns]
        (bar,) = figure.axes[0].child_axes
        drawn = bar.get_window_extent(FigureCanvasAgg(figure).get_renderer())
        beside = (left + width + 30, figure.bbox.height - top - height, 18, height)
        assert drawn.bounds == pytest.approx(beside)

    def test_rgb(self):
        figure = filters(np.ones((16, 3, 5, 5)), "conv1")
        assert captions(figure) == ["red", "green", "blue"]
        assert len({top for _, top, _, _ in boxes(figure)}) == 1

    @pytest.mark.parametrize(
        ("shape", "panels", "kernels", "note"),
        [
            ((16, 1, 5, 5), 1, 16, None),
            ((64, 32, 3, 3), 32, 64, None),
            ((65, 2, 3, 3), 2, 64, "first 64 of 65 kernels a panel"),
            ((4, 70, 3, 3), 64, 4, "first 64 of 70 input channels"),
            (
                (256, 128, 1, 1),
                64,
                64,
                "first 64 of 128 input channels; first 64 of 256 kernels a panel",
            ),
        ],
    )
    def test_cap(self, shape, panels, kernels, note):
        weight = np.random.default_rng(0).normal(size=shape)
        figure = filters(weight, "conv2")
        assert len(tiles(figure)) == panels
        assert np.isfinite(pixels(figure)[-1]).sum() == kernels * shape[2] * shape[3]
        assert figure.get_suptitle() == ("conv2" if note is None else f"conv2\n{note}")
        assert_titles_keep_apart(figure)

    @pytest.mark.parametrize("shape", [(16, 1, 5, 5), (32, 4, 5, 5), (32, 16, 3, 3)])
    def test_a_weight_is_a_whole_number_of_pixels(self, shape, tmp_path):
        figure = filters(np.random.default_rng(0).normal(size=shape), "conv1")
        for (_, _, width, _), mosaic in zip(boxes(figure), pixels(figure), strict=True):
            assert width % mosaic.shape[1] == 0
            assert width // mosaic.shape[1] >= 4
        assert_crisp(figure, tmp_path / "filters.png")

    @pytest.mark.parametrize("value", [0, np.nan])
    def test_dead_weights(self, value, tmp_path):
        figure = filters(np.full((2, 2, 3, 3), value), "conv1")
        assert tiles(figure)[0].get_clim() == (-1, 1)
        style.save(figure, tmp_path / "dead.png")

    @pytest.mark.parametrize("shape", [(16, 5, 5), (16,), (0, 1, 3, 3)])
    def test_bad_shape(self, shape):
        with pytest.raises(ValueError, match=re.escape(f"not {shape}")):
            filters(np.zeros(shape), "conv1")


class TestPredictions:
    def test_mistakes_are_marked(self):
        images, _ = dataset(4, channels=3)
        labels, predicted = np.array([0, 1, 2, 3]), np.array([0, 9, 2, 5])
        figure = predictions(images, labels, sure_logits(predicted), CIFAR)
        assert captions(figure) == ["airplane:airplane", "truck:automobile", "bird:bird", "dog:cat"]
        assert figure.get_suptitle() == "predicted:true, 2 of 4 images correct"
        (axes,) = figure.axes
        for text, right in zip(axes.texts, [True, False, True, False], strict=True):
            assert same_color(text.get_color(), style.INK if right else style.MISTAKE)
            assert text.get_weight() == ("normal" if right else "bold")
        assert [patch.get_bbox().bounds for patch in axes.patches] == boxes(figure)[1::2]
        for patch in axes.patches:
            assert same_color(patch.get_edgecolor(), style.MISTAKE)
            assert not patch.get_fill()

    def test_frames_are_on_the_page(self, tmp_path):
        images, labels = dataset(4, channels=3)
        predicted = np.where([True, False, True, False], labels, (labels + 1) % 10)
        figure = predictions(images, labels, sure_logits(predicted), CIFAR)
        page = assert_crisp(figure, tmp_path / "predictions.png", border=4)
        red = np.array([0xC8, 0x10, 0x2E, 0xFF])
        for index, (left, top, width, height) in enumerate(boxes(figure)):
            edges = [
                page[top, left : left + width],
                page[top + height - 1, left : left + width],
                page[top : top + height, left],
                page[top : top + height, left + width - 1],
            ]
            assert all((edge == red).all() == index % 2 for edge in edges)

    def test_more_than_a_row(self):
        images, labels = dataset(120)
        predicted = labels.copy()
        predicted[[5, 110]] = (labels[[5, 110]] + 1) % 10
        figure = predictions(images, labels, sure_logits(predicted), DIGITS)
        assert len(tiles(figure)) == 120
        assert figure.get_suptitle() == "predicted:true, 118 of 120 images correct"
        np.testing.assert_array_equal(pixels(figure), images[:, 0])

    def test_long_names_keep_apart(self):
        images, _ = dataset(30, channels=3, size=32)
        labels, predicted = np.full(30, 1), np.full(30, 0)
        assert_titles_keep_apart(predictions(images, labels, sure_logits(predicted), CIFAR))

    def test_one_image(self):
        figure = predictions(*dataset(1), sure_logits([3]), DIGITS)
        assert len(tiles(figure)) == 1
        assert_titles_keep_apart(figure)

    def test_dollars_are_letters(self, tmp_path):
        names = ["$x_1", "b"]
        figure = predictions(np.ones((1, 1, 4, 4)), [0], sure_logits([0], classes=2), names)
        assert captions(figure) == ["$x_1:$x_1"]
        assert not figure.axes[0].texts[0].get_parse_math()
        style.save(figure, tmp_path / "dollars.png")


HISTORY = {
    "epoch": [1, 2, 3],
    "train_loss": [2.0, 1.0, 0.5],
    "val_loss": [2.1, 1.2, 0.8],
    "train_accuracy": [0.3, 0.6, 0.9],
    "val_accuracy": [0.2, 0.5, 0.7],
    "learning_rate": [0.1, 0.1, 0.01],
}


class TestLearningCurves:
    def test_lines(self):
        loss, accuracy = learning_curves(HISTORY).axes
        for axes, quantity, scale in [(loss, "loss", 1), (accuracy, "accuracy", 100)]:
            assert [line.get_label() for line in axes.lines] == ["training", "validation"]
            for line, prefix in zip(axes.lines, ["train", "val"], strict=True):
                np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
                expected = np.multiply(HISTORY[f"{prefix}_{quantity}"], scale)
                np.testing.assert_allclose(line.get_ydata(), expected)
        assert accuracy.get_title("left") == "accuracy (%)"

    def test_without_validation(self):
        history = {name: HISTORY[name] for name in ["epoch", "train_loss", "train_accuracy"]}
        for axes in learning_curves(history).axes:
            assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training"]

    def test_a_panel_without_curves_says_so(self):
        history = {name: HISTORY[name] for name in ["epoch", "train_loss"]}
        _, accuracy = learning_curves(history).axes
        assert [text.get_text() for text in accuracy.texts] == ["not recorded"]

    @pytest.mark.parametrize("epochs", [1, 2, 3, 7, 200])
    def test_ticks_are_epochs(self, epochs):
        history = {"epoch": np.arange(1, epochs + 1), "train_loss": np.ones(epochs)}
        axes = learning_curves(history).axes[0]
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)

    def test_one_epoch_is_a_visible_point(self):
        history = {name: values[:1] for name, values in HISTORY.items()}
        for axes in learning_curves(history).axes:
            assert all(line.get_marker() == "o" for line in axes.lines)
            low, high = axes.get_xlim()
            assert low < 1 < high

    def test_a_diverged_loss_can_be_drawn(self, tmp_path):
        history = {"epoch": [1, 2, 3], "train_loss": [1.0, np.inf, np.nan]}
        style.save(learning_curves(history), tmp_path / "diverged.png")

    @pytest.mark.parametrize(
        ("history", "sentence"),
        [
            ({}, "'epoch'"),
            ({"epoch": [], "train_loss": []}, "at least one epoch"),
            ({"epoch": [1, 2], "val_loss": [1.0]}, "'val_loss' has 1 values for 2 epochs"),
        ],
    )
    def test_bad_history(self, history, sentence):
        with pytest.raises(ValueError, match=sentence):
            learning_curves(history)


class TestOverlaidCurves:
    def test_a_colour_for_each_training_and_a_line_style_for_each_part(self):
        short = {"epoch": [1], "train_loss": [2.0]}
        loss, accuracy = overlaid_curves({"<a>": HISTORY, "$b$": short}).axes
        lines = [line for line in loss.lines if len(line.get_xdata())]
        drawn = [(line.get_color(), line.get_linestyle()) for line in lines]
        first, second = style.PALETTE[:2]
        assert drawn == [(first, "-"), (first, "--"), (second, "--")]
        assert [text.get_text() for text in loss.get_legend().texts] == ["<a>", "$b$"]
        assert not any(text.get_parse_math() for text in loss.get_legend().texts)
        expected = 100 * np.array(HISTORY["val_accuracy"])
        assert accuracy.lines[0].get_ydata() == pytest.approx(expected)

    def test_stacked_is_higher_than_wide(self):
        drawn = [
            learning_curves(HISTORY, stacked=True),
            overlaid_curves({"a": HISTORY}, stacked=True),
        ]
        for figure in drawn:
            width, height = figure.get_size_inches()
            assert height > width


class TestTradeOff:
    def test_the_front_is_numbered_and_named_below(self):
        panel = Panel([3.0, 1.0, 2.0, 3.0], [0.9, 0.5, 0.4, 0.9], ["a", "$b$", "c", "d"], [1, 0, 3])
        figure = trade_off({"seconds": panel, "size": panel}, "test accuracy")
        assert [axes.get_xlabel() for axes in figure.axes] == ["seconds", "size"]
        all_points, front = figure.axes[0].collections
        assert all_points.get_offsets().tolist() == [[3, 90], [1, 50], [2, 40], [3, 90]]
        assert front.get_offsets().tolist() == [[1, 50], [3, 90], [3, 90]]
        *numbers, key = (text.get_text() for text in figure.axes[0].texts)
        assert numbers == ["1", "2, 3"]
        assert key == "1  $b$\n2  a\n3  d"
        assert not figure.axes[0].texts[-1].get_parse_math()

    def test_what_cannot_be_compared_is_drawn_apart(self):
        panel = Panel([3.0, 1.0], [0.9, 0.5], ["a", "b"], [1], apart=[0])
        figure = trade_off({"seconds": panel}, "test accuracy")
        beaten, apart, front = figure.axes[0].collections
        assert beaten.get_offsets().tolist() == front.get_offsets().tolist() == [[1, 50]]
        assert apart.get_offsets().tolist() == [[3, 90]]
        assert apart.get_facecolors().size == 0
        (legend,) = figure.legends
        said = [text.get_text() for text in legend.get_texts()]
        assert said == ["beaten by another", "timed elsewhere", "Pareto front"]

    def test_an_interval_is_a_bar_that_does_not_dwarf_the_points(self):
        intervals = [(0.1, 1.0), None, (0.89, 0.91)]
        panel = Panel([1.0, 2.0, 3.0], [0.5, 0.6, 0.9], ["a", "b", "c"], [0, 1, 2], (), intervals)
        figure = trade_off({"size": panel}, "test accuracy")
        bars = figure.axes[0].collections[-1].get_segments()
        ends = [[tuple(point) for point in bar] for bar in bars]
        assert ends == [[(1, 10), (1, 100)], [(3, 89), (3, 91)]]
        bottom, top = figure.axes[0].get_ylim()
        assert 0 < bottom < 50
        assert 91 < top < 104
        said = [text.get_text() for text in figure.legends[0].get_texts()]
        assert said[-1] == "95% interval of the mean over seeds"

    @pytest.mark.parametrize("count", [2, 12, 200])
    def test_no_number_nor_legend_covers_another_text_or_point(self, count):
        costs = [1000 * 1.01**n for n in range(count)]
        accuracies = [0.5 + 0.5 * (n + 1) / count for n in range(count)]
        labels = [f"seed={n}, {'long, ' * 30}" for n in range(count)]
        panel = Panel(costs, accuracies, labels, range(count))
        figure = trade_off({"size": panel, "time": panel}, "test accuracy")
        figure.draw_without_rendering()
        (legend,) = figure.legends
        limit = legend.get_window_extent().y0
        keys = []
        for axes in figure.axes:
            *numbers, key = axes.texts
            assert len(numbers) >= min(count, 5)
            boxes = [text.get_window_extent() for text in numbers]
            assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
            assert axes.get_window_extent().y1 < limit
            keys.append(key.get_window_extent())
            assert not keys[-1].overlaps(axes.xaxis.label.get_window_extent())
            assert key.get_text().count("\n") == min(count - 1, MAX_NAMED)
        assert not keys[0].overlaps(keys[1])


class TestSeeds:
    ROWS = (
        {"seed": 0, "val_accuracy": 0.9, "test_accuracy": 0.8},
        {"seed": 3, "val_accuracy": 0.9, "test_accuracy": 0.9},
        {"seed": 5, "val_accuracy": 0.6, "test_accuracy": 0.7},
    )

    def test_a_dot_for_each_seed_and_a_bar_for_the_mean(self):
        (axes,) = accuracies(self.ROWS, seeds.means(self.ROWS), own=3).axes
        assert [label.get_text() for label in axes.get_yticklabels()] == [
            "validation accuracy", "test accuracy",
        ]  # fmt: skip
        validation, own, _, test, also_own, _ = axes.collections
        assert validation.get_offsets()[:, 0].tolist() == pytest.approx([90, 90, 60])
        assert test.get_offsets()[:, 0].tolist() == pytest.approx([80, 90, 70])
        first, second, third = validation.get_offsets()[:, 1]
        assert first == third < second  # equal accuracies are stacked
        assert own.get_offsets().tolist() == [[90, second]]
        assert also_own.get_offsets().tolist() == [[90, 0]]
        means = [container.lines[0].get_xdata()[0] for container in axes.containers]
        assert means == pytest.approx([80, 80])
        assert axes.get_xlim()[1] <= 100.5

    def test_without_a_validation_set(self):
        rows = [{key: row[key] for key in ("seed", "test_accuracy")} for row in self.ROWS]
        (axes,) = accuracies(rows, seeds.means(rows), own=1).axes
        assert [label.get_text() for label in axes.get_yticklabels()] == ["test accuracy"]


class TestCalibration:
    ROWS = (
        {"count": 3, "confidence": 0.4, "accuracy": 1 / 3},
        {"count": 90, "confidence": 0.9, "accuracy": 0.95},
    )

    def test_accuracy_against_confidence_in_percent(self):
        upper, lower = calibration(self.ROWS).axes
        diagonal, line = upper.lines
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
        assert list(line.get_xdata()) == pytest.approx([40, 90])
        assert list(line.get_ydata()) == pytest.approx([100 / 3, 95])
        assert [bar.get_height() for bar in lower.patches] == [3, 90]


class TestConfusionMatrix:
    def test_counts_in_cells(self):
        counts = np.array([[90, 10, 0], [0, 50, 0], [1, 0, 3]])
        figure = confusion_matrix(counts, ["a", "b", "c"])
        axes = figure.axes[0]
        written = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in axes.texts}
        assert written == {(0, 0): "90", (0, 1): "10", (1, 1): "50", (2, 0): "1", (2, 2): "3"}
        assert axes.get_title("left") == "143 of 154 images correct (92.86%)"
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
        assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]

    def test_mistakes_have_a_scale_of_their_own(self):
        counts = np.array([[80, 20], [1, 99]])
        right, mistaken = confusion_matrix(counts, ["a", "b"]).axes[0].images
        np.testing.assert_array_equal(np.ma.filled(right.get_array(), -1), [[80, -1], [-1, 99]])
        np.testing.assert_array_equal(np.ma.filled(mistaken.get_array(), -1), [[-1, 20], [1, -1]])
        assert right.get_clim() == (0, 100)
        assert mistaken.get_clim() == (0, 20)

    def test_a_rare_mistake_is_not_white(self):
        counts = np.diag([1000, 1000])
        counts[0, 1] = 1
        _, mistaken = confusion_matrix(counts, ["a", "b"]).axes[0].images
        red, green, blue, _ = mistaken.to_rgba(mistaken.get_array())[0, 1]
        assert red - blue > 0.1
        assert green < 0.95

    @pytest.mark.parametrize(("size", "cells", "ticks"), [(20, 400, 20), (21, 0, 11), (100, 0, 20)])
    def test_many_classes(self, size, cells, ticks):
        counts = np.ones((size, size), dtype=int)
        axes = confusion_matrix(counts, [f"c{i}" for i in range(size)]).axes[0]
        assert len(axes.texts) == cells
        assert len(axes.get_xticks()) == len(axes.get_yticks()) == ticks
        assert axes.get_xticklabels()[1].get_text() == f"c{axes.get_xticks()[1]}"

    def test_a_class_without_images(self, tmp_path):
        figure = confusion_matrix(np.zeros((2, 2), dtype=int), ["a", "b"])
        assert len(figure.axes[0].texts) == 0
        style.save(figure, tmp_path / "empty.png")

    @pytest.mark.parametrize(
        ("counts", "sentence"),
        [
            (np.zeros((2, 3), dtype=int), r"not \(2, 3\)"),
            (np.zeros((3, 3), dtype=int), r"must be \(2, 2\)"),
            (np.zeros((2, 2)), "integers"),
            (np.array([[1, -1], [0, 0]]), "at least 0"),
        ],
    )
    def test_bad_counts(self, counts, sentence):
        with pytest.raises(ValueError, match=sentence):
            confusion_matrix(counts, ["a", "b"])


class TestConfidentMistakes:
    def test_surest_first(self):
        images, _ = dataset(4)
        labels = np.array([0, 1, 1, 0])
        # Image 2 is right; softmax of (0, log 3) is (1/4, 3/4).
        logits = np.log([[1.0, 3.0], [9.0, 1.0], [1.0, 9.0], [2.0, 3.0]])
        figure = confident_mistakes(images, labels, logits, ["cat", "dog"], 36)
        assert captions(figure) == ["cat:dog\n90.0%", "dog:cat\n75.0%", "dog:cat\n60.0%"]
        np.testing.assert_array_equal(pixels(figure), images[[1, 0, 3], 0])
        assert figure.get_suptitle() == "predicted:true, 3 mistakes in 4 images"

    def test_count(self):
        images, labels = dataset(60)
        logits = sure_logits((labels + 1) % 10)
        figure = confident_mistakes(images, labels, logits, DIGITS, count=36)
        assert len(tiles(figure)) == 36
        figure = confident_mistakes(images, labels, logits, DIGITS, count=7)
        assert len(tiles(figure)) == 7
        assert (
            figure.get_suptitle() == "predicted:true, 7 most confident of 60 mistakes in 60 images"
        )

    def test_equally_sure_mistakes_keep_their_order(self):
        images, _ = dataset(30)
        logits = sure_logits(np.ones(30, dtype=int))
        figure = confident_mistakes(images, np.zeros(30, dtype=int), logits, DIGITS, 36)
        np.testing.assert_array_equal(pixels(figure), images[:, 0])

    def test_huge_logits(self):
        images, _ = dataset(1)
        figure = confident_mistakes(images, [0], [[-1e5, 1e5]], ["cat", "dog"], 36)
        assert captions(figure) == ["dog:cat\n100.0%"]

    def test_no_mistake(self):
        images, labels = dataset(12)
        figure = confident_mistakes(images, labels, sure_logits(labels), DIGITS, 36)
        assert tiles(figure) == captions(figure) == []
        assert figure.get_suptitle() == "There are no mistakes in 12 images."

    def test_long_names_keep_apart(self):
        images, _ = dataset(9, channels=3)
        logits = sure_logits(np.zeros(9, dtype=int))
        figure = confident_mistakes(images, np.ones(9, dtype=int), logits, CIFAR, 36)
        assert_titles_keep_apart(figure)

    def test_bad_count(self):
        with pytest.raises(ValueError, match="count must be at least 1"):
            confident_mistakes(*dataset(1), sure_logits([0]), DIGITS, count=0)


class TestFeatureMaps:
    def test_layers(self, tmp_path):
        random = np.random.default_rng(0)
        maps = {
            "block 1": random.random((20, 28, 28)),
            "block 2": random.random((65, 7, 7)),
            "pool": random.random((1, 1, 1)),
        }
        image = random.random((1, 28, 28))
        figure = feature_maps(image, maps, "seven")
        assert "seven" in figure.get_suptitle()
        assert captions(figure) == [
            "image, 28×28",
            "block 1: 20 channels, 28×28",
            "block 2: 65 channels, 7×7, first 64 of 65",
            "pool: 1 channel, 1×1",
        ]
        np.testing.assert_array_equal(pixels(figure)[0], image[0])
        places = boxes(figure)
        for (_, top, _, height), (_, below, _, _) in itertools.pairwise(places):
            assert top + height + grid.CAPTION < below
        assert {left for left, _, _, _ in places} == {grid.MARGIN}
        assert_crisp(figure, tmp_path / "maps.png")

    def test_mosaic_places_every_channel(self):
        layer = np.arange(18 * 4, dtype=np.float32).reshape(18, 2, 2)
        figure = feature_maps(np.ones((1, 4, 4)), {"conv": layer}, "a")
        mosaic = pixels(figure)[1]
        # 16 to a row, each of the 2×2 values 48 pixels wide, 4 pixels between.
        assert mosaic.shape == (2 * 96 + 4, 16 * 96 + 15 * 4)
        for channel in range(18):
            top, left = 100 * (channel // 16), 100 * (channel % 16)
            tile = mosaic[top : top + 96, left : left + 96]
            np.testing.assert_array_equal(tile[24::48, 24::48], layer[channel])
            assert set(np.unique(tile)) == set(layer[channel].ravel())
        assert np.isnan(mosaic[100:, 200:]).all()

    def test_colour_image_and_large_maps(self):
        image = np.random.default_rng(0).random((3, 32, 32))
        figure = feature_maps(image, {"conv": np.ones((64, 224, 224))}, "ship")
        np.testing.assert_array_equal(pixels(figure)[0], image.transpose(1, 2, 0))
        assert figure.bbox.width < 2000

    @pytest.mark.parametrize(
        ("image", "layer", "sentence"),
        [
            ((28, 28), (4, 7, 7), "image must be"),
            ((2, 28, 28), (4, 7, 7), "images must be"),
            ((1, 28, 28), (128,), "maps of 'conv'"),
        ],
    )
    def test_bad_shapes(self, image, layer, sentence):
        with pytest.raises(ValueError, match=sentence):
            feature_maps(np.ones(image), {"conv": np.ones(layer)}, "a")


class TestAttention:
    def test_a_row_has_an_image_and_its_map_of_each_layer(self, tmp_path):
        random = np.random.default_rng(0)
        images = random.random((2, 1, 8, 8))
        maps = {"layer1": random.random((2, 4, 4)), "layer2": random.random((2, 4, 4)) / 9}
        figure = attention(images, maps, ["seven", "seven"])
        assert captions(figure) == ["seven", "layer1", "layer2"] * 2
        shown = pixels(figure)
        for row in (0, 1):
            np.testing.assert_array_equal(shown[3 * row], images[row, 0])
            np.testing.assert_array_equal(shown[3 * row + 1], maps["layer1"][row])
            np.testing.assert_array_equal(shown[3 * row + 2], maps["layer2"][row])
        # One scale from 0 for all maps of a layer.
        limits = [tile.get_clim() for tile in figure.axes[0].images]
        assert limits[1] == limits[4] == (0, maps["layer1"].max())
        assert limits[2] == limits[5] == (0, maps["layer2"].max())
        assert len({box[2:] for box in boxes(figure)}) == 1
        assert_crisp(figure, tmp_path / "attention.png")

    def test_the_page_shows_it_behind_the_feature_maps_where_there_is_any(self):
        results = made_up_results(["a", "b", "c"])
        (entry,) = (one for one in registry.registered() if one.name == "patch_attention")
        assert registry.drawings(entry, results) == []
        maps = {"layer1": np.full((5, 4, 4), 1 / 16, np.float32)}
        with_some = dataclasses.replace(results, attention=maps)
        drawings = [
            drawing
            for one in registry.registered()
            if one.section == "features"
            for drawing in registry.drawings(one, with_some)
        ]
        assert [drawing.name for drawing in drawings] == ["feature_maps", "patch_attention"]
        page = report.page(with_some, drawings)
        assert 'alt="Test images and, in each layer, how much all patches' in page
        assert "as a mean over heads: black is nothing" in page

    @pytest.mark.parametrize("shape", [(2, 4), (3, 4, 4), (2, 0, 4)])
    def test_bad_shapes(self, shape):
        with pytest.raises(ValueError, match="maps of 'layer1' must be "):
            attention(np.ones((2, 1, 8, 8)), {"layer1": np.ones(shape)}, ["a", "b"])


IMAGES = np.ones((3, 1, 8, 8), dtype=np.float32)
LABELS = np.array([0, 1, 1])
LOGITS = np.zeros((3, 2))


BAD_IMAGES_OR_LABELS = [
    ({"images": IMAGES[0]}, r"images must be .* not \(1, 8, 8\)"),
    ({"images": np.ones((3, 2, 8, 8))}, "C of 1 or 3"),
    ({"images": IMAGES[:0]}, "N of at least 1"),
    ({"images": IMAGES.astype(np.uint8)}, "floats in 0..1, not uint8"),
    ({"labels": LABELS[:2]}, r"3 images need as many labels, not \(2,\)"),
    ({"labels": LABELS.astype(float)}, "labels must be integers"),
    ({"labels": LABELS + 1}, r"labels span 1\.\.2 but there are 2 class names"),
    ({"labels": LABELS - 1}, r"labels span -1\.\.0"),
]
BAD_LOGITS = [
    ({"logits": LOGITS[:2]}, r"logits must be \(3, 2\).* not \(2, 2\)"),
    ({"logits": LOGITS[:, :1]}, r"not \(3, 1\)"),
]


@pytest.mark.parametrize(("changed", "sentence"), BAD_IMAGES_OR_LABELS)
def test_samples_of_bad_arrays(changed, sentence):
    arguments = {"images": IMAGES, "labels": LABELS} | changed
    with pytest.raises(ValueError, match=sentence):
        samples(**arguments, class_names=["cat", "dog"])


@pytest.mark.parametrize(("changed", "sentence"), BAD_IMAGES_OR_LABELS + BAD_LOGITS)
@pytest.mark.parametrize("draw", [predictions, partial(confident_mistakes, count=36)])
def test_predictions_of_bad_arrays(draw, changed, sentence):
    arguments = {"images": IMAGES, "labels": LABELS, "logits": LOGITS} | changed
    with pytest.raises(ValueError, match=sentence):
        draw(**arguments, class_names=["cat", "dog"])


class TestSave:
    def figures(self):
        images, labels = dataset(5)
        history = {"epoch": [1, 2], "train_loss": [2.0, 1.0], "train_accuracy": [0.1, 0.5]}
        return {
            "samples": samples(images, labels, DIGITS),
            "filters": filters(np.random.default_rng(0).normal(size=(4, 2, 3, 3)), "conv"),
            "curves": learning_curves(history),
            "confusion": confusion_matrix(np.eye(3, dtype=int), ["a", "b", "c"]),
        }

    def test_same_bytes_each_time(self, tmp_path):
        for folder in ["first", "second"]:
            (tmp_path / folder).mkdir()
            for name, figure in self.figures().items():
                style.save(figure, tmp_path / folder / f"{name}.png")
        names = {"samples.png", "filters.png", "curves.png", "confusion.png"}
        assert {path.name for path in (tmp_path / "first").iterdir()} == names
        for name in names:
            first = (tmp_path / "first" / name).read_bytes()
            assert first.startswith(b"\x89PNG")
            assert b"Software" not in first
            assert first == (tmp_path / "second" / name).read_bytes()

    def test_replaces_and_leaves_nothing_else(self, tmp_path):
        path = tmp_path / "samples.png"
        path.write_bytes(b"old")
        style.save(self.figures()["samples"], str(path))
        assert path.read_bytes() != b"old"
        assert list(tmp_path.iterdir()) == [path]


def everything_with_names(names):
    """Each figure that shows the names of classes, by name."""
    count = 2 * max(50, len(names))
    images, _ = dataset(count)
    labels = np.arange(count) % len(names)
    logits = np.random.default_rng(0).random((count, len(names)))
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (labels, logits.argmax(axis=1)), 1)
    return {
        "samples": samples(images[:36], labels[:36], names),
        "predictions": predictions(images[:100], labels[:100], logits[:100], names),
        "mistakes": confident_mistakes(images, labels, logits, names, 36),
        "confusion": confusion_matrix(counts, names),
        "features": feature_maps(images[0], {"layer1": images[:4, 0]}, names[0]),
    }


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
@pytest.mark.parametrize("length", [80, 150])
def test_long_names_make_no_large_pictures(classes, length):
    names = [f"{n:05}_{'Kingdom_Phylum_Class_Order_' * 9}"[:length] for n in range(classes)]
    assert len(set(fonts.short_names(names))) == classes
    for name, figure in everything_with_names(names).items():
        width, height = figure.get_size_inches() * style.DPI
        assert max(width, height) < 5_000, name
        assert width * height < 20e6, name
        if name == "confusion":
            style.png(figure)  # which warns if the labels leave no room


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["a" * 24, "b" * 25], ["a" * 24, "b" * 11 + "…" + "b" * 12]),
        (["a" * 30 + "x" + "c" * 30, "a" * 30 + "y" + "c" * 30],
         [f"aaaaaaaaaaa…cccccccccccc ({n})" for n in (0, 1)]),
        (["中文", "\U0001f34e!"], ["U+4E2D U+6587", "U+1F34E !"]),
        (["a\nb", "\udcff"], ["a U+000A b", "U+DCFF"]),
        (["\U0001f469\u200d\U0001f467"], ["U+1F469 U+1F467"]),
        (["العربية", "café", "Ωß"], ["العربية", "café", "Ωß"]),
    ],
)  # fmt: skip
def test_names_are_shortened_and_stay_different(names, short, monkeypatch):
    monkeypatch.setattr(fonts.fontManager, "ttflist", [])
    fonts._family.cache_clear()
    assert fonts.short_names(names) == short
    fonts._family.cache_clear()


def test_removed_and_damaged_fonts_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    listed = [
        FontEntry(fname=str(tmp_path / f"{name}.ttf"), name=name, style="normal", weight=400)
        for name in ("damaged", "removed")
    ]
    good = fonts.findfont("STIXGeneral")
    missing = fonts._letters(good) - fonts._letters(fonts.findfont(fonts.FONT))
    letter = chr(min(missing - set(range(0xE000, 0xF900))))
    last = FontEntry(fname=good, name="z", style="normal", weight=400)
    fonts._family.cache_clear()
    monkeypatch.setattr(fonts.fontManager, "ttflist", listed)
    assert fonts.short_names([f"{letter}a"]) == [f"U+{ord(letter):04X} a"]
    fonts._family.cache_clear()
    # Fonts are tried in the order of their names.
    monkeypatch.setattr(fonts.fontManager, "ttflist", [*listed, last])
    assert fonts._family(letter) == "z"
    fonts._family.cache_clear()


def test_letters_that_the_font_lacks_come_from_another_one_and_never_as_boxes():
    ours = fonts._letters(fonts.findfont(fonts.FONT))
    stix = fonts._letters(fonts.findfont("STIXGeneral"))  # ships with matplotlib, too
    letter = chr(min(stix - ours - set(range(0xE000, 0xF900))))
    names = [f"{letter}ab", "中文", "العربية"]
    for figure in everything_with_names(names).values():
        style.png(figure)  # a letter without a font would be a warning, which is an error here
    figure = samples(*dataset(3, classes=1), [f"{letter}ab"])
    style.png(figure)
    assert captions(figure)[0] == f"{letter}ab"
    assert len(figure.axes[0].texts[0].get_fontfamily()) == 2
