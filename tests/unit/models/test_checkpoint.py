"""Checkpoints: what is in them, that they come back whole, and what is refused."""

import json
import pickle
import zipfile

import pytest
import torch
from checkpoints import CPU, MANIFEST, describe

from striate.errors import UserError
from striate.models import checkpoint, model_json, prediction
from striate.models.normalization import Normalization


@pytest.fixture
def description():
    return describe()


@pytest.fixture
def saved(tmp_path, description):
    torch.manual_seed(0)
    model = checkpoint.build(description)
    model(torch.rand(8, 1, 8, 8))  # moves the running statistics of the norms
    checkpoint.save(model, description, tmp_path)
    return model, tmp_path


def test_a_network_comes_back_with_the_same_logits(saved):
    model, folder = saved
    loaded = checkpoint.load(folder, CPU)
    pixels = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    before, after = (
        prediction.predict(network, pixels, loaded.normalization, batch_size=7)
        for network in (model, loaded.model)
    )
    assert torch.equal(before, after)
    assert loaded.classes == ["a", "b", "c"]
    assert loaded.normalization == Normalization(255, [0.5], [0.2])


def test_the_weights_file_is_a_plain_state_dict(saved):
    model, folder = saved
    weights = torch.load(folder / "cnn_trained.ckpt", weights_only=True)
    assert type(weights) is dict
    assert list(weights) == list(model.state_dict())
    assert sorted(path.name for path in folder.iterdir()) == ["cnn_trained.ckpt", "model.json"]


def test_equal_weights_give_equal_bytes_in_any_folder_and_memory_order(saved, description):
    model, folder = saved
    model = model.to(memory_format=torch.channels_last)
    checkpoint.save(model, description, folder / "elsewhere")
    for name in ("cnn_trained.ckpt", "model.json"):
        assert (folder / name).read_bytes() == (folder / "elsewhere" / name).read_bytes()


def overwrite(path):
    """Change weights in the middle of the file, which leaves its structure whole."""
    content = bytearray(path.read_bytes())
    place = content.index(b"fc.weight")
    start = content.index(b"/data/", place) + 64
    content[start : start + 8] = b"XXXXXXXX"
    path.write_bytes(content)


def pack_zeros(path):
    """A small file that unpacks to a large one."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1_000_000))


def change(folder, edit):
    """Edit the description, as anyone could."""
    path = folder / "model.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


class Evil:
    def __reduce__(self):
        return (open, ("executed", "w"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "cannot be read as weights: .*No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot be read as weights"),
        (lambda path: path.write_bytes(b""), "cannot be read as weights"),
        (lambda path: path.write_bytes(b"hello\n"), "cannot be read as weights"),
        (overwrite, "cannot be read as weights: .* does not match its checksum"),
        (lambda path: path.write_bytes(pickle.dumps(Evil())), "cannot be read as weights"),
        (lambda path: torch.save({"fc.weight": Evil()}, path), "cannot be read as weights"),
        (lambda path: torch.save([1], path), "cannot be read as weights: it is not a dict"),
        (lambda path: torch.save({1: torch.zeros(1)}, path), "it is not a dict of tensors"),
        (pack_zeros, "cannot be read as weights: its members are larger than itself"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read as weights: .*directory"),
        (lambda path: torch.save({"fc.weight": torch.zeros(3, 3)}, path), "does not fit .*layer1"),
    ],
)
def test_faulty_weights_are_refused_and_run_no_code(saved, spoil, message, monkeypatch):
    _, folder = saved
    monkeypatch.chdir(folder)
    spoil(folder / "cnn_trained.ckpt")
    with pytest.raises(checkpoint.CheckpointError, match=r"ckpt (or|cannot be read)"):
        checkpoint.load(folder, CPU)
    change(folder, lambda values: values.pop("sha256"))
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.load(folder, CPU)
    assert not (folder / "executed").exists()


def test_pickled_code_would_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Evil())).close()
    assert (tmp_path / "executed").exists()


FAULTY = [
    (lambda v: v.pop("shape"), "its keys must be architecture, .* and sha256"),
    (lambda v: v.update(notes=""), "its keys must be"),
    (lambda v: v.update(pretrained={"arch": "timm:r"}), "pretrained must name arch, source and"),
    (lambda v: v.update(architecture={"layers": 2}), "model.width is missing"),
    (lambda v: v.update(architecture=2), "architecture must be"),
    (lambda v: v.update(data="\n"), "the name of the data set must be printable text"),
    (lambda v: v.update(shape=[1, 8]), "shape must be 3 whole numbers"),
    (lambda v: v.update(shape=[1, 8, 10**9]), "shape must be 3 whole numbers"),
    (lambda v: v.update(classes=[1, 2, 3]), "classes must be a list of names"),
    (lambda v: v["normalization"].pop("mean"), "normalization must have the keys"),
    (lambda v: v["normalization"].update(peak=0), "peak must be a whole number"),
    (lambda v: v["normalization"].update(std=[0.0]), "std must be above 0"),
    (lambda v: v["normalization"].update(mean=[0.5, 0.5]), "mean must be a list of numbers"),
    (lambda v: v["normalization"].update(mean=[float("nan")]), "mean must be a list of numbers"),
    (lambda v: v["architecture"].update(layers=10**9), "model.layers is 1000000000; it must be"),
    (lambda v: v["architecture"].update(layers=4), "model.layers is 4, too many for images"),
    (lambda v: v["architecture"].update(depth=4), "model.depth is not a known key"),
    (lambda v: v["architecture"].update(norm="both"), "model.norm is 'both'; it must be"),
    (
        lambda v: v["architecture"].update(width=1024, kernel_size=31, convs_per_layer=16),
        "parameters; the largest possible number",
    ),
]


@pytest.mark.parametrize(("edit", "message"), FAULTY)
def test_a_faulty_description_is_refused(saved, edit, message):
    _, folder = saved
    change(folder, edit)
    with pytest.raises(checkpoint.CheckpointError, match=r"model.json was changed after training"):
        checkpoint.load(folder, CPU)
    change(folder, lambda values: values.pop("sha256"))
    with pytest.raises(
        checkpoint.CheckpointError, match=rf"model.json cannot be used: .*{message}"
    ):
        checkpoint.load(folder, CPU)


def test_a_description_that_is_no_json_object_is_refused(saved):
    _, folder = saved
    for content in (b"", b"[]", b"\xff", b"[" * 100_000, b"9" * 10_000, b'{"sha256": 1'):
        (folder / "model.json").write_bytes(content)
        with pytest.raises(
            UserError, match=r"model.json (cannot be read|is not valid JSON|must hold)"
        ) as caught:
            checkpoint.load(folder, CPU)
        assert len(str(caught.value).splitlines()) == 1


def test_the_checksum_is_over_both_files_and_not_over_how_json_is_written(saved):
    _, folder = saved
    path = folder / "model.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(values.items()))))
    assert checkpoint.load(folder, CPU).classes == ["a", "b", "c"]
    change(folder, lambda v: v.update(classes=["b", "a", "c"]))
    with pytest.raises(checkpoint.CheckpointError, match="was changed after training"):
        checkpoint.load(folder, CPU)


def test_weights_of_another_architecture_are_refused(saved):
    _, folder = saved
    change(folder, lambda values: values["architecture"].update(layers=3))
    change(folder, lambda values: values.pop("sha256"))
    with pytest.raises(checkpoint.CheckpointError, match="does not fit .*layer3"):  # noqa: RUF043
        checkpoint.load(folder, CPU)


def test_images_of_another_shape_are_refused(saved):
    loaded = checkpoint.load(saved[1], CPU)
    model_json.check_fits(loaded.description, MANIFEST)
    said = "trained on stripes, and data/ holds dots, with images of another shape"
    with pytest.raises(checkpoint.CheckpointError, match=said):
        model_json.check_fits(loaded.description, MANIFEST | {"name": "dots", "shape": [1, 28, 28]})


def test_a_checkpoint_from_before_there_were_checksums_or_two_networks_is_read(saved):
    _, folder = saved
    change(folder, lambda values: values.pop("sha256"))
    assert list(checkpoint.load(folder, CPU).model.layers()) == ["layer1", "layer2"]
    for key in ("arch", "whiten"):
        change(folder, lambda values, key=key: values["architecture"].pop(key))
    assert list(checkpoint.load(folder, CPU).model.layers()) == ["layer1", "layer2"]


def test_the_description_comes_back_as_it_was_given(saved, description):
    assert checkpoint.load(saved[1], CPU).description == description


def test_the_description_is_written_for_people_too(saved, description):
    text = (saved[1] / "model.json").read_text()
    values = json.loads(text)
    assert text == json.dumps(values, indent=2) + "\n"
    assert list(values) == [*description, "sha256"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("normalization", {"peak": 16}, "normalization must have the keys peak, mean, std"),
        ("architecture", [], "architecture must be the section model of params.yaml"),
        ("frame", {"background": "red", "extent": 0.5}, "frame must have a background of dark, l"),
        ("frame", {"background": "dark", "extent": 2.0}, "frame must have a background of dark, l"),
        ("frame", "dark", "frame must have a background of dark, light, mixed, and an extent"),
        ("confidence", {"temperature": 0.0, "energy": 1.0}, "confidence must be null, or a temp"),
        ("confidence", {"temperature": 1.0}, "confidence must be null, or a temperature above"),
        ("confidence", 1.0, "confidence must be null, or a temperature above 0 and an energy"),
        ("architecture", {"layers": 0}, "architecture: model.layers is 0; it must be a whole"),
    ],
)
def test_a_faulty_description_without_a_checksum_is_explained(saved, key, value, said):
    _, folder = saved
    change(folder, lambda values: values.pop("sha256"))
    change(folder, lambda values: values.update({key: value}))
    with pytest.raises(checkpoint.CheckpointError, match=rf"model\.json cannot be used: {said}"):
        checkpoint.load(folder, CPU)


def test_a_change_is_said_with_what_mends_it(saved):
    _, folder = saved
    change(folder, lambda values: values.update(data="other"))
    with pytest.raises(checkpoint.CheckpointError) as caught:
        checkpoint.load(folder, CPU)
    assert str(caught.value) == (
        f"{folder}/cnn_trained.ckpt or {folder}/model.json was changed after training: their"
        " SHA-256 is not the one that is written there; `dvc repro` recreates both"
    )


def test_a_description_from_before_pictures_were_framed_is_read(saved, description):
    _, folder = saved

    def age(values):
        for key in ("sha256", *model_json.ADDED):
            values.pop(key)

    change(folder, age)
    loaded = checkpoint.load(folder, CPU)
    assert loaded.description["frame"] == {"background": "mixed", "extent": 1.0}
    assert loaded.description["confidence"] is None


def test_first_weights_are_those_of_a_folder_or_of_a_file(saved, tmp_path):
    model, folder = saved
    for path in (folder, folder / "cnn_trained.ckpt"):
        found = checkpoint.first_weights(path)
        assert found.keys() == model.state_dict().keys()
        assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    assert checkpoint.first_weights(checkpoint.RANDOM) is None
    with pytest.raises(checkpoint.CheckpointError, match="gone, which is not there; `striate fet"):
        checkpoint.first_weights(tmp_path / "gone")


def test_with_its_normalisation_a_network_takes_pixels(saved):
    loaded = checkpoint.load(saved[1], CPU)
    pixels = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    expected = prediction.predict(loaded.model, pixels, loaded.normalization, batch_size=5)
    whole = checkpoint.Pixels(loaded).eval()
    torch.testing.assert_close(whole(pixels.float()).detach(), expected)
