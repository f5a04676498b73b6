"""Checkpoints: what is in them, that they come back whole, and what is refused."""

import json
import pickle

import pytest
import torch

from striate import checkpoint, evaluation
from striate.images import Normalization

ARCHITECTURE = {
    "arch": "convnet",
    "layers": 2,
    "width": 4,
    "kernel_size": 3,
    "convs_per_layer": 1,
    "norm": "batch",
    "activation": "relu",
    "dropout": 0.0,
    "whiten": 0,
}
MANIFEST = {
    "name": "stripes",
    "shape": [1, 8, 8],
    "classes": ["a", "b", "c"],
    "peak": 255,
    "mean": [0.5],
    "std": [0.2],
}
CPU = torch.device("cpu")


@pytest.fixture
def description():
    return checkpoint.describe(ARCHITECTURE, MANIFEST, Normalization(255, [0.5], [0.2]))


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
        evaluation.predict(network, pixels, loaded.normalization, batch_size=7)
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
        (lambda path: torch.save([1], path), "does not fit"),
        (lambda path: torch.save({"fc.weight": torch.zeros(3, 3)}, path), "does not fit .*layer1"),
    ],
)
def test_faulty_weights_are_refused_and_run_no_code(saved, spoil, message, monkeypatch):
    _, folder = saved
    monkeypatch.chdir(folder)
    spoil(folder / "cnn_trained.ckpt")
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.load(folder, CPU)
    assert not (folder / "executed").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.pop("shape"),
        lambda values: values.update(architecture={"layers": 2}),
        lambda values: values.update(shape=[1, 8]),
    ],
)
def test_a_faulty_description_is_refused(saved, change):
    _, folder = saved
    values = json.loads((folder / "model.json").read_text())
    change(values)
    (folder / "model.json").write_text(json.dumps(values))
    with pytest.raises(checkpoint.CheckpointError, match=r"model.json cannot be used"):
        checkpoint.load(folder, CPU)


def test_weights_of_another_architecture_are_refused(saved):
    _, folder = saved
    values = json.loads((folder / "model.json").read_text())
    values["architecture"]["layers"] = 3
    (folder / "model.json").write_text(json.dumps(values))
    with pytest.raises(checkpoint.CheckpointError, match="does not fit .*layer3"):  # noqa: RUF043
        checkpoint.load(folder, CPU)


def test_images_of_another_shape_are_refused(saved):
    loaded = checkpoint.load(saved[1], CPU)
    checkpoint.check_fits(loaded, MANIFEST)
    with pytest.raises(checkpoint.CheckpointError, match="trained on stripes, whose shape differ"):
        checkpoint.check_fits(loaded, MANIFEST | {"name": "dots", "shape": [1, 28, 28]})


def test_a_checkpoint_from_before_there_were_two_networks_is_read(saved):
    _, folder = saved
    path = folder / "model.json"
    values = json.loads(path.read_text())
    del values["architecture"]["arch"], values["architecture"]["whiten"]
    path.write_text(json.dumps(values))
    assert list(checkpoint.load(folder, CPU).model.layers()) == ["layer1", "layer2"]
