"""What docs/teaching.md has a class do: push, show the board, score on hidden images."""

import json

import numpy as np
import pytest
from clones import Clone
from PIL import Image

pytestmark = pytest.mark.walk


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A clone whose experiment `student07-wider` was pushed, with its files."""
    folder = tmp_path_factory.mktemp("class")
    clone = Clone.of_this_tree(folder / "student", training__epochs=1, model__width=4)
    clone.run("dvc", "remote", "add", "--default", "class", str(folder / "storage"))
    clone.run("git", "commit", "-qam", "Name the class's storage.")
    clone.run("git", "init", "-q", "--bare", "-b", "main", str(folder / "origin"))
    clone.run("git", "remote", "add", "origin", str(folder / "origin"))
    clone.run("git", "push", "-q", "-u", "origin", "main")
    clone.env["GIT_AUTHOR_NAME"] = "student07"
    clone.run("dvc", "exp", "run", "-n", "student07-wider", "-S", "model.width=5")
    clone.run("dvc", "exp", "push", "origin", "--all")
    return clone


@pytest.fixture(scope="module")
def teacher(student):
    clone = Clone(student.folder.parent / "teacher")
    student.run("git", "clone", "-q", str(student.folder.parent / "origin"), str(clone.folder))
    return clone


def test_the_board_names_the_author_and_needs_no_file_of_the_experiment(teacher):
    assert teacher.striate("board") == "2 experiments of origin: reports/board.html\n"
    page = (teacher.folder / "reports/board.html").read_text()
    row = next(line for line in page.splitlines() if "student07-wider" in line)
    assert "<code>model.width=5</code>" in row
    assert "<span>student07</span>" in row
    assert not (teacher.folder / ".dvc/cache").exists()
    assert teacher.run("dvc", "exp", "list", "--name-only", "-A") == ""


def test_the_same_name_is_refused_and_the_first_experiment_stays(student, teacher):
    other = Clone(student.folder.parent / "other")
    student.run("git", "clone", "-q", str(student.folder.parent / "origin"), str(other.folder))
    commit = other.run("git", "rev-parse", "HEAD").strip()
    ref = f"refs/exps/{commit[:2]}/{commit[2:]}/student07-wider"
    own = other.run("git", "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "Mine.").strip()
    other.run("git", "update-ref", ref, own)
    said = other.run("dvc", "exp", "push", "--no-cache", "origin", "student07-wider", status=None)
    assert "has diverged from remote experiment with the same name" in " ".join(said.split())
    assert "2 experiments of origin" in teacher.striate("board")


def test_hidden_images_are_scored_as_the_stage_scores_its_test_set(student, teacher):
    teacher.run("dvc", "exp", "pull", "origin", "--all")
    data = student.folder / "data"
    images, labels = (np.load(data / f"test/{name}.npy") for name in ("images", "labels"))
    peak = json.loads((data / "manifest.json").read_text())["peak"]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = teacher.folder.parent / f"private/{label}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image[0] * (255.0 / peak)).astype(np.uint8)).save(file)
    out = teacher.striate("evaluate", str(teacher.folder.parent / "private"), "student07-wider")
    scores = student.json("metrics/test.json")
    assert out.splitlines()[-1].split()[:2] == ["student07-wider", f"{scores['accuracy']:.2%}"]
    assert out.endswith(f"{scores['errors']} of {scores['n']}\n")
