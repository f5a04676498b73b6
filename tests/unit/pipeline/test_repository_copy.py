"""The copies in which experiments run: what they hold, what they share, what they leave."""

import configparser
import os
import shutil
import subprocess

import pytest

from striate.errors import UserError
from striate.pipeline import repository_copy
from striate.tracking import background

IDENTITY = ["-c", "user.name=test", "-c", "user.email=test@localhost"]


def git(folder, *arguments):
    answer = subprocess.run(
        ["git", "-C", str(folder), *IDENTITY, *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return answer.stdout.strip()


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def project(folder, top=None):
    """A DVC repository with one commit; `top` is the Git repository, if that is another folder."""
    top = top or folder
    folder.mkdir(parents=True)
    git(top, "init", "-q", "-b", "main")
    git(top, "config", "user.name", "Somebody")
    write(folder, kept="1", edited="1", deleted="1", staged="1")
    (folder / ".gitignore").write_text("/data\n/weights\n/images\n/.dvc/tmp\n/.dvc/config.local\n")
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    autostage = true\n")
    git(top, "add", "-A")
    git(top, "commit", "-qm", "Start.")
    return folder


def edit(folder):
    """Change the working tree in all ways that travel, and in one that does not."""
    write(folder, edited="2", new="2", sub__new="2", staged="2", data__ignored="2")
    git(folder, "add", "staged")
    (folder / "deleted").unlink()


def state(folder):
    """What differs from HEAD in a working tree: path → letters."""
    listed = git(folder, "status", "--porcelain", "--untracked-files=all", "--", ".")
    return {path: letters for letters, path in map(str.split, listed.splitlines())}


EDITED = {"edited": "M", "deleted": "D", "new": "??", "sub/new": "??", "staged": "M"}


@pytest.fixture
def root(tmp_path):
    return project(tmp_path / "a path with ü")


def test_changes_of_the_working_tree_travel_and_ignored_files_do_not(root):
    edit(root)
    before = git(root, "status", "--porcelain"), (root / ".git/index").read_bytes()
    copy = repository_copy.make(root, "one", [])
    assert repository_copy.inside(root, copy) == copy
    assert state(copy) == EDITED
    texts = {name: (copy / name).read_text() for name in ("kept", "edited", "staged", "sub/new")}
    assert texts == {"kept": "1", "edited": "2", "staged": "2", "sub/new": "2"}
    assert not (copy / "data").exists()
    assert git(copy, "rev-parse", "HEAD") == git(root, "rev-parse", "HEAD")
    assert git(copy, "config", "user.name") == "test"  # which `-c` sets here
    assert (git(root, "status", "--porcelain"), (root / ".git/index").read_bytes()) == before
    # It borrows the objects, and can commit without them being written.
    assert len(list((copy / ".git/objects").glob("??"))) <= 10
    git(copy, "commit", "-qam", "Results.")


def test_named_files_and_folders_travel_though_git_ignores_them(root):
    write(root, images__a__1="picture", weights__net__model="numbers", data__ignored="no")
    (root / "images/link").symlink_to("a")
    copy = repository_copy.make(root, "one", ["images", "weights/net/model", "kept"])
    assert (copy / "images/a/1").read_text() == "picture"
    assert (copy / "weights/net/model").read_text() == "numbers"
    assert state(copy) == {}


def test_a_copy_cannot_change_the_repository(root):
    write(root, images__1="picture")
    copy = repository_copy.make(root, "one", ["images"])
    (copy / "images/1").write_text("other")
    (copy / "kept").write_text("other")
    git(copy, "commit", "-qam", "Results.")
    assert (root / "images/1").read_text() == "picture"
    assert git(root, "log", "--all", "--format=%s") == "Start."
    assert git(root, "status", "--porcelain") == ""


def test_a_project_in_a_folder_of_a_git_repository(tmp_path):
    root = project(tmp_path / "top/inner", tmp_path / "top")
    edit(root)
    write(root, images__1="picture")
    write(root.parent, beside="not of this project")
    copy = repository_copy.make(root, "one", ["images"])
    inner = repository_copy.inside(root, copy)
    assert inner == copy / "inner"
    assert state(inner).keys() == {f"inner/{name}" for name in EDITED}
    assert (inner / "images/1").exists()
    assert (inner / ".dvc/config.local").exists()
    assert not (copy / "beside").exists()


def test_a_linked_worktree(root, tmp_path):
    tree = tmp_path / "tree"
    git(root, "worktree", "add", "-q", "--detach", str(tree))
    edit(tree)
    copy = repository_copy.make(tree, "one", [])
    assert copy.is_relative_to(tree)
    assert state(copy) == EDITED


def test_an_edit_in_the_moment_of_a_checkout_is_copied(root):
    """It changes neither size nor time: by the time of its index Git knows that it must look."""
    git(root, "config", "core.trustctime", "false")
    edited, moment = root / "edited", 10**18
    os.utime(edited, ns=(moment, moment))
    git(root, "update-index", "--refresh")
    write(root, edited="7")
    for path in (edited, root / ".git/index"):
        os.utime(path, ns=(moment, moment))
    copy = repository_copy.make(root, "one", [])
    assert (copy / "edited").read_text() == "7"


def test_a_shallow_clone(root, tmp_path):
    write(root, edited="3")
    git(root, "commit", "-qam", "Second.")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{root}", str(shallow))
    write(shallow, edited="4")
    copy = repository_copy.make(shallow, "one", [])
    assert state(copy) == {"edited": "M"}
    assert git(copy, "log", "--format=%s") == "Second."
    ref = keep_experiment(copy)
    repository_copy.fetch_experiment(shallow, copy, "one")
    assert git(shallow, "rev-parse", ref) == git(copy, "rev-parse", ref)
    assert git(shallow, "fsck", "--connectivity-only") == ""


def test_the_cache_is_shared_and_local_settings_are_kept(root):
    local = "[core]\n    remote = store\n['remote \"store\"']\n    url = s3://a%20b\n"
    (root / ".dvc/config.local").write_text(local)
    copy = repository_copy.make(root, "one", [])
    written = configparser.RawConfigParser()
    written.read(copy / ".dvc/config.local")
    assert {name: dict(written[name]) for name in written.sections()} == {
        "core": {"remote": "store"},
        "'remote \"store\"'": {"url": "s3://a%20b"},
        "cache": {"dir": str(root / ".dvc/cache")},
    }
    assert (copy / ".dvc/config").read_text() == (root / ".dvc/config").read_text()


def test_a_cache_elsewhere_is_shared_too(root, tmp_path):
    (root / ".dvc/config.local").write_text(f"[cache]\n    dir = {tmp_path}/cache\n")
    copy = repository_copy.make(root, "one", [])
    assert f"dir = {tmp_path}/cache\n" in (copy / ".dvc/config.local").read_text()


def test_copies_of_processes_that_are_gone_are_removed(root):
    with subprocess.Popen(["true"]) as process:
        gone = background.process_tag(process.pid)
    folder = root / repository_copy.FOLDER
    for tag in (gone, background.process_tag(os.getppid()), "another-host 1 1"):
        write(folder / f"old {tag}", file="text")
    mine = repository_copy.make(root, "mine", [])
    kept = {path.name.split(" ", 1)[1] for path in folder.iterdir()}
    assert kept == {
        background.process_tag(os.getpid()),
        background.process_tag(os.getppid()),
        "another-host 1 1",
    }
    repository_copy.remove(mine)
    repository_copy.remove(mine)
    assert not mine.exists()


def keep_experiment(copy, name="one"):
    """Keep a commit as DVC does at the end of `dvc exp run`; returns its ref."""
    head = git(copy, "rev-parse", "HEAD")
    message = f"Experiment in {copy.name}."
    commit = git(copy, "commit-tree", "-p", head, "-m", message, f"{head}^{{tree}}")
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    git(copy, "update-ref", ref, commit)
    return ref


def test_an_experiment_is_brought_into_the_repository(root):
    copy = repository_copy.make(root, "copy", [])
    repository_copy.fetch_experiment(root, copy, "one")
    assert git(root, "for-each-ref", "refs/exps") == ""
    ref = keep_experiment(copy)
    keep_experiment(copy, "other")
    repository_copy.fetch_experiment(root, copy, "one")
    repository_copy.remove(copy)
    assert git(root, "for-each-ref", "--format=%(refname)", "refs/exps") == ref
    assert git(root, "log", "-1", "--format=%s", ref).startswith("Experiment in copy ")
    assert not (root / ".git/FETCH_HEAD").exists()


def test_an_experiment_of_the_same_name_is_left_alone(root):
    first, second = (repository_copy.make(root, name, []) for name in ("first", "second"))
    ref = keep_experiment(first)
    keep_experiment(second)
    repository_copy.fetch_experiment(root, first, "one")
    kept = git(root, "rev-parse", ref)
    with pytest.raises(UserError, match=r"git fetch failed: .*rejected"):
        repository_copy.fetch_experiment(root, second, "one")
    assert git(root, "rev-parse", ref) == kept


def test_without_a_commit_there_is_nothing_to_start_from(tmp_path):
    git(tmp_path, "init", "-q")
    with pytest.raises(UserError, match="start from a commit, and there is none yet"):
        repository_copy.make(tmp_path, "one", [])


def test_what_the_system_refuses_is_one_line_and_leaves_no_copy(root, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    write(root, images__1="picture")
    monkeypatch.setattr(shutil, "copytree", refuse)
    with pytest.raises(UserError, match=r"cannot be copied to .*: No space left on device"):
        repository_copy.make(root, "one", ["images"])
    assert list((root / repository_copy.FOLDER).iterdir()) == []
