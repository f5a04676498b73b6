"""The tag by which MLflow's pages group the runs of one setting."""

import subprocess
import sys

import pytest

from striate.tracking import groups, records

PARAMS = {"seed": 0, "data.name": "digits", "model.arch": "convnet", "model.layers": 2,
          "model.width": 16, "training.epochs": 5}  # fmt: skip


def record(without=(), **changes):
    params = PARAMS | {key.replace("__", "."): value for key, value in changes.items()}
    params = {key: value for key, value in params.items() if key not in without}
    return records.Record([records.Name("one")], {records.DATA: "d"}, params, {}, {}, None, {}, [])


def tag(one):
    return groups.tags([one])[one.key]


def test_the_tag_names_data_and_network_and_is_equal_for_all_seeds_of_a_setting():
    found = tag(record())
    name, _, digest = found.partition(", ")
    assert name == "digits 2x16 convnet"
    assert len(digest) == 6
    assert tag(record(seed=1)) == found
    longer = tag(record(training__epochs=6))
    assert longer.startswith(f"{name}, ")
    assert longer != found


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        (record(model__width=[64, 256, 256], model__layers=3), "digits 3x64-256-256 convnet"),
        (record(without=["model.width"]), "digits 2 convnet"),
        (record(without=["model.width", "model.layers"]), "digits convnet"),
        (record(without=["model.width", "model.layers", "model.arch"]), "digits"),
    ],
)
def test_the_tag_does_without_params_that_a_network_lacks(changed, name):
    assert tag(changed).partition(", ")[0] == name


def test_sync_does_not_load_numpy_for_it():
    code = "import sys, striate.tracking.sync; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
