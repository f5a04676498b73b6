"""Fixtures of all tests, and their order."""

import os
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from clones import Clone
from paths import ROOT

from striate import console
from striate.cli import workspace

# Read here, before `clean_environment` clears it.
MIRROR = Path(os.environ.get("STRIATE_MIRROR") or ROOT.parent / "shared" / "data").absolute()

# Otherwise each process that a test starts would compile all modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Files whose walks take minutes, longest first.
LONG = [
    "readme",
    "survival",
    "places",
    "team",
    "exercise",
    "agreement",
    "browser",
    "parallel",
    "resume",
]


def pytest_configure(config):
    """Hide GPUs, also from processes that tests start, unless `-m gpu` asks for them.

    Elsewhere `device: auto` means the CPU, whose results tests know.
    """
    if not re.search(r"(?<!not )\bgpu\b", config.option.markexpr or ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU; `pytest -m gpu` runs it where there is one")


def pytest_collection_modifyitems(items):
    """Run the longest files first, so that no worker is left with one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    minutes = {f"test_{name}.py": len(LONG) - rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: (-minutes.get(item.path.name, 0), -slow[item.path]))


@pytest.fixture(scope="session")
def mirror():
    """The folder of the published MNIST and CIFAR-10 files."""
    for folder in (MIRROR / "MNIST" / "raw", MIRROR / "cifar-10-batches-py"):
        if not folder.is_dir():
            pytest.skip(f"no real data: {folder} is not there; set STRIATE_MIRROR to such a folder")
    return MIRROR


@pytest.fixture(scope="session", autouse=True)
def templates(tmp_path_factory):
    """Set the folder of the repositories that tests copy; parallel workers share it."""
    base = tmp_path_factory.getbasetemp()
    Clone.templates = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "templates"


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Silence notes about waiting, which depend on the machine, and about code of another tree."""
    monkeypatch.setattr(console, "QUIET_SECONDS", 600.0)
    monkeypatch.setattr(workspace, "note_other_code", lambda: None)


@pytest.fixture(autouse=True)
def arithmetic():
    """Begin and end with PyTorch's own determinism, which also fixtures of whole files change."""
    _reset_arithmetic()
    yield
    _reset_arithmetic()


def _reset_arithmetic():
    if torch := sys.modules.get("torch"):
        torch.set_deterministic_debug_mode(0)
        torch.backends.cudnn.benchmark = False


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Clear what an outer DVC or MLflow process or the user has set."""
    for variable in (
        "DVC_ROOT",
        "DVC_EXP_NAME",
        "DVC_EXP_BASELINE_REV",
        "STRIATE_MIRROR",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_REGISTRY_URI",  # MLflow sets it for the whole process
    ):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(variable, "localhost,127.0.0.1,::1")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the docs site, built once for all tests of a process."""
    from site_pages import build

    folder = tmp_path_factory.mktemp("site")
    built = build(folder)
    assert built.returncode == 0, built.stderr
    return folder
