"""Arithmetic that gives the same bytes on every x86-64 processor with AVX2."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from clones import Clone
from paths import ROOT
from settings import settings

from striate.data.files import md5
from striate.models import portable

EMULATOR = shutil.which("qemu-x86_64")


def manifest(folder, shape, count):
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"shape": shape, "train": {"count": count}}))


@pytest.mark.parametrize(
    ("deterministic", "precision", "count", "wanted"),
    [
        ("auto", "auto", 1437, True),
        ("auto", "auto", 2**20 // 64, True),
        ("auto", "auto", 2**20 // 64 + 1, False),
        ("auto", "float32", 1437, False),
        ("portable", "auto", 10**6, True),
        (True, "auto", 1437, False),
        (False, "auto", 1437, False),
    ],
)
def test_auto_is_portable_for_small_data(tmp_path, deterministic, precision, count, wanted):
    manifest(tmp_path / "data", [1, 8, 8], count)
    training = settings(
        training__deterministic=deterministic, training__precision=precision
    ).training
    assert portable.is_wanted(training, tmp_path / "data") is wanted


@pytest.mark.parametrize(
    "content",
    [
        None, "{", "[]", "{}", "[" * 100_000, '{"shape": [1], "train": {}}',
        '{"shape": [1000000000], "train": {"count": "many"}}',
    ],
)  # fmt: skip
def test_a_faulty_manifest_is_left_to_those_who_read_the_images(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert portable.is_wanted(settings().training, tmp_path) is False


def test_where_torch_is_loaded_already_nothing_is_changed(tmp_path):
    before = dict(os.environ)
    portable.use(settings(training__deterministic="portable").training, tmp_path)
    assert dict(os.environ) == before


def run(folder, stage, emulator=(), **variables):
    said = subprocess.run(
        [*emulator, sys.executable, f"stages/{stage}.py"],
        cwd=folder, capture_output=True, text=True, check=True,
        env=Clone(folder).env | {"STRIATE_TRACKING": "off"} | variables,
    )  # fmt: skip
    return said.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("portable")
    for name in ("src", "stages", "weights", "metrics"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "params.yaml", folder)
    run(folder, "download")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="needs AVX2"
)
def test_the_committed_results_are_made_here_whatever_the_environment_says(project):
    said = run(project, "train", OMP_NUM_THREADS="3", MKL_CBWR="AUTO")
    assert "on cpu, portable arithmetic" in said
    run(project, "evaluate", OMP_NUM_THREADS="2")
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    for stage in ("train", "evaluate"):
        for out in lock[stage]["outs"]:
            assert md5(project / out["path"]) == out["md5"], out["path"]


@pytest.mark.walk
@pytest.mark.skipif(EMULATOR is None, reason="needs qemu-x86_64")
def test_another_kind_of_processor_makes_the_same_bytes(project):
    path = project / "params.yaml"
    params = yaml.safe_load(path.read_text())
    params["training"]["epochs"] = 1
    path.write_text(yaml.safe_dump(params))
    made = []
    for emulator in ((), (EMULATOR, "-cpu", "Haswell")):
        said = run(project, "train", emulator)
        assert "on cpu, portable arithmetic" in said
        made.append([md5(project / name) for name in ("models", "metrics/history.csv")])
    assert made[0] == made[1]
