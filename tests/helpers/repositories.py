"""A repository without results, in which a study can begin."""

import subprocess

from paths import ROOT


def start(folder):
    """Make a repository with a commit and the params of this one."""
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "Start."]):
        subprocess.run(
            ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", *command],
            cwd=folder, check=True,
        )  # fmt: skip
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").touch()
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
