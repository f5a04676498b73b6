"""The model is an artifact of DVC, which other projects get by its name and version."""

import sys

import pytest
import yaml
from clones import Clone
from paths import ROOT


@pytest.mark.slow
def test_another_folder_gets_the_registered_model_and_uses_it(tmp_path):
    clone = Clone.of_this_tree(tmp_path / "striate", training__epochs=1, model__width=4)
    clone.run("gto", "register", "classifier", "--version", "v1.0.0")
    there = tmp_path / "elsewhere"
    there.mkdir()
    get = ("dvc", "artifacts", "get", str(clone.folder), "classifier", "--rev", "v1.0.0")
    clone.run(*get, "--out", str(there / "model"))
    for path in (clone.folder / "models").iterdir():
        assert (there / "model" / path.name).read_bytes() == path.read_bytes()
    predict = (sys.executable, "-m", "striate.cli", "predict", "reports/figures/samples.png")
    assert "samples.png" in clone.run(*predict, "--checkpoint", str(there / "model"))


def test_the_artifact_is_an_output_of_training():
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    artifact = pipeline["artifacts"]["classifier"]
    assert artifact["path"] in pipeline["stages"]["train"]["outs"]
    assert artifact["type"] == "model"
