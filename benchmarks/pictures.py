"""How a network of digits does on pictures that are not from its data set, and what it flags.

python benchmarks/pictures.py CHECKPOINT [--show FOLDER]

The pictures are drawn here, 30 of each kind and always the same: printed in fonts that come with
matplotlib, or drawn with a pen along the strokes below. `before` only makes a picture grey and of
the network's size; `after` prepares it as `striate predict` does.
"""

import argparse
import io
import math
import os
import tempfile
from pathlib import Path

import common
import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from striate.data import tensors
from striate.datasets import fetch
from striate.models import calibration, checkpoint, prediction
from striate.serving import inference, preprocess

SIDE = 280  # pixels of a canvas
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")
LETTERS = "ABCDEFGHJKLMNPQRTUVWXY"  # those that are no digits: neither I, O, S nor Z


def arc(x, y, across, down, start, end):
    """Points of an ellipse, angles in degrees clockwise from the right."""
    return [
        (x + across * math.cos(math.radians(a)), y + down * math.sin(math.radians(a)))
        for a in np.linspace(start, end, 25)
    ]


# On a square from 0 to 1, as a person writes them.
STROKES = {
    0: [arc(0.5, 0.5, 0.26, 0.4, -90, 270)],
    1: [[(0.36, 0.26), (0.54, 0.1), (0.54, 0.9)]],
    2: [[*arc(0.5, 0.32, 0.24, 0.22, -170, 40), (0.26, 0.9), (0.78, 0.9)]],
    3: [[*arc(0.47, 0.3, 0.24, 0.2, -150, 90), *arc(0.47, 0.7, 0.28, 0.2, -90, 150)]],
    4: [[(0.58, 0.1), (0.22, 0.62), (0.8, 0.62)], [(0.62, 0.36), (0.62, 0.92)]],
    5: [[(0.74, 0.1), (0.34, 0.1), (0.3, 0.46), *arc(0.48, 0.66, 0.27, 0.24, -125, 150)]],
    6: [[(0.66, 0.1), (0.42, 0.34), *arc(0.5, 0.68, 0.24, 0.22, -170, 190)]],
    7: [[(0.22, 0.12), (0.78, 0.12), (0.44, 0.9)]],
    8: [[*arc(0.5, 0.3, 0.2, 0.2, 90, 450), *arc(0.5, 0.7, 0.25, 0.2, -90, 270)]],
    9: [[*arc(0.5, 0.32, 0.23, 0.22, 0, -360), (0.7, 0.9)]],
}


def drawn(digit, random, pen, place=(40, 40), scale=200):
    """A digit in black on white; every point of its strokes is moved a little."""
    canvas = Image.new("L", (SIDE, SIDE), 255)
    brush = ImageDraw.Draw(canvas)
    slant = random.uniform(-0.15, 0.15)
    for stroke in STROKES[digit]:
        points = np.array(stroke) + random.normal(0, 0.008, (len(stroke), 2))
        points[:, 0] += slant * (0.5 - points[:, 1])
        corners = [tuple(point) for point in points * scale + place]
        brush.line(corners, fill=0, width=pen, joint="curve")
        for x, y in (corners[0], corners[-1]):
            brush.ellipse([x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2], fill=0)
    return canvas


def printed(text, font, size=200):
    path = Path(matplotlib.get_data_path(), "fonts/ttf", f"{font}.ttf")
    canvas = Image.new("L", (SIDE, SIDE), 255)
    middle = (SIDE / 2, SIDE / 2)
    ImageDraw.Draw(canvas).text(middle, text, 0, ImageFont.truetype(path, size), anchor="mm")
    return canvas


def photographed(picture, random):
    """On paper under uneven light, a little out of focus, noisy, and badly compressed."""
    values = np.asarray(picture.filter(ImageFilter.GaussianBlur(2)), np.float32) / 255
    light = 0.75 + 0.2 * np.linspace(-1, 1, SIDE)[None] * random.choice([-1, 1])
    noisy = (0.25 + 0.75 * values) * light + random.normal(0, 0.04, values.shape)
    buffer = io.BytesIO()
    Image.fromarray((255 * noisy).clip(0, 255).astype(np.uint8)).save(buffer, "jpeg", quality=20)
    return Image.open(buffer).convert("L")


def kinds():
    """Kind → 30 pictures: of each digit three, in its order."""
    random = np.random.RandomState(2)
    thirty = [(digit, number) for digit in range(10) for number in range(3)]
    pens = (14, 20, 26)
    medium = [drawn(digit, random, pens[number]) for digit, number in thirty]
    corners = ((5, 5), (150, 10), (140, 150))
    return {
        "fonts": [printed(str(digit), FONTS[number]) for digit, number in thirty],
        "thin pen": [drawn(digit, random, 5) for digit, _ in thirty],
        "thick pen": [drawn(digit, random, 40) for digit, _ in thirty],
        "inverted": [Image.eval(picture, lambda value: 255 - value) for picture in medium],
        "off-centre": [drawn(d, random, 12, corners[n], 110) for d, n in thirty],
        "rotated by 15°": [
            picture.rotate((15, -15)[number % 2], Image.Resampling.BICUBIC, fillcolor=255)
            for number, picture in enumerate(medium)
        ],
        "photographed": [photographed(picture, random) for picture in medium],
    }


def resized(picture, shape, peak):
    values = np.asarray(picture.resize((shape[2], shape[1]), Image.Resampling.LANCZOS), np.float32)
    return np.rint(values * (peak / 255)).astype(np.uint8)[None]


def logits_of(trained, prepared):
    stacked = torch.from_numpy(np.stack(prepared))
    return prediction.predict(trained.model, stacked, trained.normalization, batch_size=1000)


def overview(pairs, peak):
    """One picture of each kind above what the network sees of it."""
    side, gap, head = 112, 12, 26
    font = ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), 13)
    size = (gap + len(pairs) * (side + gap), head + 2 * (side + gap))
    sheet = Image.new("L", size, 255)
    brush = ImageDraw.Draw(sheet)
    for number, (kind, (picture, pixels)) in enumerate(pairs.items()):
        left = gap + number * (side + gap)
        brush.text((left + side / 2, head / 2), kind, 40, font, anchor="mm")
        brush.rectangle((left - 1, head - 1, left + side, head + side), outline=190)
        sheet.paste(picture.resize((side, side)), (left, head))
        sheet.paste(inference.view(pixels, peak).resize((side, side), 0), (left, head + side + gap))
    return sheet


def by_kind(trained, prepare, show):
    """The table of accuracies."""
    labels = torch.arange(10).repeat_interleave(3)
    description = trained.description
    shape, peak = description["shape"], description["normalization"]["peak"]
    rows, sums, pairs = [], [0, 0], {}
    for kind, pictured in kinds().items():
        before = logits_of(trained, [resized(picture, shape, peak) for picture in pictured])
        seen = [prepare(picture) for picture in pictured]
        after = logits_of(trained, seen)
        right = [int((logits.argmax(1) == labels).sum()) for logits in (before, after)]
        sums = [total + count for total, count in zip(sums, right, strict=True)]
        rows.append([kind, *(f"{count} of 30" for count in right)])
        example = 3 * len(pairs) + 6
        pairs[kind] = pictured[example], seen[example]
        if show:
            sheet = Image.new("L", (30 * 60, 130), 128)
            for number, (picture, pixels) in enumerate(zip(pictured, seen, strict=True)):
                sheet.paste(picture.resize((56, 56)), (number * 60 + 2, 4))
                sheet.paste(inference.view(pixels, peak).resize((56, 56), 0), (number * 60 + 2, 68))
            sheet.save(show / f"{kind}.png")
    if show:
        overview(pairs, peak).save(show / "overview.png", optimize=True)
    rows.append(["all", *(f"{total / (30 * len(rows)):.0%}" for total in sums)])
    common.table(["30 pictures of each kind", "right before", "right after"], rows)


def stored(name, part="test"):
    with tempfile.TemporaryDirectory() as folder:
        fetch.prepare(name, Path(folder), os.environ.get("STRIATE_MIRROR"))
        return tensors.load_split(Path(folder), part, torch.device("cpu"))


def auroc(inside, outside):
    """The probability that a picture from outside scores higher than one from inside."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    return (ranks.sum() - len(outside) * (len(outside) + 1) / 2) / (len(inside) * len(outside))


def flagged(trained, prepare):
    """The table of what is said to be unlike the training images."""
    random = np.random.RandomState(1)
    noise = random.randint(0, 256, (1000, SIDE, SIDE), dtype=np.uint8)
    soft = [Image.fromarray(values).filter(ImageFilter.GaussianBlur(12)) for values in noise[:500]]
    _, height, width = trained.description["shape"]
    small = random.randint(0, 256, (1000, height, width), dtype=np.uint8)
    sources = {
        "its own test images": stored(trained.description["data"]).images.numpy(),
        "drawn digits (the kinds above)": [prepare(p) for group in kinds().values() for p in group],
        "the test images of digits": [
            prepare(Image.fromarray((values[0] * 15).astype(np.uint8)))
            for values in stored("digits").images.numpy()
        ],
        "letters in fonts": [
            prepare(printed(letter, font, size))
            for letter in LETTERS + LETTERS.lower() for font in FONTS for size in (140, 200)
        ],
        "noise": [prepare(Image.fromarray(values)) for values in noise],
        "noise of the network's size": [prepare(Image.fromarray(values)) for values in small],
        "soft clouds": [prepare(picture) for picture in soft],
    }  # fmt: skip
    logits = {name: logits_of(trained, list(group)) for name, group in sources.items()}
    own = logits["its own test images"]
    rows = []
    for name, found in logits.items():
        verdicts = inference.calibrated(found, trained.description["confidence"])
        share = np.mean([verdict.out_of_distribution for verdict in verdicts])
        unsure = [1 - group.double().softmax(1).amax(1).numpy() for group in (own, found)]
        energy = [calibration.energy(group).numpy() for group in (own, found)]
        scores = ["–", "–"] if found is own else [f"{auroc(*e):.3f}" for e in (energy, unsure)]
        rows.append([name, f"{len(found):,}", f"{share:.1%}", *scores])
    common.table(
        ["pictures", "count", "flagged", "AUROC of the energy", "AUROC of 1 − max softmax"], rows
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--show", type=Path, help="a folder for pictures of what the network saw")
    arguments = parser.parse_args()
    trained = checkpoint.load(arguments.checkpoint, torch.device("cpu"))
    description = trained.description
    shape, peak = description["shape"], description["normalization"]["peak"]
    if arguments.show:
        arguments.show.mkdir(parents=True, exist_ok=True)
    torch.set_grad_enabled(False)
    print(common.header(), end="\n\n")

    def prepare(picture):
        return preprocess.prepare(picture, shape, peak, description["frame"])

    by_kind(trained, prepare, arguments.show)
    print()
    flagged(trained, prepare)


if __name__ == "__main__":
    main()
