"""Where a trained network comes from, and `striate fetch`."""

import json
import re
from pathlib import Path

import commands
import pytest
import torch
from checkpoints import make_network

from striate.data import files
from striate.errors import UserError
from striate.models import checkpoint
from striate.serving import sources
from striate.tracking import records


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fetch(monkeypatch, capsys, *arguments, status=0):
    return commands.run(monkeypatch, capsys, "fetch", *arguments, status=status)


def test_a_folder_is_copied_whole_and_its_place_printed(place, monkeypatch, capsys):
    trained = make_network(place / "elsewhere")
    assert fetch(monkeypatch, capsys, "elsewhere") == ("weights/elsewhere\n", "")
    copied = checkpoint.load(place / "weights/elsewhere", torch.device("cpu"))
    assert copied.description == trained.description
    for name, value in trained.model.state_dict().items():
        assert torch.equal(copied.model.state_dict()[name], value)
    assert [path.name for path in (place / "weights").iterdir()] == ["elsewhere"]


def test_what_was_fetched_before_is_replaced(place, monkeypatch, capsys):
    make_network(place / "first", None)
    make_network(place / "second")
    fetch(monkeypatch, capsys, "first", "--to", "weights/x")
    fetch(monkeypatch, capsys, "second", "--to", "weights/x")
    written = json.loads((place / "weights/x/model.json").read_text())
    assert written["confidence"] is not None


def test_a_folder_with_other_things_is_not_replaced(place, monkeypatch, capsys):
    make_network(place / "first")
    (place / "mine").mkdir()
    (place / "mine/thesis.txt").touch()
    _, err = fetch(monkeypatch, capsys, "first", "--to", "mine", status=2)
    assert "mine is not a folder with only a network" in err
    assert [path.name for path in (place / "mine").iterdir()] == ["thesis.txt"]


def test_a_damaged_network_is_not_kept(place, monkeypatch, capsys):
    make_network(place / "first")
    content = bytearray((place / "first/cnn_trained.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (place / "first/cnn_trained.ckpt").write_bytes(content)
    out, err = fetch(monkeypatch, capsys, "first", status=2)
    assert "was changed after training" in err
    assert out == "weights/no-such-network\n"  # which DVC names in `$(striate fetch …)`
    assert list((place / "weights").iterdir()) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("mnist", "weights/mnist"),
        ("models:/striate@champion", "weights/striate@champion"),
        ("models:/striate/3", "weights/striate-3"),
        ("/home/x/models", "weights/home-x-models"),
        ("../models", "weights/models"),
    ],
)
def test_each_source_has_a_place(source, expected):
    assert sources.default_folder(source) == Path(expected)


@pytest.mark.parametrize("source", ["random", "..", "."])
def test_a_place_that_is_none_is_asked_for(source):
    with pytest.raises(UserError, match="--to"):
        sources.default_folder(source)


@pytest.mark.parametrize("source", ["models:/", "models:/a", "models:/a@", "models:a/1", "models:"])
def test_what_is_no_registered_model_is_said(source, tmp_path):
    with pytest.raises(UserError, match="such as models:/striate@champion"):
        sources.find(source, tmp_path)


def test_a_model_that_mlflow_does_not_have_is_said(place, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow.db")
    for source in ("models:/striate@champion", "models:/striate/1"):
        with pytest.raises(UserError, match=f"MLflow has no {source}; `striate promote"):
            sources.find(source, place / "scratch")


def test_what_is_damaged_in_dvcs_cache_is_named_by_its_experiment(place):
    """A folder of two files as DVC keeps it, one of which has changed since."""
    make_network(place / "models")
    digest = files.md5(place / "models")
    cache = place / ".dvc/cache/files/md5"
    inside = [
        {"relpath": path.name, "md5": files.md5(path)} for path in sorted(Path("models").iterdir())
    ]
    places = [cache / entry["md5"][:2] / entry["md5"][2:] for entry in inside]
    contents = [Path("models", entry["relpath"]).read_bytes() for entry in inside]
    for path, content in zip(
        [*places, cache / digest[:2] / digest[2:]], [*contents, json.dumps(inside).encode()],
        strict=True,
    ):  # fmt: skip
        files.write(path, content)
    record = records.Record(
        [records.Name("wide", "commit")], {}, {}, {}, {}, "commit", {"models": digest}, []
    )
    found = records.fetch(place, record, ("models",), place / "scratch")
    assert files.md5(found / "models") == digest

    places[0].write_bytes(contents[0][:-1])
    said = f"models/cnn_trained.ckpt of wide is damaged in DVC's cache: delete {places[0]}, then"
    with pytest.raises(UserError, match=re.escape(said)):
        records.fetch(place, record, ("models",), place / "scratch2")
    places[0].unlink()
    with pytest.raises(UserError, match="models of wide is not here; `dvc pull`, or run it once"):
        records.fetch(place, record, ("models",), place / "scratch3")
