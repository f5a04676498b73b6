"""How long the page of `striate serve` takes to follow a stroke with its view inside open.

    striate serve &
    python benchmarks/inside.py http://127.0.0.1:PORT

Headless Chromium draws by mouse events. A round begins at the movement of the mouse that draws, and
ends where all layers and the heat map of that drawing are on the page.
"""

import argparse
import shutil
import sys

from common import ROOT, header, spread
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "tests/helpers")]

from test_browser import Browser

WATCH = """
window.rounds = [];
let begun = 0;
paper.addEventListener("pointermove", () => { begun ||= performance.now(); }, true);
const drawn = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (...given) {
  drawn.apply(this, given);
  if (this.canvas.id === "heat" && begun) { rounds.push(performance.now() - begun); begun = 0; }
};
"""
STEP, ACROSS = 16, 10  # pixels a movement, movements a row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address")
    parser.add_argument("--strokes", type=int, default=60)
    arguments = parser.parse_args()
    browser = Browser(shutil.which("chromium"), shutil.which("chromedriver"), 1100)
    try:
        browser.get(arguments.address)
        browser.find_element(By.ID, "look").click()
        browser.execute_script(WATCH)
        paper = browser.find_element(By.ID, "paper")
        mouse = ActionChains(browser, duration=0).move_to_element_with_offset(paper, -80, -80)
        mouse.click_and_hold()
        for number in range(arguments.strokes):
            row, place = divmod(number, ACROSS)
            right = STEP if row % 2 == 0 else -STEP
            mouse.move_by_offset(*((0, STEP) if place == 0 else (right, 0))).pause(0.3)
        mouse.release().perform()
        found = browser.execute_script("return rounds")
    finally:
        browser.quit()
    print(header())
    slow = sorted(found)[int(0.95 * len(found))]
    print(f"{len(found)} rounds: {spread(found, ' ms', 0)}; 95 % take at most {slow:.0f} ms")


if __name__ == "__main__":
    main()
