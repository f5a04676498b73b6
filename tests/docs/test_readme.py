"""What the README and the pages of the site name exists, and their commands run."""

import itertools
import re
from collections import Counter

import pytest
import yaml
from clones import Clone
from paths import ROOT
from site_pages import PAGES, commands

from striate import cli
from striate.config import params

README = (ROOT / "README.md").read_text()
TEXTS = {name: path.read_text() for name, path in PAGES.items()}
ALL = "\n".join(TEXTS.values())


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([a-z-]+)[ `]|\$ make ([a-z-]+)", ALL))
    assert {a or b for a, b in named} - targets == set()
    assert {"repro", "ui", "test", "lint"} <= {a or b for a, b in named}


def test_every_striate_command_exists(capsys, monkeypatch):
    named = set(re.findall(r"(?:\$|`|=off) ?striate ([a-z]+)", ALL))
    monkeypatch.setattr("sys.argv", ["striate", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    assert {"gate", "sync", "verify", "promote"} <= named
    assert all(re.search(rf"^\s+{name}\s", shown, re.M) for name in named)


def test_every_key_that_is_set_exists_and_takes_that_value():
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    count = 0
    for line in ALL.splitlines():
        settings = [
            (key, text)
            for key, text in re.findall(r"-S '?([a-z_.]+)=([^\s'\"`]+)", line)
            if text != "N"  # what the reader fills in
        ]
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
    assert count > 40


def test_every_file_that_the_readme_links_to_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_results_stand_within_the_first_25_lines():
    assert any("test accuracy" in line for line in README.splitlines()[:25])


def test_the_readme_is_a_front_page_that_leads_to_every_page():
    assert len(README.splitlines()) <= 160
    linked = set(re.findall(r"\]\(docs/([\w/-]+\.md)\)", README))
    led_to = linked | set(re.findall(r"\]\(([\w/-]+\.md)[)#]", "".join(TEXTS.values())))
    assert set(PAGES) - led_to == {"index.md", "deploy.md"}  # deploy/README.md, by its folder
    assert "deploy/" in README


def test_no_two_commands_give_an_experiment_the_same_name():
    pages = [text for name, text in TEXTS.items() if name != "deploy.md"]  # of other commits
    named = re.findall(r"^\$ dvc exp run -n (\w+)", "\n".join(pages), re.M)
    assert len(named) >= 4
    assert max(Counter(named).values()) == 1  # DVC refuses the second one


# Pages whose commands need other repositories or services, and where they are tested.
PAGES_ELSEWHERE = {
    "deploy.md": "tests/integration/test_team.py, test_deploy.py",
    "teaching.md": "tests/integration/test_class.py",
    "notebook.md": "tests/integration/test_exercise.py",
}
# Commands that take minutes, or serve until they are stopped, and where they are tested instead.
ELSEWHERE = {
    "git clone ": "the clone of this test",
    "python deploy/services.py ": "tests/integration/test_team.py",
    "set -a; source ": "tests/integration/test_team.py",
    "git push && ": "tests/integration/test_team.py",
    "git pull && ": "tests/integration/test_team.py",
    "gto register ": "tests/integration/test_model_registry.py",
    "git push origin classifier": "tests/integration/test_model_registry.py",
    "dvc push": "tests/integration/test_model_registry.py",
    "dvc artifacts get ": "tests/integration/test_model_registry.py",
    "make ui": "tests/integration/test_browser.py",
    "make serve": "tests/integration/test_browser.py",
    "striate data images": "tests/unit/datasets/test_survey.py; it needs images",
    "dvc exp run -S data.name=folder": "tests/unit/datasets/test_folders.py; it needs pictures",
    "striate doubts -S data.name=folder": "tests/integration/test_doubtful_labels.py",
    "cp reports/doubts/leave_out.txt ": "tests/integration/test_doubtful_labels.py",
    "MLFLOW_TRACKING_URI=sqlite:///mlflow.db mlflow models serve": "test_agreement.py",
    "pip install '.[timm]'": "timm is in the environment of the tests",
    "dvc exp run -n backbone": "tests/unit/models/test_timm_network.py; it needs the network",
    "dvc exp run -S model.arch=timm:": "tests/integration/test_timm.py; it needs larger images",
    "striate fetch timm:": "tests/integration/test_timm.py; it needs the network",
    "dvc exp run $(striate recipe cifar10-94)": "test_recipes.py; it takes ten minutes",
    "make ladder": "tests/unit/cli/test_measure.py; it takes ten minutes",
    "striate ladder cifar10": "tests/unit/cli/test_measure.py; it takes an hour",
    "striate repeat ladder/": "tests/unit/cli/test_measure.py; it takes minutes",
    "SHORT=": "a variable of the commands below it, which take minutes",
    "striate ablate ladder/convnet --seeds": "tests/unit/cli/test_measure.py",
    "striate ablate mnist-fast": "tests/unit/cli/test_measure.py; it takes 25 minutes",
    "dvc exp run --queue -S data.per_class": "tests/unit/data/test_per_class.py",
    "OMP_NUM_THREADS=1 dvc exp run --run-all": "`make sweep` gives the same command",
    "striate repeat -S data.per_class": "tests/unit/data/test_per_class.py",
    "STRIATE_MIRROR=/path/to/mirror python benchmarks/training.py": "it takes ten minutes",
    "STRIATE_MIRROR=/path/to/mirror python benchmarks/tuning.py": "it takes more than an hour",
    "STRIATE_MIRROR=/path/to/mirror python benchmarks/scaling_out.py": "it takes minutes",
    "python benchmarks/residency.py": "it needs the rights of root",
    "python benchmarks/processors.py": "tests/unit/models/test_portable.py; it takes ten minutes",
    "STRIATE_MIRROR=/path/to/mirror python benchmarks/processors.py": "it takes minutes",
}


# Of how many different commands they are the beginning, if not of one.
SEVERAL = {
    "dvc exp run -S data.name=folder": 2,
    "dvc exp run -S model.arch=timm:": 2,
    "striate fetch timm:": 2,
    "make ladder": 2,
    "striate repeat ladder/": 5,
    "SHORT=": 2,
}


def walked():
    """All commands of the pages that the walk visits, by page."""
    return {name: commands(text) for name, text in TEXTS.items() if name not in PAGES_ELSEWHERE}


def test_what_the_walk_leaves_out_is_what_is_listed():
    given = {command for page in walked().values() for command in page}
    assert len(given) > 80
    for prefix in ELSEWHERE:
        left_out = [command for command in given if command.startswith(prefix)]
        assert len(left_out) == SEVERAL.get(prefix, 1), prefix


def shortened(command):
    """A command as the walk runs it: in the environment of the test, and shorter."""
    # The environment of this test is the one that make would make.
    shell = command.replace("make ", "make --old-file=setup ")
    shell = shell.replace("source .venv/bin/activate", "true")
    shell = shell.replace("STRIATE_MIRROR=/path/to/mirror ", "")
    if "dvc exp run" in shell and ("mnist" in shell or "cifar10" in shell):
        shell += " -S training.epochs=1 -S evaluate.tta=none"
    if "striate tune" in shell:
        shell += " --trials 2"
    if "--confirm" in shell:
        shell += " --confirm 1"
    if "striate doubts" in shell:
        shell += " --folds 2"
    shell = shell.replace("--experiments 10 1000", "--experiments 10")
    if "make --old-file=setup sweep" in shell:
        shell += ' SWEEP="-S model.layers=1,2 -S training.epochs=1"'
    return shell


@pytest.mark.walk
@pytest.mark.timeout(2400)  # a hundred trainings
def test_every_command_of_every_page_runs_in_order(tmp_path, mirror):
    clone = Clone.of_this_tree(tmp_path / "striate")
    clone.env["STRIATE_MIRROR"] = str(mirror)
    for page in walked().values():
        # A page begins with the committed params, wherever the one before it has ended.
        back = "git checkout params.yaml && dvc repro"
        clone.run("bash", "-c", f"git diff --quiet params.yaml || {{ {back}; }}")
        for command in page:
            if not command.startswith(tuple(ELSEWHERE)):
                clone.run("bash", "-c", shortened(command))
    experiments = clone.run("dvc", "exp", "list", "--name-only").split()
    assert {"wider", "deeper", "mnist", "transfer"} <= set(experiments)
    assert len(experiments) >= 6
    assert (clone.folder / "reports/compare.html").exists()
    assert (clone.folder / "reports/pareto.png").exists()
    assert "MLflow agrees with DVC on" in clone.striate("verify")
