"""The registry of data sets."""

import subprocess
import sys

import pytest

from striate.config.params import DataName
from striate.datasets import registry


def test_every_module_registers_its_data_sets():
    assert registry.names() == (
        "cifar10", "cifar100", "digits", "fashion-mnist", "kmnist", "mnist",
    )  # fmt: skip
    assert all(name == dataset.name for name, dataset in registry.DATASETS.items())


def test_params_allow_the_registered_names_and_a_folder():
    assert DataName.__args__ == (*registry.names(), "folder")


def test_a_name_cannot_be_registered_twice():
    with pytest.raises(ValueError, match="two data sets are called digits"):
        registry.register(registry.DATASETS["digits"])


def test_the_registry_loads_no_large_package():
    code = (
        "import sys, striate.config.params\n"
        "print({'numpy', 'torch', 'torchvision', 'sklearn', 'PIL', 'tqdm'} & set(sys.modules))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "set()\n"
