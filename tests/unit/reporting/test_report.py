"""The page that shows one experiment."""

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from made_up import SEEDS, made_up_results
from pages import Page
from PIL import Image

from striate.evaluation import scores
from striate.reporting import galleries, html, report
from striate.reporting.figures import filters as filter_figures
from striate.reporting.figures import registry
from striate.reporting.results import spread

CLASSES = ["cat", "<b>dog</b>", 'fish & "chips"']


@pytest.fixture(scope="module")
def results():
    return made_up_results(CLASSES, train={"val_accuracy": 0.25})


@pytest.fixture(scope="module")
def drawings(results):
    return [one for entry in registry.registered() for one in registry.drawings(entry, results)]


@pytest.fixture(scope="module")
def text(results, drawings):
    return report.page(results, drawings)


def test_it_needs_nothing_but_itself(text):
    addresses = Page(text).addresses
    assert len(addresses) > 50
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert "<script" not in text


def test_every_part_that_is_named_at_its_head_is_there(text):
    page = Page(text)
    named = [address[1:] for address in page.addresses if address.startswith("#")]
    assert len(named) == 13
    assert named == page.ids


def test_names_of_classes_are_text_and_no_markup(text):
    page = Page(text)
    assert "<b>dog" not in text
    assert "<b>dog</b>" in page.words
    assert 'fish & "chips"' in page.words


def test_the_numbers_are_those_of_the_files(text, results):
    words = " ".join(" ".join(Page(text).words).split())
    wrong = int((results.logits.argmax(1) != results.labels).sum())
    low, high = scores.wilson(40 - wrong, 40)
    assert f"{100 * (40 - wrong) / 40:.2f}% {100 * low:.2f} to {high:.2%}" in words
    assert f"test errors {wrong} of 40 images" in words
    assert "was trained on 36 images of digits for 2 epochs with adam and batches of 100" in words
    assert "validation accuracy 25.00% 4.56 to 69.94%" in words  # 1 of 4
    assert "git log --all --oneline -S 0123.dir -- dvc.lock" in words
    assert "-S model.layers=2" in words


def test_validation_comes_before_test(text):
    words = " ".join(" ".join(Page(text).words).split())
    assert words.index("validation accuracy 25.00%") < words.index("test errors")
    assert "Choose among experiments by validation accuracy: the highest of several" in words
    assert "(data.val_size)" in report.selection_advice({"train_accuracy": 1.0})


def test_the_mean_over_seeds_stands_beside_the_own_value_with_spread_and_interval():
    results = made_up_results(CLASSES, train={"val_accuracy": 0.25}, seeds=SEEDS)
    (entry,) = [entry for entry in registry.registered() if entry.name == "seeds"]
    (drawing,) = registry.drawings(entry, results)
    text = report.page(results, [drawing])
    words = " ".join(" ".join(Page(text).words).split())
    validation = "25.00% 4.56 to 69.94% over 3 seeds: 25.00% ± 1.00% (22.52 to 27.48%)"
    assert f"validation accuracy {validation}" in words  # 4.303 · 0.01 / √3
    assert "of the mean over seeds for other seeds (Student's t)" in words
    assert (
        "The seed draws the validation set, the first weights, the order of the batches and the"
        " augmentation. Mean ± standard deviation over 3 seeds, with the 95% interval of the mean:"
        " validation accuracy 25.00% ± 1.00% (22.52 to 27.48%), test accuracy 40.00% ± 17.32%"
        " (0.00 to 83.03%)." in words
    )
    assert html.embedded(drawing.png) in text


def test_one_seed_has_no_spread_and_the_page_says_how_to_see_it(results, drawings, text):
    words = " ".join(Page(text).words)
    assert "over 1 seed" not in words
    assert "These are the results of one seed; `striate repeat` trains others" in words
    assert "seeds" not in [drawing.name for drawing in drawings]
    alone = dataclasses.replace(results, seeds=SEEDS[:1])
    assert report.page(alone, drawings) == text


def test_what_the_seed_draws_depends_on_the_validation_set():
    fixed = report.seeds_sentence(made_up_results(CLASSES, data__split_seed=7))
    assert fixed.startswith("The seed draws the first weights, the order of the batches and the")
    assert "augmentation; data.split_seed fixes the validation set." in fixed
    assert "validation" not in report.seeds_sentence(made_up_results(CLASSES, data__val_size=0))


def test_what_the_seed_draws_includes_the_training_images_of_each_class():
    some = report.seeds_sentence(made_up_results(CLASSES, data__per_class=3))
    assert some.startswith("The seed draws the validation set, the training images, the first")
    fixed = report.seeds_sentence(made_up_results(CLASSES, data__per_class=3, data__split_seed=7))
    assert "data.split_seed fixes the validation set and the training images." in fixed
    assert made_up_results(CLASSES, data__per_class=3).train_count == 9


def test_a_mistake_is_framed_and_named(results):
    logits, labels = results.logits, results.labels
    images = np.zeros((40, 1, 4, 4), np.float32)
    tiles = galleries.predictions(images, labels, logits, CLASSES)
    guesses = logits.argmax(1)
    assert [tile.wrong for tile in tiles] == (guesses != labels).tolist()
    first = int(np.flatnonzero(guesses != labels)[0])
    assert tiles[first].caption == f"{CLASSES[guesses[first]]}, not {CLASSES[labels[first]]}"
    where, sure = scores.surest_mistakes(logits, labels)
    surest = galleries.mistakes(results)
    assert [tile.caption for tile in surest[:2]] == [
        f"{CLASSES[guesses[index]]} {share:.1%}, is {CLASSES[labels[index]]}"
        for index, share in zip(where[:2], sure[:2], strict=True)
    ]
    similar = results.mistakes.neighbours[0]
    assert [one.caption for one in surest[0].similar] == [CLASSES[labels[k]] for k in similar]
    assert surest[0].similar[0].source == html.tile(results.images[similar[0]], "").source


def test_a_heat_map_is_red_for_and_blue_against_the_class():
    pixels = np.full((1, 2, 2), 0.5, np.float32)
    found = html.heat(pixels, np.array([[2.0, -2.0], [0.0, 1.0]]))
    assert np.rint(255 * found[:, 0, 0]).tolist() == list(html.FOR)
    assert np.rint(255 * found[:, 0, 1]).tolist() == list(html.AGAINST)
    assert found[:, 1, 0].tolist() == [0.5] * 3
    assert (html.heat(pixels, np.zeros((2, 2))) == 0.5).all()


def test_the_page_shows_what_speaks_for_mistakes_and_corruptions(results, drawings):
    page = report.page(results, drawings)
    assert page.count('class="explained"') == 1
    assert page.count("training image, cat") > 0
    assert "<code>evaluate.shifted</code> is 0" in page
    names = ["noise", "blur", "rain"]
    shifted = {name: [0.9, 0.5] for name in names}
    examples = np.zeros((3, 2, 3, 8, 8), np.float32)
    scored = dataclasses.replace(results, shifted=shifted, shifted_examples=examples)
    entry = next(one for one in registry.registered() if one.name == "shifted_images")
    (drawn,) = registry.drawings(entry, scored)
    texts = [text.get_text() for text in entry.draw(scored).axes[0].texts]
    assert [text for text in texts if text in names] == names
    assert texts.count("90.0%") == texts.count("50.0%") == 3
    assert "is 0</p>" not in report.page(scored, [*drawings, drawn])


def test_a_metric_that_older_results_lack_is_a_dash():
    train = {"train_accuracy": 0.5, "epochs": 2, "parameters": 10}
    tiles = report.headline(train, {"accuracy": 0.75, "n": 4}, 0, {})
    assert {tile["name"]: tile["value"] for tile in tiles} == {
        "test accuracy": "75.00%", "test errors": "–", "training accuracy": "50.00%",
        "test loss": "–", "macro F1": "–", "calibration error": "–", "parameters": "10",
    }  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tile_holds_the_pixels_of_its_image(channels):
    image = np.random.RandomState(0).randint(0, 256, (channels, 5, 7))
    source = html.tile(image / 255, "seven").source
    content = base64.b64decode(re.fullmatch("data:image/png;base64,(.*)", source)[1])
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    expected = image[0] if channels == 1 else image.transpose(1, 2, 0)
    assert (pixels == expected).all()


@pytest.mark.parametrize(("accuracy", "lean"), [(0.9, "underconfident"), (0.3, "overconfident")])
def test_calibration_is_put_in_a_sentence(accuracy, lean):
    rows = [{"count": 10, "confidence": 0.6, "accuracy": accuracy}]
    assert f"the network is {lean} by 30.00%" in report.calibration_sentence(rows)


@pytest.mark.parametrize(
    ("labels", "count", "chosen"),
    [
        ([0, 0, 0, 1, 1, 2], 36, [0, 3, 5, 1, 4, 2]),
        ([2, 0, 0, 1, 0], 4, [1, 3, 0, 2]),
        ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 3, [0, 4, 8]),
        ([7], 36, [0]),
    ],
)
def test_images_are_chosen_from_all_classes_in_turn(labels, count, chosen):
    assert spread(np.array(labels), count).tolist() == chosen


def test_params_of_folders_are_shown_for_folders_only_and_filters_come_last(text):
    words = Page(text).words
    assert "data.val_size" in words
    assert not {"data.path", "data.size", "data.test_size"} & set(words)
    ids = Page(text).ids
    assert ids.index("confusion") < ids.index("features") < ids.index("filters")


def test_params_that_only_other_networks_read_are_left_out(text):
    words = set(Page(text).words)
    assert words >= {"model.arch", "model.layers", "model.kernel_size", "model.residual"}
    assert not {"model.heads", "model.whiten", "model.skips", "data.resize"} & words
    folder = made_up_results(["a", "b", "c"], data__name="folder", model__arch="vit")
    assert report.is_read("model.heads", folder)
    assert report.is_read("data.resize", folder)
    assert not report.is_read("model.kernel_size", folder)


def test_of_a_later_layer_few_filters_are_drawn_large_enough_to_read():
    results = made_up_results(["a", "b", "c"])
    shape = (32, 16, 5, 5)
    results.filters["layer2"] = np.random.default_rng(0).normal(size=shape)
    drawn = filter_figures.draw(results)["layer2"]
    assert "first 4 of 16 input channels; first 16 of 32 kernels" in drawn.get_suptitle()
    assert len(drawn.axes[0].images) == 4


def test_figures_stand_in_their_sections_with_caption_and_alt_text(text, drawings):
    parts = re.split(r'<h2 id="(\w+)">', text)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(sections) == list(registry.SECTIONS)
    for drawing in drawings:
        embedded = html.embedded(drawing.png)
        for section, content in sections.items():
            assert (embedded in content) == (section == drawing.entry.section)
        if drawing.entry.section:
            assert f'alt="{drawing.alt}"' in sections[drawing.entry.section]
            assert drawing.caption in sections[drawing.entry.section]
    assert {d.name for d in drawings} >= {"curves", "samples", "filters_layer1", "filters_layer2"}
    assert text.count(html.embedded(next(d.narrow for d in drawings if d.name == "curves"))) == 1
    filters = [drawing for drawing in drawings if drawing.entry.name == "filters"]
    assert [drawing.alt for drawing in filters] == ["Filters of layer1", "Filters of layer2"]
    assert [bool(drawing.caption) for drawing in filters] == [True, False]


def test_a_figure_of_an_unknown_section_or_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="figure new: section must be one of curves, seeds"):
        registry.figure("new", section="nowhere", alt="")
    with pytest.raises(ValueError, match="there are two figures curves"):
        registry.figure("curves", section="curves", alt="")


def test_a_network_without_layers_and_width_in_its_params_is_described(results, drawings):
    params = {key: value for key, value in results.params.items()
              if key not in ("model.layers", "model.width")}  # fmt: skip
    text = report.page(dataclasses.replace(results, params=params), drawings)
    assert "This network (convnet, 2 layers, 1,234 parameters) was trained" in text
