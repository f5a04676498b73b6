"""The change of somebody who adds a figure: one file, and nothing else is edited."""

import re

import pytest
from clones import Clone
from PIL import Image

from striate.reporting import html

pytestmark = pytest.mark.slow

FILE = "src/striate/reporting/figures/confidences.py"
FIGURE = '''\
"""How many test images are how confident."""

from matplotlib.figure import Figure

from striate.evaluation.scores import softmax
from striate.reporting.figures.registry import figure
from striate.reporting.figures.style import TRAIN, chart, style_axes, text_style
from striate.reporting.results import Results


@figure(
    "confidences",
    section="calibration",
    alt="Histogram of the confidences",
    caption="Most test images get a confident prediction.",
)
def draw(results: Results) -> Figure:
    """A histogram of the largest probability of each test image."""
    figure = chart(5, 3)
    axes = figure.subplots()
    axes.hist(softmax(results.logits).max(axis=1), bins=20, range=(0, 1), color=TRAIN)
    style_axes(axes)
    axes.set_xlabel("confidence", **text_style())
    return figure
'''


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return Clone.of_this_tree(tmp_path_factory.mktemp("clone") / "striate")


@pytest.fixture(scope="module")
def before(clone):
    """The bytes of each figure before the change."""
    return {path.name: path.read_bytes() for path in (clone.folder / "reports/figures").iterdir()}


@pytest.fixture(scope="module")
def stages(clone, before):
    """The stages that DVC runs after the change."""
    (clone.folder / FILE).write_text(FIGURE)
    return re.findall(r"Running stage '(\w+)'", clone.run("dvc", "repro"))


@pytest.fixture(scope="module")
def page(clone, stages):
    return (clone.folder / "reports/index.html").read_text()


def test_one_file_is_touched_and_visualize_alone_runs(clone, stages):
    assert stages == ["visualize"]
    changed = clone.run("git", "status", "--porcelain", "--untracked-files=all").splitlines()
    assert sorted(changed) == [" M dvc.lock", f"?? {FILE}"]


def test_its_file_is_there_and_the_others_are_as_before(clone, stages, before):
    figures = clone.folder / "reports/figures"
    after = {path.name: path.read_bytes() for path in figures.iterdir()}
    added = after.pop("confidences.png")
    assert after == before
    assert added.startswith(b"\x89PNG")
    with Image.open(figures / "confidences.png") as image:
        assert image.size == (750, 450)


def test_the_page_shows_it_at_the_end_of_its_section_with_caption_and_alt_text(clone, page):
    parts = re.split(r'<h2 id="(\w+)">', page)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    figures = re.findall(r'<img src="([^"]+)"[^>]* alt="([^"]+)"', sections["calibration"])
    source = html.embedded((clone.folder / "reports/figures/confidences.png").read_bytes())
    assert [alt for _, alt in figures] == [
        "Accuracy against confidence",
        "Histogram of the confidences",
    ]
    assert figures[-1][0] == source
    caption = (
        '<p class="soft">Most test images get a confident prediction.</p>\n<div class="picture"'
    )
    assert caption in sections["calibration"]
    assert page.count("Histogram of the confidences") == 1
