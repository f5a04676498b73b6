"""What `striate share` says where it cannot push; test_team.py tells what it pushes."""

import subprocess

import pytest
from dvc.repo import Repo

from striate.errors import UserError
from striate.tracking import run_cache


@pytest.fixture
def repository(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    Repo.init(str(tmp_path)).close()
    return tmp_path


def test_without_a_remote_it_says_so(repository):
    with pytest.raises(UserError, match=r"^DVC's remote cannot be written: .*remote"):
        run_cache.push(repository)


def test_a_repository_in_which_nothing_ran_has_nothing_to_share(repository):
    (repository / ".dvc/config").write_text("['remote \"here\"']\n    url = ../remote\n"
                                            "[core]\n    remote = here\n")  # fmt: skip
    assert run_cache.push(repository) == (0, 0)
