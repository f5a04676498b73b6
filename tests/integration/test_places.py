"""A person's own repository around the project: where it lies, and how it was cloned."""

import os
import shutil

import pytest
from clones import Clone
from paths import ROOT

SMALL = {"training__epochs": 1, "model__width": 4}


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """The project in a folder of another repository, at a path that addresses must quote."""
    outer = Clone(tmp_path_factory.mktemp("places") / "50%25 of ünder? #1")
    (outer.folder / "apps").mkdir(parents=True)
    outer.run("git", "init", "-q", "-b", "main")
    folder = outer.folder / "apps" / "my striate"
    project = Clone.unrun(folder, **SMALL)
    shutil.rmtree(folder / ".git")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "Start.")
    project.run("dvc", "repro")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "Run.")
    # Not with --temp: DVC's own address of its temporary folder has no quoted ? or #.
    project.run("dvc", "exp", "run", "-n", "wide", "-S", "model.width=8")
    project.go_back()
    return project


def copied(project, folder):
    """A copy of the repository around a project; returns the project in it."""
    outer = project.folder.parent.parent
    shutil.copytree(outer, folder, symlinks=True)
    return Clone(folder / project.folder.relative_to(outer))


@pytest.mark.walk
def test_in_a_folder_of_another_repository_everything_works(inside):
    inside.striate("sync")
    assert "MLflow agrees with DVC: nothing to do" in inside.striate("sync")
    assert "MLflow agrees with DVC on 2 experiments" in inside.striate("verify")
    assert "model.width  4     8" in inside.striate("compare", "main", "wide")
    assert "wide" in inside.striate("pareto")
    assert "passed" in inside.striate("gate", "--against", "HEAD")
    said = inside.striate("predict", "docs/images/three.jpg", "--checkpoint", "wide")
    assert said.startswith("docs/images/three.jpg: ")
    assert "weights/wide" in inside.striate("fetch", "wide")
    assert "is now version 1" in inside.striate("promote", "wide")
    assert inside.run("git", "status", "--porcelain") == ""
    beside = {path.name for path in inside.folder.parent.iterdir()}
    assert beside == {"my striate"}
    outer = {path.name for path in inside.folder.parent.parent.iterdir()}
    assert outer == {".git", "apps"}


@pytest.mark.walk
def test_experiments_of_a_project_beside_it_are_not_its_own(inside, tmp_path):
    here = copied(inside, tmp_path / "outer")
    before = here.striate("verify")
    other = here.folder.parent / "other"
    other.mkdir()
    (other / "file").write_text("1")
    here.run("git", "add", "-A", str(other))
    here.run("git", "stash", "-q")
    commit = here.run("git", "rev-parse", "stash@{0}").strip()
    head = here.run("git", "rev-parse", "HEAD").strip()
    here.run("git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/theirs", commit)
    assert here.striate("verify") == before
    assert "known here: workspace, main, wide" in here.striate("compare", "main", "x", status=2)


@pytest.mark.walk
def test_worktrees_detached_heads_and_shallow_clones(inside, tmp_path):
    here = copied(inside, tmp_path / "outer")
    here.run("git", "checkout", "-q", "--detach")
    assert "MLflow agrees with DVC on 2 experiments" in here.striate("verify")
    name = here.run("git", "rev-parse", "--short=7", "HEAD").strip()
    assert "model.width  4        8" in here.striate("compare", name, "wide")
    here.run("git", "checkout", "-q", "main")

    # DVC's cache is not in a worktree or a clone, so what is committed is somebody's.
    here.run("git", "worktree", "add", "-q", "-b", "second", str(tmp_path / "tree"))
    outer = here.folder.parent.parent
    here.run("git", "clone", "-q", "--depth", "1", outer.as_uri(), str(tmp_path / "shallow"))
    for place, branch in (("tree", "second"), ("shallow", "main")):
        there = Clone(tmp_path / place / "apps" / "my striate")
        said = there.striate("sync", status=2)
        assert f"note: left out: {branch}: its files are not in DVC's cache here" in said
        there.run("dvc", "repro")
        assert "MLflow agrees with DVC on 1 experiment" in there.striate("verify")
        assert there.run("git", "status", "--porcelain") == ""


@pytest.mark.walk
def test_as_a_submodule(inside, tmp_path):
    project = Clone(tmp_path / "project")
    shutil.copytree(inside.folder, project.folder)
    project.run("git", "init", "-q", "-b", "main")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "Run.")
    outer = Clone(tmp_path / "outer")
    outer.folder.mkdir()
    outer.run("git", "init", "-q")
    allowed = ("git", "-c", "protocol.file.allow=always")
    outer.run(*allowed, "submodule", "--quiet", "add", str(project.folder), "deep/striate")
    here = Clone(outer.folder / "deep" / "striate")
    here.run("dvc", "repro")
    assert "MLflow agrees with DVC on 1 experiment" in here.striate("verify")
    assert "passed" in here.striate("gate", "--against", "HEAD")


@pytest.mark.walk
def test_before_the_first_commit_and_without_git(tmp_path):
    here = Clone.unrun(tmp_path / "project", **SMALL)
    here.run("dvc", "repro")
    assert "MLflow agrees with DVC on 1 experiment" in here.striate("verify")
    (line,) = here.striate("compare", "workspace", "main", status=2).splitlines()
    assert line.endswith("there is no experiment, branch or commit 'main'; known here: workspace")
    shutil.rmtree(here.folder / ".git")
    (line,) = here.striate("sync", status=2).splitlines()
    assert "is not in a Git repository, and experiments live in its commits: git init" in line


@pytest.mark.walk
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to another user")
def test_a_repository_of_another_user_is_refused_with_gits_own_cure(inside, tmp_path):
    here = copied(inside, tmp_path / "outer")
    here.env["HOME"] = str(tmp_path)  # where no configuration trusts every folder
    os.chown(here.folder.parent.parent, 1234, 1234)
    os.chown(here.folder.parent.parent / ".git", 1234, 1234)
    for command in (["sync"], ["verify"], ["compare", "main", "wide"], ["gate"], ["pareto"]):
        (line,) = here.striate(*command, status=2).splitlines()
        assert line.startswith("error: Git refuses ")
        assert "belongs to another user; if you trust it: git config --global --add safe" in line


def test_an_environment_that_was_moved_is_one_line_with_the_cure(tmp_path):
    here = Clone(tmp_path / "new")
    (here.folder / ".venv").mkdir(parents=True)
    for file in ("Makefile", "requirements.lock", "bootstrap.lock", "pyproject.toml"):
        shutil.copy(ROOT / file, here.folder)
    (here.folder / ".dvc").mkdir()
    (here.folder / ".dvc/config").touch()
    (here.folder / ".venv/.ready").write_text(f"{tmp_path}/old\n")
    first, *_ = here.run("make", "setup", status=2).splitlines()
    assert first.startswith(f"error: .venv was made in {tmp_path}/old and works only there")
    assert first.endswith("make clean setup")
    # Another name for the same folder is no move; neither is a file of an older Makefile.
    (tmp_path / "link").symlink_to(here.folder)
    for content in (f"{tmp_path}/link\n", ""):
        (here.folder / ".venv/.ready").write_text(content)
        assert "error" not in here.run("make", "setup")


@pytest.mark.parametrize(("name", "said"), [("a:b", "has a colon"), ("50% off", "has a %")])
def test_where_no_environment_can_be_made_setup_says_so_in_one_line(tmp_path, name, said):
    here = Clone(tmp_path / name)
    here.folder.mkdir()
    for file in ("Makefile", "requirements.lock", "bootstrap.lock", "pyproject.toml"):
        shutil.copy(ROOT / file, here.folder)
    first, *_ = here.run("make", "setup", status=2).splitlines()
    assert first.startswith(f"error: {here.folder} {said}")
    assert not (here.folder / ".venv").exists()
