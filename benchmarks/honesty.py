"""Do the statistics keep their promises? Measured on many trainings that differ in the seed alone.

    python benchmarks/honesty.py                  trains three pools of 80 seeds, then judges
    python benchmarks/honesty.py --keep FOLDER    keeps the pools there; again, it only judges
    python benchmarks/honesty.py --wall           the seconds of five seeds against one experiment

Two pools are of MNIST: one epoch over the first 6,000 training images, the committed setting and
one that differs. The third is of digits, as committed. `striate.analysis` and
`striate.reporting.uncertainty` judge groups drawn from them: of one setting, where nothing may be
found more often than promised, and of settings that differ, where as much must be found as
foretold. Set STRIATE_MIRROR to a folder with the data.
"""

import argparse
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import common
import numpy as np
import torch
from latency import experiment
from scipy.special import nctdtr

from striate.analysis import gate, significance
from striate.analysis.gate_sources import PARTS, Side
from striate.analysis.significance import Trained
from striate.config import params
from striate.data import arrays, tensors
from striate.evaluation import metrics
from striate.models import checkpoint, devices, normalization, portable, prediction, registry
from striate.reporting import seeds, uncertainty
from striate.reporting.uncertainty import LEVEL, Difference
from striate.tracking import records
from striate.training import history, loop
from striate.training.task import Task
from striate.training.torchrun import cores

IMAGES = 6000  # of MNIST's training set
OTHER = {"training__learning_rate": 0.0014}  # the setting that differs
GROUP = 5  # seeds, as many as `striate repeat` makes
DRAWS = 1000  # of groups, for each rate: chance moves 5 % by 0.7 points
FEW_IMAGES = 500  # so few that their choice matters beside that of the seeds
DROP = 3  # standard deviations of a metric
BETTER = re.compile(r"The setting (\S+) is better than")


class Pool(NamedTuple):
    """Trainings that differ in the seed alone: 0, 1, 2 and so on.

    Attributes:
        correct: whether each network classifies each test image correctly, bool (seeds, N).
        rows: the scores of each seed, as metrics/seeds.csv holds them.
        seconds: of each training and its scoring.
    """

    correct: np.ndarray
    rows: list
    seconds: list

    def column(self, name):
        return np.array([row[name] for row in self.rows])

    @property
    def accuracies(self):
        return self.column("test_accuracy")

    @property
    def sd(self):
        return float(self.accuracies.std(ddof=1))

    def group(self, name, drawn):
        return Trained(name, list(drawn), self.correct[drawn])


def trained(values, images):
    """Train and score in the way of the stages; returns the row of seeds.csv and `correct`."""
    start = time.perf_counter()
    settings = params.check(values)
    devices.keep_freed_memory()
    devices.set_deterministic(settings.training.deterministic is not False)
    folder = common.stored(settings.data.name)
    manifest = arrays.load_manifest(folder)
    device = torch.device("cpu")
    split, test = (tensors.load_split(folder, name, device) for name in ("train", "test"))
    split = tensors.Split(*(part[:images] for part in split))
    normalize = normalization.pick_normalization(manifest, settings.data.normalize)
    description = checkpoint.describe(settings.model.architecture(), manifest, normalize)
    torch.manual_seed(settings.seed)
    model = checkpoint.build(description)
    train_set, val_set = tensors.train_val_split(split, settings.data.val_size, settings.split_seed)
    model.fit_to_data(normalize(train_set.images[: registry.FIT_IMAGES]))
    rows = list(loop.fit(model, Task(train_set, val_set, settings, normalize)))
    logits = prediction.predict(
        model, test.images, normalize, batch_size=settings.evaluate.batch_size,
        tta=settings.evaluate.tta,
    )  # fmt: skip
    found = metrics.predictions_of(logits, test.labels)
    kept = rows[history.kept_epoch(rows, settings.training.keep) - 1]
    train = {name: value for name, value in kept.items() if name.endswith(("loss", "accuracy"))}
    correct = found.logits.argmax(1) == found.labels
    row = seeds.row(settings.seed, train, metrics.measure(found))
    return row, correct, time.perf_counter() - start


def make_pool(folder, count, images=None, **changes):
    """The pool of a setting: what lies in `folder`, and the seeds that it lacks trained anew."""
    values = common.params(**changes)
    name = hashlib.sha256(json.dumps([values, images, torch.__version__]).encode()).hexdigest()
    path = folder / f"honesty-{name[:16]}.npz"
    results = []
    if path.exists():
        with np.load(path) as kept:
            rows, seconds = json.loads(str(kept["scores"]))
            results = list(zip(rows, kept["correct"], seconds, strict=True))
    data = common.stored(values["data"]["name"])  # once, before two processes need it
    limits = {"OMP_NUM_THREADS": "1"}
    if portable.is_wanted(params.check(values).training, data):
        limits = portable.VARIABLES
    tasks = [(values | {"seed": seed}, images) for seed in range(len(results), count)]
    if tasks:
        results += in_processes(tasks, limits)
    rows, correct, seconds = zip(*results[:count], strict=True)
    if tasks:
        np.savez(path, correct=np.array(correct), scores=json.dumps([rows, seconds]))
    return Pool(np.array(correct), list(rows), list(seconds))


def in_processes(tasks, variables):
    """Train in new processes, where PyTorch reads these variables of the environment."""
    before = dict(os.environ)
    os.environ.update(variables)
    with multiprocessing.get_context("spawn").Pool(min(cores(), len(tasks))) as workers:
        results = workers.starmap(trained, tasks, chunksize=1)
        workers.close()
        workers.join()
    for key in variables.keys() - before.keys():
        del os.environ[key]
    os.environ.update(before)
    return results


def draws(pool, sizes):
    """Draw disjoint groups of seeds, DRAWS times; always the same ones."""
    random = np.random.RandomState(0)
    ends = list(itertools.accumulate(sizes))
    for _ in range(DRAWS):
        yield np.split(random.permutation(len(pool.rows))[: ends[-1]], ends[:-1])


def rate(found):
    return f"{np.mean(list(found)):.1%}"


def calls_better(sentences):
    return [bool(BETTER.search(sentence)) for sentence in sentences]


def equal_settings(pool):
    """Groups of one setting: how often do they seem to differ?"""
    pairs = [
        any(calls_better(significance.setting_sentences(pool.group("A", a), [pool.group("B", b)])))
        for a, b in draws(pool, [GROUP] * 2)
    ]
    many = [
        any(calls_better(significance.setting_sentences(
            pool.group("A", first), [pool.group(f"B{k}", one) for k, one in enumerate(others)])))
        for first, *others in draws(pool, [GROUP] * 5)
    ]  # fmt: skip
    single = [
        found.p < LEVEL
        for a, b in draws(pool, [GROUP, 1])
        for found in significance.differences(pool.group("A", a), [pool.group("B", b)])
    ]
    named, differ = 0, 0
    networks = list(itertools.combinations(range(40), 2))
    for a, b in networks:
        result = significance.mcnemar(pool.correct[a], pool.correct[b])
        said = [significance.network_sentence("A", "B", result)]
        said += significance.setting_sentences(pool.group("A", [a]), [pool.group("B", [b])])
        named += any(calls_better(said))
        differ += result.p < LEVEL
    return [
        [f"A/A: {DRAWS:,} comparisons of 5 against 5 seeds that call a setting better", "2 to 8%",
         rate(pairs)],
        ["– the first 200 of them, where chance alone moves 5% by 1.5 points either way", "2 to 8%",
         rate(pairs[:200])],
        [f"A/A: {DRAWS:,} comparisons of 4 groups of 5 with one that call any better (Holm)",
         "≤ 8%", rate(many)],
        ["A/A: 5 seeds against 1 more, “more than the seed explains”", "2 to 8%", rate(single)],
        [f"A/A, one against one: sentences of {len(networks)} pairs that call a setting better",
         "0", named],
        ["– such pairs of networks that McNemar's test tells apart (p < 0.05)", "",
         f"{differ} ({differ / len(networks):.0%})"],
    ]  # fmt: skip


def powers(pool, other):
    """Settings that differ: how often is it found, and how often was that foretold?"""
    unit, lines = 1 / pool.correct.shape[1], []
    for n in (5, 20):
        found = [
            uncertainty.welch(pool.accuracies[a], pool.accuracies[b] + pool.sd, unit).p < LEVEL
            for a, b in draws(pool, [n, n])
        ]
        foretold = uncertainty.power(pool.sd, (pool.sd, pool.sd), n, n)
        lines.append([f"better by 1 sd (shifted scores), {n} against {n} seeds: found",
                      f"{foretold:.1%} ± 10", rate(found)])  # fmt: skip
    gain = float(other.accuracies.mean() - pool.accuracies.mean())
    sds = (pool.sd, other.sd)
    needed = uncertainty.seeds_needed(gain, sds)
    key, value = next(iter(OTHER.items()))
    what = f"{key.replace('__', '.')} {value}, truly {100 * gain:+.2f} points"
    for n in (5, 20, *([needed] if needed and needed <= len(pool.rows) // 2 else [])):
        said = " (as many as `seeds_needed` says)" if n == needed else ""
        found = [
            significance.differences(pool.group("A", a), [other.group("B", b)])[0].p < LEVEL
            for a, b in draws(pool, [n, n])
        ]
        foretold = f"{uncertainty.power(gain, sds, n, n):.1%}"
        lines.append([f"{what}, {n} against {n} seeds{said}: found", f"{foretold} ± 10",
                      rate(found)])  # fmt: skip
        lines += same_seeds(pool, other, n)
    return lines


def same_seeds(pool, other, n):
    """As `powers`, where both settings have the same seeds, as `striate repeat` makes them."""
    gain = other.accuracies.mean() - pool.accuracies.mean()
    gains = other.accuracies - pool.accuracies
    foretold = uncertainty.power(gain, [float(gains.std(ddof=1))], n, n)
    found, false = [], []
    for (drawn,) in draws(pool, [n]):
        first, second = (dict(zip(drawn, one.accuracies[drawn], strict=True))
                         for one in (pool, other))  # fmt: skip
        found.append(uncertainty.compare(first, second).p < LEVEL)
        level = {seed: score - gain for seed, score in second.items()}
        false.append(uncertainty.compare(first, level).p < LEVEL)
    correlation = np.corrcoef(pool.accuracies, other.accuracies)[0, 1]
    return [
        [f"– the same {n} seeds on both sides (correlation {correlation:.2f}), paired: found",
         f"{foretold:.1%} ± 10", rate(found)],
        ["– the same with the gain taken off: found", "2 to 8%", rate(false)],
    ]  # fmt: skip


def intervals(pool, other):
    """How often an interval holds the mean that it is of."""
    few = Pool(pool.correct[:40], pool.rows[:40], [])
    mean = few.accuracies.mean()
    held = [found.low <= mean <= found.high for found in
            (uncertainty.summarize(few.accuracies[drawn].tolist())
             for (drawn,) in draws(few, [GROUP]))]  # fmt: skip
    lines = [["95% interval of 5 seeds of 40 holds the mean of the 40 (drawn without putting back:"
              " about 96% expected)", "93 to 97%", rate(held)]]  # fmt: skip
    random, wide, narrow = np.random.RandomState(1), [], []
    for a, b in draws(pool, [GROUP] * 2):
        here, there = np.split(random.permutation(pool.correct.shape[1]), [FEW_IMAGES])
        first, second = pool.correct[a][:, here], other.correct[b][:, here]
        by_seeds = uncertainty.welch(first.mean(1), second.mean(1), 1 / FEW_IMAGES)
        gains = other.correct[:, there].mean(0) - pool.correct[:, there].mean(0)
        for found, list_ in ((uncertainty.with_images(by_seeds, first, second), wide),
                             (by_seeds, narrow)):  # fmt: skip
            list_.append(holds(found, gains))
    lines += [
        [f"interval over seeds and images, 5 against 5 seeds on {FEW_IMAGES} images, holds the"
         " pools' difference on all other images", "93 to 97%", rate(wide)],
        ["– that over seeds alone (these settings err on the same images)", "", rate(narrow)],
    ]  # fmt: skip
    return lines


def holds(found, gains):
    """Whether an interval holds the mean of `gains`, whose own error by images widens it."""
    reach = (found.high - found.low) / 2 / found.error if found.error else 0.0
    error = math.hypot(found.error, gains.std(ddof=1) / math.sqrt(len(gains)))
    return abs(gains.mean() - found.value) <= reach * error


def side(rows):
    """The results that the gate would find, of one seed or a group."""
    own = rows[0].items()
    values = {
        records.TRAIN: {name: value for name, value in own if not name.startswith("test_")},
        records.TEST: {name[5:]: value for name, value in own if name.startswith("test_")},
    }
    return Side("here", values, group=rows if len(rows) > 1 else ())


def judged(rules):
    """Column in seeds.csv, better direction and tolerance of each metric that may be worse."""
    for file, of_file in rules.items():
        for metric, rule in of_file.items():
            if rule.better != "equal":
                yield seeds.column(PARTS[file], metric), rule


def lowered(pool, rules, sds):
    """The rows of a pool, each judged metric worse by so many of its standard deviations."""
    signs = {"higher": -1, "lower": 1}
    steps = {column: sds * signs[rule.better] * pool.column(column).std(ddof=1)
             for column, rule in judged(rules)}  # fmt: skip
    return [row | {column: row[column] + step for column, step in steps.items()}
            for row in pool.rows]  # fmt: skip


def failures(before, now, rules):
    """The columns of the metrics that fail the gate."""
    checks = gate.compare(side(before), side(now), rules)
    return {seeds.column(PARTS[check.file], check.metric) for check in checks if check.failed}


def gate_rates(pool, rules, pairs):
    """What fails the gate, and how often, over pairs of groups: equal, and after a drop.

    Returns:
        The sets of columns that fail, of each pair: of equal settings, and after DROP.
    """
    worse, equal, dropped = lowered(pool, rules, DROP), [], []
    for before, new in pairs:
        equal.append(failures(before, [pool.rows[k] for k in new], rules))
        dropped.append(failures(before, [worse[k] for k in new], rules))
    return equal, dropped


def gates(name, pool, committed):
    """The gate over seeds; rows of the table, and rows of each metric.

    Args:
        name: of the data.
        pool: of the setting.
        committed: the rows of metrics/seeds.csv, if they are of this setting.
    """
    rules = gate.load_rules(common.ROOT / "gate.yaml")
    noisy = {column for column, rule in judged(rules) if rule.tolerance == gate.NOISE}
    cases = {
        f"5 seeds against {n} new": [([pool.rows[k] for k in a], b)
                                     for a, b in draws(pool, [GROUP, n])]
        for n in (GROUP, 1)
    }  # fmt: skip
    if committed:
        known = {row[seeds.SEED] for row in committed}
        new = [k for k, row in enumerate(pool.rows) if row[seeds.SEED] not in known]
        random = np.random.RandomState(0)
        fives = [(committed, random.permutation(new)[:GROUP]) for _ in range(DRAWS)]
        cases["metrics/seeds.csv against 5 new"] = fives
        cases["metrics/seeds.csv against each of 40 new"] = [(committed, [k]) for k in new[:40]]
    lines, details = [], []
    for what, pairs in cases.items():
        equal, dropped = gate_rates(pool, rules, pairs)
        new = len(pairs[0][1])
        start = f"gate, {name}, {what}"
        # The tolerances that are numbers are those of digits.
        whole = "≤ 8%" if name == "digits" else ""
        lines += [
            [f"{start}: accuracy or macro F1 fails, equal params", "≤ 8%",
             rate(bool(found & noisy) for found in equal)],
            [f"{start}: any metric fails, equal params", whole, rate(map(bool, equal))],
            [f"{start}: accuracy or macro F1 fails, after a drop of {DROP} sd",
             "≥ 95%" if new == GROUP else f"{foretold_catch(new):.0%} foretold",
             rate(bool(found & noisy) for found in dropped)],
        ]  # fmt: skip
        for column, rule in judged(rules):
            details.append([
                f"{name}, {what}", column, rule.tolerance,
                f"{pool.column(column).std(ddof=1):.4f}",
                rate(column in found for found in equal),
                rate(column in found for found in dropped),
            ])  # fmt: skip
    lines.append(foretold_drop(name, pool, rules))
    if committed:
        lines += [luck(pool, rules, n) for n in (GROUP, 4 * GROUP)]
    return lines, details


def foretold_catch(new):
    """How often a test of GROUP seeds against so many finds a drop of DROP, from Student's t."""
    df = GROUP - 1 if new == 1 else GROUP + new - 2
    shift = DROP / math.sqrt(1 / GROUP + 1 / new)
    return 1 - nctdtr(df, shift, uncertainty.one_sided(df))


def luck(pool, rules, committed):
    """How much the rate of false failures hangs on which group was committed."""
    random, rates = np.random.RandomState(0), []
    for _ in range(50):
        order = random.permutation(len(pool.rows))
        before, rest = [pool.rows[k] for k in order[:committed]], order[committed:]
        news = [random.permutation(rest)[:GROUP] for _ in range(100)]
        rates.append(np.mean([
            bool(failures(before, [pool.rows[k] for k in new], rules)) for new in news
        ]))  # fmt: skip
    low, middle, high = np.quantile(rates, [0.1, 0.5, 0.9])
    return [f"– by which {committed} seeds were committed (50 draws), 5 new: any metric fails,"
            " equal params; median (10th to 90th percentile)", "",
            f"{middle:.0%} ({low:.0%}–{high:.0%})"]  # fmt: skip


def foretold_drop(name, pool, rules):
    """The drop in accuracy that the gate says 5 seeds find in 80 %, and how often they do."""
    variance = 2 * pool.sd**2 / GROUP
    spread = Difference(0.0, math.sqrt(variance), 2 * (GROUP - 1), 0.0, 0.0, 1.0)
    sds = uncertainty.detectable_drop(spread) / pool.sd
    worse = lowered(pool, rules, sds)
    found = ["test_accuracy" in failures([pool.rows[k] for k in a], [worse[k] for k in b], rules)
             for a, b in draws(pool, [GROUP] * 2)]  # fmt: skip
    return [f"gate, {name}, 5 against 5: catches the drop in accuracy that it says it would"
            f" ({sds:.2g} sd)", f"{uncertainty.POWER:.0%} ± 10", rate(found)]  # fmt: skip


def is_in(row, pool):
    """Whether a row of metrics/seeds.csv holds the scores of its seed in a pool."""
    own = next((one for one in pool.rows if one[seeds.SEED] == row[seeds.SEED]), None)
    # A network that was not read from its checkpoint rounds the last digits differently.
    return own is not None and all(math.isclose(own[k], row[k], rel_tol=1e-6) for k in own)


def describe(name, pool):
    mean, seconds = pool.accuracies.mean(), statistics.median(pool.seconds)
    print(f"{name}: {len(pool.rows)} seeds, test accuracy {mean:.2%} ± {pool.sd:.2%}, {seconds:.1f}"
          f" s each when they were trained\n")  # fmt: skip


def wall(rounds):
    """Seconds of one new experiment and of five new seeds of a setting, alternating."""
    found = {"one": [], "five": []}
    with tempfile.TemporaryDirectory() as scratch:
        clone = common.Clone(Path(scratch) / "clone", "HEAD")
        clone.seconds("dvc", "repro", "--quiet")
        clone.striate("sync")
        if clone.git("status", "--porcelain"):
            clone.commit("Results of this machine.")
        for number in range(rounds):
            found["one"].append(experiment(clone, number))
            width = f"model.width={17 + number}"  # never run before
            found["five"].append(
                clone.striate("repeat", "main", "-S", width, "--seeds", str(GROUP))
            )
            clone.striate("sync")
    ratio = statistics.median(found["five"]) / statistics.median(found["one"])
    common.table(["what", "target", "measured"], [
        ["dvc exp run -S model.layers=3 (s)", "", common.spread(found["one"], digits=1)],
        ["striate repeat main --seeds 5 (s)", "", common.spread(found["five"], digits=1)],
        ["5 seeds of digits against one experiment", "≤ 2 ×", f"{ratio:.2f} ×"],
    ])  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", metavar="SEEDS", type=int, default=80)
    parser.add_argument("--images", type=int, default=IMAGES, help="of MNIST's training set")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="keep the pools there")
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--rounds", type=int, default=3, help="of --wall")
    arguments = parser.parse_args()
    if arguments.pool < 41:
        sys.exit("--pool must be 41 or more: the table draws from 40")
    print(common.header() + "\n")
    if arguments.wall:
        wall(arguments.rounds)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        count = arguments.pool
        short = {"images": arguments.images, "data__name": "mnist", "training__epochs": 1}
        mnist = make_pool(folder, count, **short)
        other = make_pool(folder, count, **short, **OTHER)
        digits = make_pool(folder, count)
    start = time.perf_counter()
    describe("MNIST", mnist)
    describe("MNIST, " + ", ".join(f"{key} {value}" for key, value in OTHER.items()), other)
    describe("digits", digits)
    committed = seeds.read(common.ROOT / seeds.FILE)
    equal = sum(is_in(row, digits) for row in committed)
    print(f"{equal} of the {len(committed)} seeds in {seeds.FILE} have the scores of the pool of"
          " digits, to six digits\n")  # fmt: skip
    lines = equal_settings(mnist) + powers(mnist, other) + intervals(mnist, other)
    details = []
    for name, pool, group in (("digits", digits, committed), ("MNIST", mnist, [])):
        more, by_metric = gates(name, pool, group)
        lines, details = lines + more, details + by_metric
    common.table(["what", "target", "measured"], lines)
    print(f"\njudged in {time.perf_counter() - start:.0f} s; the gate, metric by metric:\n")
    common.table(["gate", "metric", "tolerance", "sd", "fails, equal params", f"fails, −{DROP} sd"],
                 details)  # fmt: skip


if __name__ == "__main__":
    main()
