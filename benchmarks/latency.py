"""How long a person waits: this commit against another one, in turn, medians.

    python benchmarks/latency.py                      one experiment, tracking, a no-op `make repro`
    python benchmarks/latency.py --before REV         against that commit (default: HEAD~1)
    python benchmarks/latency.py --experiments 1000   the commands over so many experiments
    python benchmarks/latency.py --compiled           with all bytecode compiled, for both

Everything happens in clones in a temporary folder, which share this environment. The experiments
are commits under refs/exps with other seeds and scores, and the files of one training.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import statistics
import tempfile
from pathlib import Path

from common import Clone, header, spread, table

BYTECODE = "PYTHONDONTWRITEBYTECODE"


def in_turn(clones, rounds, measure):
    """Seconds by clone, alternating; `measure` gets a clone and the round."""
    found = {name: [] for name in clones}
    for number in range(rounds):
        for name, clone in clones.items():
            found[name].append(measure(clone, number))
    return found


def row(what, found, target):
    after = statistics.median(found["after"])
    before = statistics.median(found["before"])
    return [what, spread(found["before"], digits=1), spread(found["after"], digits=1),
            f"{after / before:.2f}", target]  # fmt: skip


def experiment(clone, number):
    """`dvc exp run` of params that were never run; what is left behind it is not waited for."""
    found = clone.seconds("dvc", "exp", "run", "-S", "model.layers=3", "-S", f"seed={number + 1}")
    clone.git("checkout", "--quiet", ".")
    clone.seconds("dvc", "checkout", "--quiet", "--force")
    clone.striate("sync")
    return found


def stages(clone, tracking):
    found = clone.seconds("dvc", "repro", "--force", "--no-run-cache", STRIATE_TRACKING=tracking)
    clone.striate("sync")
    return found


def no_op(clone, _):
    return clone.seconds("make", "--old-file=.venv/.ready", "repro")


def disown(clone):
    """Commit results that nobody here has the files of, as those of another processor."""
    path = clone.folder / "dvc.lock"
    text = path.read_text()
    digests = set(re.findall(r"path: models\n\s+hash: md5\n\s+md5: (\w+\.dir)", text))
    for digest in digests:
        text = text.replace(digest, digest[::-1].removeprefix("rid.") + ".dir")
    own, metrics = path.read_bytes(), (clone.folder / "metrics/test.json").read_bytes()
    path.write_text(text)
    clone.commit("Results of another machine.")
    path.write_bytes(own)
    (clone.folder / "metrics/test.json").write_bytes(metrics)
    clone.seconds("make", "--old-file=.venv/.ready", "repro")


def fabricate(clone, count, start=0):
    """Add experiments to DVC: other seeds and test scores, with the files of the first training."""
    head = clone.git("rev-parse", "HEAD")
    lock = (clone.folder / "dvc.lock").read_text()
    read = {path: (clone.folder / path).read_text() for path in
            ("metrics/train.json", "metrics/test.json")}  # fmt: skip
    stream = []
    for number in range(start, start + count):
        draw = random.Random(number)
        files = {"dvc.lock": re.sub(r"(?m)^(\s+)seed: 0$", rf"\1seed: {number + 10}", lock)}
        for path, text in read.items():
            scores = json.loads(text)
            if "accuracy" in scores:
                scores["accuracy"] = draw.uniform(0.9, 0.99)
            files[path] = json.dumps(scores, indent=2) + "\n"
            old, new = (hashlib.md5(t.encode()).hexdigest() for t in (text, files[path]))
            files["dvc.lock"] = files["dvc.lock"].replace(old, new)
        ref = f"refs/exps/{head[:2]}/{head[2:]}/made-{number}"
        stream.append(f"commit {ref}\ncommitter x <x@localhost> 1700000000 +0000\ndata 0\n\n"
                      f"from {head}\n")  # fmt: skip
        for path, text in files.items():
            stream.append(f"M 100644 inline {path}\ndata {len(text.encode())}\n{text}\n")
    clone.git("fast-import", "--quiet", given="".join(stream).encode())


def over_many(clone, count, rounds):
    """Seconds of the commands over so many experiments."""
    fabricate(clone, count - 1)
    found = {}
    print(f"{count:,} experiments: their runs in MLflow took {clone.striate('sync'):.0f} s")
    clone.striate("sync")
    origin = f"{clone.folder}.git"
    clone.git("init", "--quiet", "--bare", origin)
    clone.git("remote", "add", "class", origin)
    clone.git("push", "--quiet", "class", "HEAD:refs/heads/main", "refs/exps/*:refs/exps/*")
    first = clone.striate("board", "--remote", "class")
    print(f"{count:,} experiments: the first board took {first:.1f} s")
    commands = {
        "sync, nothing new": ("sync",),
        "sync, one new": ("sync",),
        "verify": ("verify",),
        "experiments": ("experiments",),
        "compare A B, first output": ("compare", "main", "made-1"),
        "pareto, first output": ("pareto",),
        "board, read before": ("board", "--remote", "class"),
    }
    for number, (what, command) in itertools.product(range(rounds), commands.items()):
        if what == "sync, one new":
            fabricate(clone, 1, count + number)
        found.setdefault(what, []).append(clone.striate(*command, first="first" in what))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="REV", default="HEAD~1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--experiments", metavar="N", type=int, nargs="+")
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    if arguments.compiled:
        os.environ.pop(BYTECODE, None)
    print(f"{header()}; {BYTECODE} {'is' if BYTECODE in os.environ else 'is not'} set\n")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if arguments.experiments:
            rows = {}
            for count in arguments.experiments:
                clone = Clone(folder / str(count), "HEAD")
                clone.seconds("dvc", "repro", "--quiet")
                clone.striate("sync")
                for what, seconds in over_many(clone, count, arguments.rounds).items():
                    rows.setdefault(what, [what]).append(spread(seconds, digits=1))
                shutil.rmtree(clone.folder)
            heads = [f"{count:,} experiments" for count in arguments.experiments]
            table(["seconds", *heads], rows.values())
            return
        clones = {name: Clone(folder / name, revision) for name, revision in
                  (("before", arguments.before), ("after", "HEAD"))}  # fmt: skip
        for clone in clones.values():
            clone.seconds("dvc", "repro", "--quiet")
            clone.striate("sync")
            if clone.git("status", "--porcelain"):
                clone.commit("Results of this machine.")
        rounds = arguments.rounds
        rows = [row("dvc exp run -S model.layers=3", in_turn(clones, rounds, experiment), "0.4")]
        both = {name: in_turn(clones, rounds, lambda clone, _, on=name: stages(clone, on))
                for name in ("on", "off")}  # fmt: skip
        rows.append(row("dvc repro --force", both["on"], ""))
        rows.append(row("dvc repro --force, tracking off", both["off"], ""))
        rows.append(row("make repro, nothing to do", in_turn(clones, rounds, no_op), "2.5 s"))
        for clone in clones.values():
            disown(clone)
        foreign = in_turn(clones, rounds, no_op)
        rows.append(row("the same over results of another machine", foreign, "2.5 s"))
    table(["seconds", "before", "after", "ratio", "target"], rows)
    for name in ("before", "after"):
        on, off = (statistics.median(both[switch][name]) for switch in ("on", "off"))
        print(f"\ntracking costs {on - off:+.1f} s {name}")


if __name__ == "__main__":
    main()
