"""A repository in which a study can be made."""

import subprocess

import pytest
from paths import ROOT


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository with a commit and the params of this one."""
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "Start."]):
        subprocess.run(
            ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *command],
            cwd=tmp_path, check=True,
        )  # fmt: skip
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path
