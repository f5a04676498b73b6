"""A repository for one test, and the commands that a person types in it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from filelock import FileLock
from paths import ROOT
from settings import write_yaml

from striate.tracking import background


def without_waits(said):
    """Drop the waiting notes of `striate.console`, which depend on the machine, from stderr."""
    # A message with a long reason may end so, too.
    return re.sub(r"^(?!(?:error|warning|note):)[a-z].* \.\.\.\n", "", said, flags=re.MULTILINE)


RESULTS = {"dvc.lock", "metrics/train.json", "metrics/test.json", "metrics/shifted.json"}


class Clone:
    """A repository in `folder`, with an environment cleared of what outer processes set."""

    templates = None  # the folder of those that are copied; tests/conftest.py sets it

    def __init__(self, folder):
        self.folder = folder
        self.env = {
            # Coverage is measured of this tree, not of the copies of it.
            **{key: value for key, value in os.environ.items() if not key.startswith("COV")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "src",
            "DVC_NO_ANALYTICS": "true",
            "GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "test@localhost",
            # DVC runs stages with it; unlike bash, it stays where a command does not replace it.
            "SHELL": "/bin/sh",
            # Experiments that run side by side would fight over the cores.
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        for variable in (
            "DVC_ROOT",
            "DVC_EXP_NAME",
            "DVC_EXP_BASELINE_REV",
            "MLFLOW_TRACKING_URI",
            "MLFLOW_REGISTRY_URI",
            # Of the `make` that runs the tests.
            "MAKEFLAGS",
            "MAKELEVEL",
            "MFLAGS",
        ):
            self.env.pop(variable, None)

    @classmethod
    def unrun(cls, folder, variables=None, **changes):
        """Copy the files of this working tree without its results; nothing is committed yet.

        `variables` are set for the run; `changes` are keys of params.yaml, such as
        `training__epochs`.
        """
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        for name in set(listed) - RESULTS:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        write_yaml(folder, **changes)
        clone = cls(folder)
        clone.env |= variables or {}
        clone.run("git", "init", "-q", "-b", "main")
        return clone

    @classmethod
    def of_this_tree(cls, folder, variables=None, **changes):
        """Copy them as `unrun` does, run the pipeline once and commit the results.

        Without `variables`, the run is shared by all tests with these changes.
        """
        if variables:
            return cls._run_once(folder, variables, **changes)
        name = "-".join(f"{key}={value}" for key, value in sorted(changes.items())) or "unchanged"
        template, done = cls.templates / name, cls.templates / f"{name}.done"
        cls.templates.mkdir(exist_ok=True)
        with FileLock(cls.templates / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(template, ignore_errors=True)
                cls._run_once(template, **changes).settle()
                done.touch()
        shutil.copytree(template, folder, symlinks=True)
        return cls(folder)

    @classmethod
    def _run_once(cls, folder, variables=None, **changes):
        clone = cls.unrun(folder, variables, **changes)
        clone.run("git", "add", "-A")
        clone.run("git", "commit", "-qm", "Start.")
        clone.run("dvc", "repro")
        clone.run("git", "add", "-A")
        clone.run("git", "commit", "-qm", "Run.")
        return clone

    def settle(self):
        """Wait until nothing writes to MLflow in the background."""
        background.wait(self.folder)

    def run(self, *command, status=0):
        """Run a command and return what it printed; it must exit with `status`, if given."""
        answer = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        assert status in (None, answer.returncode), answer.stdout + answer.stderr
        return answer.stdout + without_waits(answer.stderr)

    def start(self, *command, **options):
        """Start a command in a process group of its own, as at a terminal."""
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, text=True, start_new_session=True,
            # A shell that runs the tests in the background has them ignore an interrupt.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options,
        )  # fmt: skip

    def striate(self, *arguments, status=0):
        return self.run(sys.executable, "-m", "striate.cli", *arguments, status=status)

    def json(self, path):
        return json.loads((self.folder / path).read_text())

    def lock_of_checkpoint(self):
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text())
        return next(
            out["md5"] for out in lock["stages"]["train"]["outs"] if out["path"] == "models"
        )

    def go_back(self, *options):
        """Restore the committed working tree; `options` are of `dvc checkout`."""
        self.run("git", "checkout", "-q", ".")
        self.run("dvc", "checkout", "-q", *options)
