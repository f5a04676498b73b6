"""The report and MLflow's pages in a real browser."""

import base64
import gzip
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import classroom
import numpy as np
import psutil
import pytest
from clones import Clone
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from striate.tracking import groups, records

pytestmark = [
    pytest.mark.walk,
    # Of selenium, whose connections Python closes for it.
    pytest.mark.filterwarnings("default::ResourceWarning"),
]

# With a folder here, `make screenshots` keeps what the tests see.
PICTURES = os.environ.get("STRIATE_SCREENSHOTS")
# MLflow's pages ask for what a server without users does not have; a part of them is outdated; and
# they draw by WebGL, without a graphics card.
OWN_TO_MLFLOW = ("users/current", "AG Grid: ", "WebGL", "ResizeObserver loop")


class Browser(webdriver.Chrome):
    """Headless Chromium that reaches nothing but this machine."""

    def __init__(self, program, driver, width):
        options = webdriver.ChromeOptions()
        options.binary_location = program
        for argument in (
            "headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars",
            f"window-size={width},1000", "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ):  # fmt: skip
            options.add_argument(f"--{argument}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        super().__init__(options, webdriver.ChromeService(driver))

    def emulate(self, width, *, dark):
        self.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
        )
        self.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
        )

    def keep(self, name, height=None):
        """Save the page as a picture, as far as `height` pixels, where pictures are kept."""
        if PICTURES is None:
            return
        size = self.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        area = {"x": 0, "y": 0, "width": size["width"], "height": height or size["height"]}
        shot = self.execute_cdp_cmd(
            "Page.captureScreenshot",
            {"captureBeyondViewport": True, "clip": area | {"scale": 1}},
        )
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(base64.b64decode(shot["data"]))) as picture:
            # 256 colours do, in a third of the bytes.
            picture.quantize().save(Path(PICTURES, f"{name}.png"), optimize=True)

    def wait_for(self, condition, seconds=60):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.2)
        raise AssertionError(self.find_element(By.TAG_NAME, "body").text)

    def close_assistant(self):
        for button in self.find_elements(By.CSS_SELECTOR, "[data-component-id$='panel.close']"):
            button.click()
            time.sleep(0.5)

    def complaints(self):
        """What the page wrote to the console, but for what is MLflow's own."""
        messages = [entry["message"] for entry in self.get_log("browser")]
        return [m for m in messages if not any(known in m for known in OWN_TO_MLFLOW)]


@pytest.fixture(scope="module")
def opened():
    programs = ("chromium", "google-chrome", "chromium-browser")
    program = next(filter(None, map(shutil.which, programs)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no browser: neither Chromium and its chromedriver nor Chrome is installed")
    opened = Browser(program, driver, 1600)
    yield opened
    opened.quit()


@pytest.fixture
def browser(opened):
    """The browser as if it had just been opened."""
    opened.switch_to.default_content()
    opened.get("about:blank")
    opened.set_window_size(1600, 1000)
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    opened.get_log("browser")
    return opened


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    made = Clone.of_this_tree(tmp_path_factory.mktemp("pages") / "striate")
    for layers in (1, 3):
        made.run("dvc", "exp", "run", "--temp", "-n", f"layers-{layers}",
                 "-S", f"model.layers={layers}")  # fmt: skip
    made.striate("sync")
    return made


def of(browser, script):
    return browser.execute_script(f"return {script}")


@pytest.fixture
def report(browser, clone):
    """The browser with the report opened."""
    browser.get((clone.folder / "reports/index.html").as_uri())
    return browser


def test_the_report_shows_the_scores_and_the_images(report, clone):
    test = clone.json("metrics/test.json")
    assert report.title == f"digits: convnet, 2 layers, {test['accuracy']:.2%} test accuracy"
    tiles = [tile.text.splitlines() for tile in report.find_elements(By.CLASS_NAME, "tile")]
    assert ["test errors", str(test["errors"]), "of 360 images"] in tiles
    galleries = report.find_elements(By.CLASS_NAME, "gallery")
    counts = [len(gallery.find_elements(By.TAG_NAME, "img")) for gallery in galleries]
    assert counts == [36, 100]
    mistakes = report.find_elements(By.CSS_SELECTOR, ".explained figure")
    assert len(mistakes) == min(36, test["errors"])
    for mistake in mistakes:
        assert len(mistake.find_elements(By.CSS_SELECTOR, ":scope > img")) == 2
        assert len(mistake.find_elements(By.CSS_SELECTOR, "span img")) == 3


def test_the_report_needs_no_other_file_and_its_links_lead_somewhere(report):
    assert of(report, "[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert of(report, "performance.getEntriesByType('resource')"
                      ".every(e => e.name.startsWith('data:'))")  # fmt: skip
    for link in report.find_elements(By.CSS_SELECTOR, "nav a"):
        assert report.find_element(By.ID, link.get_attribute("href").split("#")[1])
    assert report.complaints() == []


@pytest.mark.parametrize(
    ("name", "width", "dark"),
    [("desktop", 1100, False), ("dark", 1100, True), ("phone", 390, False)],
)
def test_the_report_fits_the_screen_and_its_colours(report, name, width, dark):
    report.emulate(width, dark=dark)
    time.sleep(0.5)
    assert of(report, "document.documentElement.scrollWidth") == width
    background = of(report, "getComputedStyle(document.body).backgroundColor")
    assert (background != "rgb(255, 255, 255)") == dark
    report.keep(f"report_{name}", 900)
    assert report.complaints() == []


def test_the_curves_of_the_report_are_stacked_on_a_phone(report):
    curves = "document.querySelector('#curves + .picture img').currentSrc"
    wide = of(report, curves)
    report.emulate(390, dark=False)
    report.wait_for(lambda: of(report, curves) != wide)


def test_the_printed_report_has_no_navigation(report):
    report.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert of(report, "getComputedStyle(document.querySelector('nav')).display") == "none"


def test_the_comparison_is_whole(browser, clone):
    clone.striate("compare", "layers-1", "layers-3")
    browser.get((clone.folder / "reports/compare.html").as_uri())
    assert browser.title == "layers-3 against layers-1"
    tables = browser.find_elements(By.TAG_NAME, "table")
    assert "model.layers 1 3" in tables[0].text
    assert len(browser.find_elements(By.CSS_SELECTOR, ".gallery img")) > 3
    assert of(browser, "[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    browser.emulate(390, dark=True)
    assert of(browser, "document.documentElement.scrollWidth") == 390
    browser.emulate(1100, dark=False)
    browser.keep("compare", 1400)
    assert browser.complaints() == []


def column(table, number):
    cells = f"tbody tr:not([hidden]) td:nth-child({number}) > span"
    return [cell.text for cell in table.find_elements(By.CSS_SELECTOR, cells)]


def test_the_board_is_sorted_by_click_and_by_key_and_searched(browser, tmp_path):
    clone = classroom.repository(tmp_path).teacher
    people = [f"student{number:02}" for number in range(1, 10)]
    for number, person in enumerate(people):
        changes = {"model__layers": 1 + 2 * (number % 2), "model__width": 8 * (1 + number // 2)}
        for seed in range(1 + 2 * (number % 3)):
            classroom.experiment(
                clone, f"{person}-{seed}", person, seed=seed, val=0.99 - number / 300 - seed / 500,
                accuracy=0.97 + (number * 7 % 10 - seed) / 500, parameters=2_000 * (number + 2),
                **changes,
            )  # fmt: skip
    clone.striate("board", "--local")
    browser.get((clone.folder / "reports/board.html").as_uri())
    table = browser.find_element(By.CLASS_NAME, "board")
    buttons = table.find_elements(By.TAG_NAME, "button")
    heads = table.find_elements(By.TAG_NAME, "th")
    best = column(table, 4)
    assert (len(best), best == sorted(best, reverse=True)) == (10, True)
    assert heads[3].get_attribute("aria-sort") == "descending"

    buttons[0].click()
    assert column(table, 1) == sorted(column(table, 1))
    buttons[2].send_keys(Keys.ENTER)
    assert column(table, 3) == list("5553331111")
    buttons[2].send_keys(Keys.SPACE)
    assert column(table, 3) == list("1111333555")
    assert [head.get_attribute("aria-sort") for head in heads] == [
        "none", "none", "ascending", "none", None, "none", "none", "none",
    ]  # fmt: skip
    browser.find_element(By.ID, "search").send_keys("width=24 student05")
    assert column(table, 8) == ["student05"]
    browser.find_element(By.ID, "search").send_keys(Keys.CONTROL, "a", Keys.BACK_SPACE)

    buttons[3].send_keys(Keys.ENTER)
    assert column(table, 4) == best
    assert_fits(browser)
    browser.keep("board_phone", 900)
    browser.emulate(1100, dark=True)
    browser.keep("board_dark", 900)
    browser.emulate(1100, dark=False)
    browser.keep("board", 900)
    assert browser.complaints() == []


@contextmanager
def serving(clone):
    """Serve MLflow's pages of a clone; yields the addresses that `striate ui` prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = subprocess.Popen(
        [sys.executable, "-m", "striate.cli", "ui", "--port", str(port)],
        cwd=clone.folder, env=clone.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    addresses = [running.stdout.readline().split()[-1] for _ in range(3)]
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except (ConnectionError, urllib.error.URLError):
            time.sleep(0.5)
    try:
        yield addresses
    finally:
        family = [running, *psutil.Process(running.pid).children(recursive=True)]
        for process in family:
            process.terminate()
        running.communicate(timeout=30)


@pytest.fixture(scope="module")
def server(clone):
    """The addresses of MLflow's pages of the clone."""
    with serving(clone) as addresses:
        yield addresses


@pytest.fixture(scope="module")
def runs(server):
    """The runs by name, as MLflow's server tells them, and where its pages of them are."""
    table, chart, _ = server
    base, experiment = table.split("/#/")[0], table.split("/experiments/")[1].split("/")[0]
    asked = urllib.request.Request(
        f"{base}/api/2.0/mlflow/runs/search",
        json.dumps({"experiment_ids": [experiment]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked) as answer:
        by_name = {run["info"]["run_name"]: run for run in json.load(answer)["runs"]}
    return SimpleNamespace(
        by_name=by_name, base=base, experiment=experiment, table=table, chart=chart
    )


def text_of(browser):
    return browser.find_element(By.TAG_NAME, "body").text


@pytest.fixture
def wide(browser):
    """The browser, wide enough for MLflow's pages."""
    browser.set_window_size(1700, 900)
    return browser


def test_mlflow_lists_the_runs_with_their_metrics(wide, runs):
    names = {"layers-1", "layers-3", "digits-2x16-seed0"}
    assert set(runs.by_name) == names
    wide.get(runs.table)
    wide.wait_for(lambda: all(name in text_of(wide) for name in names))
    assert "3 matching runs" in text_of(wide)
    wide.close_assistant()
    wide.wait_for(lambda: "test_accuracy" in text_of(wide))
    metrics = {m["key"]: m["value"] for m in runs.by_name["layers-3"]["data"]["metrics"]}
    assert str(metrics["test_accuracy"]) in text_of(wide)
    wide.keep("mlflow_table")
    assert wide.complaints() == []


def test_mlflow_draws_the_metrics_of_the_runs(wide, runs):
    wide.get(runs.chart)
    wide.wait_for(lambda: "Model metrics" in text_of(wide) and "val_loss" in text_of(wide))
    wide.close_assistant()
    wide.wait_for(lambda: wide.find_elements(By.CSS_SELECTOR, ".bars .point path"))
    # Learning curves precede the bars of the best epochs.
    assert text_of(wide).index("Model metrics") < (text_of(wide) + "best (").index("best (")
    # Where there is no mouse, each chart shows its buttons all the time.
    wide.execute_script("document.head.append(Object.assign(document.createElement('style'),"
                        " {textContent: '.modebar {display: none}'}))")  # fmt: skip
    time.sleep(2)  # for the bars to grow
    wide.keep("mlflow_chart")
    assert wide.complaints() == []


def test_mlflow_names_the_data_sets_of_a_run(wide, runs):
    wide.get(runs.table)
    wide.wait_for(lambda: "digits-train" in text_of(wide))
    wide.close_assistant()
    shown = wide.find_elements(By.XPATH, "//*[contains(text(), 'digits-train')]")
    wide.execute_script("arguments[0].click()", shown[0])
    wide.wait_for(lambda: "3 datasets used" in text_of(wide))
    time.sleep(1)  # for the drawer to open
    assert all(f"digits-{part}" in text_of(wide) for part in ("train", "validation", "test"))
    wide.keep("mlflow_data_set")
    assert wide.complaints() == []


def test_mlflow_shows_how_busy_the_machine_was_and_what_the_run_is(wide, runs):
    home = f"{runs.base}/#/experiments/{runs.experiment}/runs"
    page = f"{home}/{runs.by_name['layers-3']['info']['run_id']}"
    wide.get(f"{page}?workflowType=machine_learning")
    wide.wait_for(lambda: "dvc exp run -S model.layers=3" in text_of(wide))
    wide.close_assistant()
    wide.keep("mlflow_run")
    wide.get(f"{page}/system-metrics?workflowType=machine_learning")
    wide.wait_for(lambda: len(wide.find_elements(By.CLASS_NAME, "js-plotly-plot")) == 3)
    assert "cpu_utilization_percentage" in text_of(wide)


def test_mlflow_compares_the_checkpoints_of_the_runs(wide, runs):
    models = f"{runs.base}/#/experiments/{runs.experiment}/models?workflowType=machine_learning"
    wide.get(models)
    wide.wait_for(lambda: all(name in text_of(wide) for name in runs.by_name))
    wide.close_assistant()
    wide.wait_for(lambda: "test_accuracy" in text_of(wide))
    wide.keep("mlflow_models", 500)
    assert wide.complaints() == []


def test_mlflow_compares_the_params_of_the_runs(wide, runs):
    identities = json.dumps([run["info"]["run_id"] for run in runs.by_name.values()])
    wide.get(f"{runs.base}/#/compare-runs?runs={identities}&experiments=[%22{runs.experiment}%22]")
    wide.wait_for(
        lambda: "Comparing 3 Runs" in text_of(wide) and "Parallel Coordinates" in text_of(wide)
    )
    wide.wait_for(lambda: wide.find_elements(By.CSS_SELECTOR, ".parcoords"))
    assert "model.layers" in text_of(wide)
    wide.close_assistant()
    wide.keep("mlflow_parallel", 700)
    assert wide.complaints() == []


def test_mlflow_shows_the_report_of_a_run(wide, runs):
    run = runs.by_name["layers-3"]["info"]["run_id"]
    page = f"experiments/{runs.experiment}/runs/{run}/artifacts/report/index.html"
    wide.get(f"{runs.base}/#/{page}")
    frame = wide.wait_for(lambda: wide.find_elements(By.TAG_NAME, "iframe"))[0]
    wide.close_assistant()
    wide.switch_to.frame(frame)
    wide.wait_for(lambda: "convnet, 3 layers" in text_of(wide))
    wide.keep("mlflow_report", 1000)
    assert of(wide, "[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    wide.switch_to.default_content()
    assert wide.complaints() == []


def test_mlflow_draws_the_mean_over_the_seeds_of_a_setting_in_a_band(wide, tmp_path):
    clone = Clone.of_this_tree(tmp_path / "striate")
    for layers, seed in ((2, 1), (2, 2), (1, 0), (1, 1), (1, 2)):
        clone.run("dvc", "exp", "run", "--temp", "-n", f"layers-{layers}-seed-{seed}",
                  "-S", f"model.layers={layers}", "-S", f"seed={seed}")  # fmt: skip
    clone.striate("sync")
    tags = set(groups.tags(records.find(clone.folder).records).values())
    assert len(tags) == 2
    with serving(clone) as (_, _, grouped):
        wide.set_window_size(1600, 1100)
        wide.get(grouped)
        wide.wait_for(lambda: all(f"{tag} (val_accuracy)" in text_of(wide) for tag in tags))
        assert "Group by: striate.group" in text_of(wide)
        wide.close_assistant()
        first = wide.find_element(By.CSS_SELECTOR, ".js-plotly-plot")
        wide.wait_for(lambda: len(first.find_elements(By.CSS_SELECTOR, ".fills path")) == 2)
        # Where there is no mouse, each chart shows its buttons all the time.
        wide.execute_script("document.head.append(Object.assign(document.createElement('style'),"
                            " {textContent: '.modebar {display: none}'}))")  # fmt: skip
        time.sleep(2)  # for the bars to grow
        wide.keep("mlflow_groups")
        assert wide.complaints() == []


@pytest.fixture(scope="module")
def page(clone, mirror):
    """The address of the page that asks a champion which learnt from MNIST."""
    clone.env["STRIATE_MIRROR"] = str(mirror)
    clone.run(
        "dvc", "exp", "run", "--temp", "-n", "mnist", "-S", "data.name=mnist",
        "-S", "training.epochs=1", "-S", "augment.translate=2", "-S", "augment.rotate=10",
    )  # fmt: skip
    clone.striate("promote", "mnist")
    running = subprocess.Popen(
        [sys.executable, "-m", "striate.cli", "serve", "--port", "0"],
        cwd=clone.folder, env=clone.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield next(line.split()[0] for line in running.stdout if line.startswith("http"))
    started = psutil.Process(running.pid).children(recursive=True)
    running.terminate()
    assert running.communicate(timeout=30)[0] == "stopped\n"
    assert running.returncode == 0
    gone, alive = psutil.wait_procs(started, timeout=10)
    assert (bool(gone), alive) == (True, [])


def assert_fits(browser):
    """No page scrolls sideways, on a dark desk or a bright phone; the phone stays."""
    for width, dark in ((1100, True), (390, False)):
        browser.emulate(width, dark=dark)
        time.sleep(0.3)
        assert of(browser, "document.documentElement.scrollWidth") == width


def stroke(browser, *points):
    """Draw by the mouse, from point to point, in parts of the paper's size."""
    paper = browser.find_element(By.ID, "paper")
    width, height = paper.size["width"], paper.size["height"]
    mouse = ActionChains(browser, duration=100)
    for number, (x, y) in enumerate(points):
        mouse.move_to_element_with_offset(paper, int((x - 0.5) * width), int((y - 0.5) * height))
        if number == 0:
            mouse.click_and_hold()
    mouse.release().perform()


def test_a_seven_that_is_drawn_is_called_a_seven(browser, page):
    browser.get(page)

    def answer():
        return browser.find_element(By.ID, "answer").text

    assert answer() == "Nothing is drawn yet."
    stroke(browser, (0.28, 0.25), (0.5, 0.25), (0.72, 0.25), (0.6, 0.5), (0.45, 0.8))
    browser.wait_for(lambda: "%" in answer(), 30)
    name, share = answer().splitlines()
    assert name == "7"
    assert float(share.split("%")[0]) > 50
    bars = [bar.text.splitlines() for bar in browser.find_elements(By.CLASS_NAME, "bar")]
    assert len(bars) == 10
    assert sum(float(bar[-1].split("%")[0]) for bar in bars) == pytest.approx(100, abs=1)
    assert of(browser, "document.getElementById('seen').naturalWidth") >= 200
    browser.emulate(1100, dark=False)
    browser.keep("serve")
    assert_fits(browser)
    browser.find_element(By.ID, "clear").click()
    assert answer() == "Nothing is drawn yet."
    assert browser.complaints() == []


def test_the_inside_of_the_network_follows_the_drawing(browser, page):
    browser.get(page)
    look, layers = (browser.find_element(By.ID, name) for name in ("look", "layers"))
    assert not layers.is_displayed()
    look.click()
    assert layers.text == "Draw something."
    stroke(browser, (0.28, 0.25), (0.5, 0.25), (0.72, 0.25))

    def maps():
        pictures = layers.find_elements(By.CSS_SELECTOR, ".maps img")
        return [picture.get_attribute("src") for picture in pictures]

    def heat():
        """The first and the last row of the heat map with a colour, in parts of its height."""
        sheet = of(browser, "heat.hidden ? null : heat.toDataURL()")
        if sheet is None:
            return None
        with Image.open(io.BytesIO(base64.b64decode(sheet.partition(",")[2]))) as picture:
            alpha = np.asarray(picture.convert("RGBA"))[:, :, 3]
        return np.flatnonzero(alpha.any(axis=1))[[0, -1]] / len(alpha)

    browser.wait_for(lambda: heat() is not None, 30)
    bar, drawn = maps(), heat()
    # The line lies in the upper half of the paper, and so does what spoke for it.
    assert 0.1 < drawn[0] < drawn[1] < 0.5
    names = [head.text for head in layers.find_elements(By.TAG_NAME, "h3")]
    assert names == ["layer1: 16 channels of 14×14", "layer2: 32 channels of 7×7"]
    stroke(browser, (0.72, 0.25), (0.6, 0.5), (0.45, 0.8))
    browser.wait_for(lambda: maps() != bar and heat()[1] > 0.7, 30)
    assert len(maps()) == 2
    assert browser.find_element(By.ID, "answer").text.splitlines()[0] == "7"

    first = layers.find_element(By.CLASS_NAME, "maps")
    filters = layers.find_elements(By.CLASS_NAME, "filter")
    assert not filters[0].is_displayed()
    first.send_keys(Keys.ARROW_RIGHT)
    browser.wait_for(lambda: filters[0].text == "Filter of channel 0", 30)
    first.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_UP)
    browser.wait_for(lambda: filters[0].text == "Filter of channel 1", 30)
    assert first.get_attribute("aria-valuenow") == "1"
    assert of(browser, "document.querySelector('.filter img').naturalWidth") == 6  # with the gap
    second = layers.find_elements(By.CLASS_NAME, "maps")[1]
    second.click()
    browser.wait_for(lambda: ", a tile for each of 16 inputs" in filters[1].text, 30)
    browser.emulate(1100, dark=False)
    browser.keep("inside")
    assert_fits(browser)
    browser.keep("inside_phone")
    browser.find_element(By.ID, "clear").click()
    assert (heat(), layers.text) == (None, "Draw something.")
    look.click()
    assert not layers.is_displayed()
    assert browser.complaints() == []


def test_a_finger_draws_and_chooses_a_channel(browser, page):
    browser.get(page)
    browser.emulate(390, dark=False)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    browser.find_element(By.ID, "look").click()
    box = of(browser, "(({x, y, width}) => [x, y, width])(paper.getBoundingClientRect())")
    for kind, *place in (
        ("touchStart", 0.28, 0.25), ("touchMove", 0.72, 0.25), ("touchMove", 0.45, 0.8),
        ("touchEnd",),
    ):  # fmt: skip
        points = [
            {"x": box[0] + x * box[2], "y": box[1] + y * box[2]}
            for x, y in zip(place[::2], place[1::2], strict=True)
        ]
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    layers = browser.find_element(By.ID, "layers")
    browser.wait_for(lambda: layers.find_elements(By.CLASS_NAME, "maps"), 30)
    assert of(browser, "window.scrollY") == 0
    layers.find_element(By.CLASS_NAME, "maps").click()
    browser.wait_for(lambda: "Filter of channel" in layers.text, 30)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert browser.complaints() == []


def test_a_picture_that_is_chosen_is_answered_and_noise_is_flagged(browser, page, tmp_path, mirror):
    pixels = (mirror / "MNIST/raw/t10k-images-idx3-ubyte.gz").read_bytes()
    first = np.frombuffer(gzip.decompress(pixels), np.uint8, 784, 16).reshape(28, 28)  # a 7
    Image.fromarray(255 - first).resize((300, 300)).save(tmp_path / "seven.jpg")
    noise = np.random.RandomState(0).randint(0, 256, (300, 300, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    (tmp_path / "text.png").write_text("no picture")
    browser.get(page)
    chooser, flag = (browser.find_element(By.ID, name) for name in ("file", "flag"))
    chooser.send_keys(str(tmp_path / "seven.jpg"))
    browser.wait_for(lambda: "%" in browser.find_element(By.ID, "answer").text, 30)
    assert browser.find_element(By.ID, "answer").text.splitlines()[0] == "7"
    assert not flag.is_displayed()
    chooser.send_keys(str(tmp_path / "noise.png"))
    browser.wait_for(flag.is_displayed, 30)
    chooser.send_keys(str(tmp_path / "text.png"))
    browser.wait_for(lambda: "cannot be read" in browser.find_element(By.ID, "answer").text, 30)
    assert not flag.is_displayed()


def test_the_docs_are_searched_without_a_server(browser, site):
    browser.get((site / "index.html").as_uri())
    browser.find_element(By.CSS_SELECTOR, ".md-search__input").send_keys("median pruner")
    links = ".md-search-result__item a"
    browser.wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, links))
    found = [a.get_attribute("href") for a in browser.find_elements(By.CSS_SELECTOR, links)]
    assert any("/tuning.html" in address for address in found)
    assert browser.complaints() == []


@pytest.mark.parametrize("name", ["index", "params", "tutorial", "looking-closer", "ladder/digits"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_the_docs_fit_the_screen_and_its_colours(browser, site, name, width, dark):
    browser.emulate(width, dark=dark)
    browser.get((site / f"{name}.html").as_uri())
    assert of(browser, "document.documentElement.scrollWidth <= innerWidth")
    assert of(browser, "[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    ground = of(browser, "getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", ground)[:3])) < 80) == dark
