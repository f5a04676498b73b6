"""What the README names exists."""

import itertools
import re

import pytest
import yaml
from clones import Clone
from paths import ROOT

from striate import cli
from striate.config import params

README = (ROOT / "README.md").read_text()


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"make ([a-z-]+)`|\$ make ([a-z-]+)", README))
    assert {a or b for a, b in named} - targets == set()
    assert {"repro", "ui", "test", "lint"} <= {a or b for a, b in named}


def test_every_striate_command_exists(capsys, monkeypatch):
    named = set(re.findall(r"(?:\$|`|=off) ?striate ([a-z]+)", README))
    monkeypatch.setattr("sys.argv", ["striate", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    assert {"gate", "sync", "verify", "promote"} <= named
    assert all(re.search(rf"^\s+{name}\s", shown, re.M) for name in named)


def test_every_key_that_is_set_exists_and_takes_that_value():
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    count = 0
    for line in README.splitlines():
        settings = re.findall(r"-S '?([a-z_.]+)=([^\s'\"`]+)", line)
        alternatives = [
            [(key, value) for value in ([text] if text.startswith("[") else text.split(","))]
            for key, text in settings
        ]
        for chosen in itertools.product(*alternatives):
            changed = yaml.safe_load(yaml.safe_dump(values))
            for key, value in chosen:
                section, _, name = key.rpartition(".")
                place = changed[section] if section else changed
                assert name in place, key
                place[name] = yaml.safe_load(value)
            params.check(changed)
            count += len(chosen)
    assert count > 10


def test_every_linked_file_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_results_stand_within_the_first_25_lines():
    assert any("test accuracy" in line for line in README.splitlines()[:25])


# What takes minutes, or serves until it is stopped, and where it is tested instead.
ELSEWHERE = {
    "git clone ": "the clone of this test",
    "python deploy/services.py ": "tests/integration/test_team.py",
    "set -a; source ": "tests/integration/test_team.py",
    "git push && ": "tests/integration/test_team.py",
    "git pull && ": "tests/integration/test_team.py",
    "make ui": "tests/integration/test_browser.py",
    "make serve": "tests/integration/test_browser.py",
    "striate data images": "tests/unit/datasets/test_survey.py; it needs images",
    "dvc exp run -S data.name=folder": "tests/unit/datasets/test_folders.py; it needs pictures",
    "MLFLOW_TRACKING_URI=sqlite:///mlflow.db mlflow models serve": "test_agreement.py",
    "dvc exp run -n backbone": "tests/unit/models/test_timm_network.py; it needs the network",
    "dvc exp run $(striate recipe cifar10-94)": "test_recipes.py; it takes ten minutes",
    "make ladder": "tests/unit/cli/test_measure.py; it takes ten minutes",
    "striate ablate ladder/convnet": "tests/unit/cli/test_measure.py",
    "STRIATE_MIRROR=/path/to/mirror python benchmarks/training.py": "it takes ten minutes",
    "STRIATE_MIRROR=/path/to/mirror python benchmarks/tuning.py": "it takes more than an hour",
    "python benchmarks/residency.py": "it needs the rights of root",
    "python benchmarks/processors.py": "tests/unit/models/test_portable.py; it takes ten minutes",
    "STRIATE_MIRROR=/path/to/mirror python benchmarks/processors.py": "it takes minutes",
}


@pytest.mark.walk
@pytest.mark.timeout(2400)  # hundreds of trainings and a thousand made-up experiments
def test_every_command_runs_in_order(tmp_path, mirror):
    clone = Clone.of_this_tree(tmp_path / "striate")
    clone.env["STRIATE_MIRROR"] = str(mirror)
    blocks = re.findall(r"```console\n(.*?)```", README, re.S)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line[:2] == "$ "]
    ran = []
    for command in commands:
        if command.startswith(tuple(ELSEWHERE)):
            continue
        # The environment of this test is the one that make would make.
        shell = command.replace("make ", "make --old-file=setup ")
        shell = shell.replace("source .venv/bin/activate", "true")
        shell = shell.replace("STRIATE_MIRROR=/path/to/mirror ", "")
        if "dvc exp run" in shell and ("mnist" in shell or "cifar10" in shell):
            shell += " -S training.epochs=1 -S evaluate.tta=none"
        if "striate tune" in shell:
            shell += " --trials 2"
        if "sweep" in shell:
            shell += ' SWEEP="-S model.layers=1,2 -S training.epochs=1"'
        clone.run("bash", "-c", shell)
        ran.append(command)
    assert len(ran) > 12
    assert len(commands) - len(ran) == len(ELSEWHERE)
    experiments = clone.run("dvc", "exp", "list", "--name-only").split()
    assert {"deeper", "mnist", "transfer"} <= set(experiments)
    assert len(experiments) >= 6
    assert (clone.folder / "reports/compare.html").exists()
    assert (clone.folder / "reports/pareto.png").exists()
    assert "MLflow agrees with DVC on" in clone.striate("verify")
