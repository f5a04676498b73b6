"""Pictures in files → classes: `striate predict` and what it is made of."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
import torch
from checkpoints import CONFIDENCE, CPU, make_network
from clones import without_waits
from PIL import Image

from striate.datasets.image_reading import ImageReadError
from striate.evaluation import heat_maps
from striate.models import calibration, devices, prediction
from striate.reporting import html
from striate.serving import inference


def write_pictures(folder, count):
    """Pictures of random pixels as files; returns the pixels, uint8 (N, 1, 8, 8)."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(0).randint(0, 256, (count, 1, 8, 8), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image[0]).save(folder / f"{number:04d}.png")
    return pixels


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(monkeypatch, capsys, *arguments, status=0):
    """The lines of both outputs."""
    out, err = commands.run(monkeypatch, capsys, "predict", *arguments, status=status)
    return out.splitlines(), err.splitlines()


def test_a_gpu_that_cannot_be_used_leaves_the_answers_as_they_are(place, monkeypatch, capsys):
    make_network(place / "models")
    write_pictures(place / "in", 3)
    expected = predict(monkeypatch, capsys, "in", "--json", "--device", "cpu")
    monkeypatch.setattr(devices, "sees_gpu", lambda: True)
    monkeypatch.setattr(devices, "cuda_fault", lambda: "it is too old")
    devices.note.cache_clear()
    out, err = predict(monkeypatch, capsys, "in", "--json")
    devices.note.cache_clear()
    assert (out, expected[1]) == (expected[0], [])
    assert err == ["note: this runs on cpu, as the GPU cannot be used: it is too old"]
    out, (line,) = predict(monkeypatch, capsys, "in", "--device", "cuda", status=2)
    assert out == []
    assert line.startswith("error: --device is cuda, which cannot be used: it is too old; it must")


def test_files_are_judged_as_evaluate_would_in_their_order(place, monkeypatch, capsys):
    trained = make_network(place / "models")
    pixels = write_pictures(place / "in", 600)  # more batches than are read ahead
    logits = prediction.predict(
        trained.model, torch.from_numpy(pixels), trained.normalization, batch_size=100
    )
    expected = (logits.double() / CONFIDENCE["temperature"]).softmax(1)
    out, err = predict(monkeypatch, capsys, "in", "--json", "--top", 3)
    found = [json.loads(line) for line in out]
    assert err == []
    assert [row["file"] for row in found] == [f"in/{number:04d}.png" for number in range(600)]
    for row, shares, energy in zip(found, expected, calibration.energy(logits), strict=True):
        assert {name: row["probabilities"][name] for name in "abc"} == pytest.approx(
            dict(zip("abc", shares.tolist(), strict=True)), abs=1e-5
        )
        assert list(row["probabilities"].values()) == sorted(
            row["probabilities"].values(), reverse=True
        )
        assert row["unlike"] == (float(energy) > CONFIDENCE["energy"])
    assert {row["unlike"] for row in found} == {True, False}


def test_lines_for_a_person_name_the_best_classes(place, monkeypatch, capsys):
    make_network(place / "models", {"temperature": 1.0, "energy": -99.0})
    write_pictures(place / "in", 1)
    (line,), err = predict(monkeypatch, capsys, "in/0000.png", "--top", 2)
    assert err == []
    name, said = line.split(": ")
    assert name == "in/0000.png"
    assert said.endswith(" – unlike the training images")
    first, second = said.removesuffix(" – unlike the training images").split(", ")
    assert float(first.split()[1][:-1]) >= float(second.split()[1][:-1])


def test_a_network_without_validation_images_says_what_it_cannot(place, monkeypatch, capsys):
    make_network(place / "models", None)
    write_pictures(place / "in", 1)
    (line,), (note,) = predict(monkeypatch, capsys, "in", "--json")
    assert json.loads(line)["unlike"] is None
    assert note.startswith("note: this network was trained with fewer than 100 validation images")


def test_a_broken_file_is_named_and_the_rest_go_on(place, monkeypatch, capsys):
    make_network(place / "models")
    write_pictures(place / "in", 3)
    whole = (place / "in/0001.png").read_bytes()
    (place / "in/0001.png").write_bytes(whole[: len(whole) // 2])
    out, err = predict(monkeypatch, capsys, "in", status=1)
    assert [line.split(":")[0] for line in out] == ["in/0000.png", "in/0002.png"]
    assert err[0].startswith("error: in/0001.png cannot be read: ")
    assert err[1] == "1 of 3 images could not be read"
    out, _ = predict(monkeypatch, capsys, "in", "--json", status=1)
    assert json.loads(out[1]).keys() == {"file", "error"}


def test_a_missing_file_is_named_in_one_line_and_the_rest_go_on(place, monkeypatch, capsys):
    make_network(place / "models")
    write_pictures(place / "in", 1)
    out, err = predict(monkeypatch, capsys, "go\nne\x1b[31m.png", "in/0000.png", status=1)
    assert [line.split(":")[0] for line in out] == ["in/0000.png"]
    said = "error: go\\nne\\x1b[31m.png cannot be read: No such file or directory"
    assert err == [said, "1 of 2 images could not be read"]


def test_a_reader_that_has_enough_ends_it_quietly(place):
    make_network(place / "models")
    write_pictures(place / "in", 2)
    command = f"{shlex.quote(sys.executable)} -m striate.cli predict in | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.stdout, without_waits(done.stderr)) == ("", "")


def test_all_files_broken_is_status_1(place, monkeypatch, capsys):
    make_network(place / "models")
    (place / "x.png").write_text("no picture")
    out, err = predict(monkeypatch, capsys, "x.png", status=1)
    assert (out, len(err)) == ([], 2)


def test_show_writes_what_the_network_sees(place, monkeypatch, capsys):
    make_network(place / "models")
    pixels = write_pictures(place / "in/deep", 2)
    predict(monkeypatch, capsys, "in", "--show", "seen")
    for number in range(2):
        with Image.open(place / f"seen/in/deep/{number:04d}.png.png") as shown:
            assert min(shown.size) >= inference.VIEW_SIDE
            small = shown.resize((8, 8), Image.Resampling.NEAREST)
            assert (np.asarray(small) == pixels[number, 0]).all()


def test_why_writes_what_spoke_for_the_answer_beside_the_image(place, monkeypatch, capsys):
    trained = make_network(place / "models")
    pixels = write_pictures(place / "in", 1)
    predict(monkeypatch, capsys, "in", "--why", "reasons")
    inputs = trained.normalization(torch.from_numpy(pixels[:1]))
    with torch.no_grad():
        guess = trained.model(inputs).argmax(1)
    evidence = heat_maps.heat_maps(trained.model, inputs, guess)[0].numpy()
    with Image.open(place / "reasons/in/0000.png.png") as shown:
        side = shown.height
        assert shown.width == 2 * side + inference.GAP
        left = shown.crop((0, 0, side, side)).resize((8, 8), Image.Resampling.NEAREST)
        right = shown.crop((side + inference.GAP, 0, shown.width, side))
        right = np.asarray(right.resize((8, 8), Image.Resampling.NEAREST), int)
    assert (np.asarray(left)[..., 0] == pixels[0, 0]).all()
    place_of_most = np.unravel_index(np.abs(evidence).argmax(), evidence.shape)
    colour = html.FOR if evidence[place_of_most] > 0 else html.AGAINST
    assert right[place_of_most].tolist() == list(colour)


def test_views_of_files_of_the_same_name_do_not_overwrite_each_other():
    places = {
        inference.view_path(Path(file), Path("seen"))
        for file in ("a/x.png", "b/x.png", "x.png", "/a/b/x.png", "x.jpg")
    }
    assert len(places) == 5
    assert all(place.is_relative_to("seen") and ".." not in place.parts for place in places)
    assert inference.view_path(Path("../x.png"), Path("seen")) == Path("seen/x.png.png")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([""], "a file name is empty"),
        (["in", "--show", "models/model.json"], "models/model.json is not a folder"),
        (["in", "--show", "seen", "--why", "./seen"], "--show and --why are both seen; name two"),
        (["empty"], "empty contains no image files"),
        (["in", "--top", "0"], "--top: 0 is not from 1 to "),
        (["in", "--checkpoint", "models:/x"], "models:/x is not a registered model"),
        (["in", "--checkpoint", "deeper"], "deeper is not a folder, and experiments exist only in"),
        (["in", "--checkpoint", "in"], "in holds no network: in/model.json is not there"),
    ],
)
def test_what_cannot_be_done_is_one_line(place, monkeypatch, capsys, arguments, said):
    make_network(place / "models")
    write_pictures(place / "in", 1)
    (place / "empty").mkdir()
    out, err = predict(monkeypatch, capsys, *arguments, status=2)
    assert out == []
    assert len(err) == 1
    assert err[0].startswith(f"error: {said}")


def test_one_file_at_a_time_is_as_good_as_all_together(place):
    trained = make_network(place / "models")
    write_pictures(place / "in", 20)
    (place / "in/broken.png").touch()
    files = inference.find_files([str(place / "in")])
    together = list(inference.classify(files, trained, CPU))
    for file, found in zip(files, together, strict=True):
        (alone,) = inference.classify([file], trained, CPU)
        if isinstance(found, ImageReadError):
            assert str(alone) == str(found)
            continue
        assert found.file == file
        assert alone.prediction.probabilities == pytest.approx(
            found.prediction.probabilities, abs=1e-6
        )


def test_a_folder_and_a_file_go_together_and_hidden_files_are_left_out(place):
    write_pictures(place / "in/deep", 2)
    (place / "in/.hidden.png").touch()
    (place / "in/notes.txt").touch()
    (place / "other").touch()
    assert inference.find_files(["other", "in"]) == [
        Path("other"), Path("in/deep/0000.png"), Path("in/deep/0001.png"),
    ]  # fmt: skip
    assert inference.find_files(["gone"]) == [Path("gone")]  # which is told when it is read


def test_what_is_left_out_of_a_folder_is_counted(place, capsys):
    write_pictures(place / "in/cat", 2)
    for name in (".thumbnails", "__MACOSX", "linked"):
        write_pictures(place / "in" / name, 2)
    (place / "in/linked").rename(place / "elsewhere")
    (place / "in/linked").symlink_to(place / "elsewhere")
    for name in ("a.heic", "b.HEIC", "notes.txt", "Thumbs.db"):
        (place / "in" / name).touch()
    os.mkfifo(place / "in/pipe.png")
    assert inference.find_files(["in"]) == [Path("in/cat/0000.png"), Path("in/cat/0001.png")]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "note: 10 files skipped: 5 hidden, 2 .heic, 1 .txt, 1 linked, 1 not regular\n"
    )
