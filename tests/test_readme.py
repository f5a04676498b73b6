"""What the README names exists."""

import re
from pathlib import Path

import pytest
import yaml

from striate import cli, params

ROOT = Path(__file__).parent.parent
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
    settings = re.findall(r"-S '?([a-z_.]+)=([^\s'`]+)", README)
    assert len(settings) > 5
    for key, text in settings:
        for value in [text] if text.startswith("[") else text.split(","):
            section, _, name = key.rpartition(".")
            changed = yaml.safe_load(yaml.safe_dump(values))
            place = changed[section] if section else changed
            assert name in place, key
            place[name] = yaml.safe_load(value)
            params.check(changed)


def test_every_linked_file_exists():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_results_stand_within_the_first_25_lines():
    assert any("test accuracy" in line for line in README.splitlines()[:25])
