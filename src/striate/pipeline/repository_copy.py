"""A copy of the repository in which DVC runs an experiment, beside others and beside the user.

`dvc exp run --temp` makes one, too, but writes the whole history into it, and several at once
disturb each other. This one borrows the objects of Git and the cache of DVC.
"""

from __future__ import annotations

import configparser
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from striate.errors import UserError, one_line
from striate.tracking import background, dvc_cache, git, records

SOURCES = "src"
FOLDER = Path(".dvc/tmp/striate-copies")


def make(root: Path, name: str, copied: Sequence[str]) -> Path:
    """Copy HEAD with the changes of the working tree; what Git ignores is left out.

    Copies whose process is gone are removed.

    Args:
        root: of the DVC repository, which may be a folder of the Git repository.
        name: of the copy.
        copied: files and folders that Git ignores or does not track, relative to the root.

    Returns:
        The folder of the copy, in `FOLDER`. Its DVC repository is `inside(root, copy)`.

    Raises:
        UserError: Git or the system refuses it.
    """
    _remove_abandoned(root)
    times = {path: path.stat().st_mtime_ns for path in (root / SOURCES).rglob("*.py")}
    copy = root / FOLDER / f"{name} {background.process_tag(os.getpid())}"
    remove(copy)
    try:
        _check_out(root, copy)
        target = inside(root, copy)
        _configure(root, target)
        _keep_bytecode(root, target, times)
        for path in copied:
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            if (root / path).is_dir():
                shutil.copytree(root / path, target / path, dirs_exist_ok=True)
            else:
                shutil.copy2(root / path, target / path)
    except BaseException as error:
        remove(copy)
        if not isinstance(error, OSError):
            raise
        raise UserError(f"the repository cannot be copied to {copy}: {one_line(error)}") from None
    return copy


def inside(root: Path, copy: Path) -> Path:
    """The root of the DVC repository in a copy."""
    return copy / git.checked(root, "rev-parse", "--show-prefix")


def remove(copy: Path) -> None:
    """Remove a copy, if it is there."""
    shutil.rmtree(copy, ignore_errors=True)


def fetch_experiment(root: Path, copy: Path, name: str) -> None:
    """Bring an experiment of the copy into the repository, if DVC has kept one.

    Raises:
        UserError: Git refuses it.
    """
    head = git.checked(copy, "rev-parse", "HEAD")
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    if git.checked(copy, "for-each-ref", ref):
        git.checked(root, "fetch", "--no-tags", "--no-write-fetch-head", str(copy), f"{ref}:{ref}")


def _check_out(root: Path, copy: Path) -> None:
    """Give the copy HEAD, and as uncommitted changes those of the working tree."""
    head = records.head(root)
    if head is None:
        raise UserError(
            'experiments start from a commit, and there is none yet: git commit -m "Start."'
        )
    top = git.checked(root, "rev-parse", "--show-toplevel")
    paths = {
        name: Path(top, git.checked(Path(top), "rev-parse", "--git-path", name))
        for name in ("objects", "shallow", "index")
    }
    copy.mkdir(parents=True)
    # DVC has Git ignore its temporary files, unless somebody has removed .dvc/.gitignore.
    (copy.parent.parent / ".gitignore").write_text("*\n")
    git.checked(copy, "init", "--quiet")
    own = copy / ".git"
    (own / "objects/info/alternates").write_text(f"{paths['objects']}\n")
    if paths["shallow"].exists():
        shutil.copyfile(paths["shallow"], own / "shallow")
    # The copied index spares the hashing of unchanged files; by its time Git knows those that were
    # written when it was, and hashes them.
    index = own / "working-tree"
    if paths["index"].exists():
        shutil.copy2(paths["index"], index)
    borrowed = {
        "GIT_INDEX_FILE": str(index),
        "GIT_OBJECT_DIRECTORY": str(own / "objects"),
        "GIT_ALTERNATE_OBJECT_DIRECTORIES": str(paths["objects"]),
    }
    git.checked(root, "add", "--all", "--", ".", variables=borrowed)
    tree = git.checked(root, "write-tree", variables=borrowed)
    index.unlink()
    git.checked(copy, "update-ref", "--no-deref", "HEAD", head)
    git.checked(copy, "read-tree", "--reset", "-u", tree)
    git.checked(copy, "reset", "--quiet")
    for key in ("user.name", "user.email"):
        if value := git.checked(root, "config", "--default", "", "--get", key):
            git.checked(copy, "config", key, value)


def _configure(root: Path, target: Path) -> None:
    """Give the copy the local configuration of DVC, and its cache."""
    local = configparser.RawConfigParser(strict=False)
    local.optionxform = str  # type: ignore[assignment,method-assign]
    local.read(root / ".dvc/config.local")
    if not local.has_section("cache"):
        local.add_section("cache")
    local["cache"]["dir"] = dvc_cache.folder(root)
    with (target / ".dvc/config.local").open("w") as stream:
        local.write(stream)


def _keep_bytecode(root: Path, target: Path, times: Mapping[Path, int]) -> None:
    """Copy what Python has compiled, which it knows by the modification times of the sources."""
    for path, time in times.items():
        source = target / path.relative_to(root)
        if source.exists():
            os.utime(source, ns=(time, time))
    for folder in (root / SOURCES).rglob("__pycache__"):
        shutil.copytree(folder, target / folder.relative_to(root), dirs_exist_ok=True)


def _remove_abandoned(root: Path) -> None:
    for copy in (root / FOLDER).glob("* * * *"):
        if background.is_gone(copy.name.split(" ", 1)[1]):
            remove(copy)
