"""The stages of the pipeline, run in this process and in the working folder."""

import runpy

import pytest
from paths import ROOT
from settings import write_yaml

STAGES = ("download", "train", "evaluate", "visualize")
SMALL = {"model__width": 4, "training__epochs": 2, "training__log_every": 5}


def write_params(folder, **changes):
    """Write the committed params, made small, with some keys changed; they may be invalid."""
    write_yaml(folder, **SMALL | changes)


def run_stage(name):
    runpy.run_path(str(ROOT / "stages" / f"{name}.py"), run_name="__main__")


def fail_stage(name, capsys):
    """Run a stage that must refuse its input; returns what it wrote to standard error."""
    with pytest.raises(SystemExit) as caught:
        run_stage(name)
    assert caught.value.code == 2
    return capsys.readouterr().err
