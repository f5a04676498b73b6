"""A class without trainings: clones of one remote, and experiments that nobody ran."""

import hashlib
import json
import os
import subprocess
from types import SimpleNamespace

import yaml
from clones import RESULTS, Clone
from paths import ROOT

SCORES = ("metrics/train.json", "metrics/test.json")


def repository(folder):
    """A clone that holds the committed results, which it pushed to a bare `origin` beside it.

    Returns:
        The clone; `person(NAME)` clones the remote for somebody.
    """
    clone = Clone.unrun(folder / "teacher")
    for name in RESULTS:
        if (ROOT / name).exists():
            (clone.folder / name).parent.mkdir(exist_ok=True)
            (clone.folder / name).write_bytes((ROOT / name).read_bytes())
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Start.")
    clone.run("git", "init", "-q", "--bare", "-b", "main", str(folder / "origin"))
    clone.run("git", "remote", "add", "origin", str(folder / "origin"))
    clone.run("git", "push", "-q", "-u", "origin", "main")

    def person(name):
        clone.run("git", "clone", "-q", str(folder / "origin"), str(folder / name))
        return Clone(folder / name)

    return SimpleNamespace(teacher=clone, person=person)


def experiment(clone, name, author, *, seed=0, val=0.9, accuracy=0.9, parameters=14_634,
               lock=None, **changes):  # fmt: skip
    """Add an experiment to DVC as a commit: its params and scores, and the files of none.

    Args:
        clone: which holds the committed results.
        name: of the experiment.
        author: of its commit.
        seed: of the training.
        val: validation accuracy.
        accuracy: of the test set.
        parameters: of the network.
        lock: the text of its dvc.lock, if it is to be another.
        changes: params, such as `model__layers`.
    """
    stages = yaml.safe_load((clone.folder / "dvc.lock").read_text())
    train = stages["stages"]["train"]["params"]["params.yaml"]
    train["seed"] = seed
    for key, value in changes.items():
        section, _, key = key.partition("__")
        train[section][key] = value
    text = yaml.safe_dump(stages)
    files = {}
    scores = {"val_accuracy": val, "parameters": parameters}, {"accuracy": accuracy}
    for path, score in zip(SCORES, scores, strict=True):
        old = (clone.folder / path).read_text()
        files[path] = json.dumps(json.loads(old) | score)
        text = text.replace(_md5(old), _md5(files[path]))
    files["dvc.lock"] = text if lock is None else lock
    head = clone.run("git", "rev-parse", "HEAD").strip()
    stream = [
        f"commit refs/exps/{head[:2]}/{head[2:]}/{name}",
        f"author {author} <student@localhost> 1700000000 +0000",
        "committer x <x@localhost> 1700000000 +0000\ndata 0\n",
        f"from {head}",
    ]
    for path, content in files.items():
        stream.append(f"M 100644 inline {path}\ndata {len(content.encode())}\n{content}")
    subprocess.run(
        ["git", "fast-import", "--quiet"], cwd=clone.folder, env=os.environ, check=True,
        input="\n".join(stream).encode(),
    )  # fmt: skip


def _md5(text):
    return hashlib.md5(text.encode()).hexdigest()
