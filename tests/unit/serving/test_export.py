"""Networks as one file for other programs."""

import json
import re
from pathlib import Path

import commands
import numpy as np
import onnxruntime
import pytest
import torch
from checkpoints import ARCHITECTURE, CPU, MANIFEST
from paths import ROOT
from PIL import Image
from safetensors import safe_open
from settings import architecture
from stages import STAGES, run_stage, write_params

from striate.data import arrays, tensors
from striate.evaluation import predictions
from striate.evaluation.scores import softmax
from striate.models import checkpoint, prediction
from striate.models.configs import CONFIGS
from striate.models.normalization import Normalization
from striate.serving import export

NETWORKS = [{"arch": arch, "layers": 1} for arch in CONFIGS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with digits, and a network that was trained on them."""
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("STRIATE_TRACKING", "off")
        write_params(folder)
        for name in STAGES:
            run_stage(name)
    return folder


def run_export(monkeypatch, capsys, *arguments, status=0):
    monkeypatch.setattr(export, "TIMED_SECONDS", 0.0)
    return commands.run(monkeypatch, capsys, "export", *arguments, status=status)


def reference(folder):
    """Pixels of the test images, and the checkpoint's logits of them."""
    network = checkpoint.load(folder / "models", CPU)
    pixels = tensors.load_split(folder / "data", "test", CPU).images
    return pixels, prediction.predict(
        network.model, pixels, network.normalization, batch_size=100
    ).numpy()


def test_onnx_takes_any_number_of_pixels_and_names_them(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    out, err = run_export(monkeypatch, capsys, "--format", "onnx", "--to", tmp_path)
    assert err == ""
    assert f"{tmp_path}/model.onnx: 0 of 360 test images are predicted differently" in out
    said = "Input: pixels, float32 (batch, 1, 8, 8) from 0 to 16; output: logits, float32 "
    assert said + "(batch, 10)." in out
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 8]
    assert session.get_outputs()[0].shape == ["batch", 10]
    pixels, logits = reference(trained)
    for count in (1, 2, 77):
        (found,) = session.run(["logits"], {"pixels": pixels[:count].float().numpy()})
        np.testing.assert_allclose(found, logits[:count], rtol=1e-4, atol=1e-4)
    note = json.loads(session.get_modelmeta().custom_metadata_map["striate"])
    assert note == checkpoint.load(trained / "models", CPU).description


def oblong_images(folder):
    """Two classes of oblong noise of several sizes."""
    random = np.random.RandomState(0)
    for name, level in (("dark", 90), ("light", 160)):
        (folder / "train" / name).mkdir(parents=True)
        for number in range(15):
            height, width = random.randint(20, 60, 2)
            pixels = random.randint(level - 80, level + 80, (height, width, 3))
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / "train" / name / f"{number}.png")


@pytest.mark.slow
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_own_images_score_alike_in_evaluate_predict_and_onnx(resize, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIATE_TRACKING", "off")
    oblong_images(tmp_path / "images")
    write_params(
        tmp_path, data__name="folder", data__path="images", data__size=[16, 24],
        data__resize=resize, data__test_size=0.2, training__batch_size=5, training__epochs=3,
    )  # fmt: skip
    for name in STAGES[:3]:
        run_stage(name)
    images, labels = arrays.map_split(tmp_path / "data", "test")
    logits = predictions.read_logits(tmp_path / "predictions", (len(labels), 2))
    run_export(monkeypatch, capsys, "--format", "onnx", "--to", tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (exported,) = session.run(None, {"pixels": np.asarray(images, np.float32)})
    np.testing.assert_allclose(exported, logits, atol=1e-4)
    files = [str(Path("images", name)) for name in arrays.read_files(tmp_path / "data", "test")]
    capsys.readouterr()
    out, _ = commands.run(monkeypatch, capsys, "predict", "--json", "--top", "2", *files)
    for line, own in zip(out.splitlines(), softmax(logits), strict=True):
        told = json.loads(line)["probabilities"]
        assert [told["dark"], told["light"]] == pytest.approx(own.tolist(), abs=1e-4)


def test_the_example_of_the_docs_runs(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    run_export(monkeypatch, capsys, "--format", "onnx")
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.S)
    exec(code, {})
    _, logits = reference(trained)
    assert capsys.readouterr().out == f"{logits[:5].argmax(axis=1)}\n"


def test_int8_computes_in_integers_and_says_how_many_differ(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    out, _ = run_export(monkeypatch, capsys, "--format", "onnx", "--int8", "--to", tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "model-int8.onnx")
    pixels, logits = reference(trained)
    (found,) = session.run(["logits"], {"pixels": pixels.float().numpy()})
    differing = int((found.argmax(1) != logits.argmax(1)).sum())
    assert f": {differing} of 360 test images are predicted differently" in out
    assert not np.allclose(found, logits, atol=1e-5)
    assert differing < 18
    assert b"QLinearConv" in (tmp_path / "model-int8.onnx").read_bytes() or (
        b"QuantizeLinear" in (tmp_path / "model-int8.onnx").read_bytes()
    )


def test_pt2_runs_without_this_package(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    run_export(monkeypatch, capsys, "--format", "pt2", "--to", tmp_path)
    program = torch.export.load(tmp_path / "model.pt2").module()
    pixels, logits = reference(trained)
    for count in (1, 50):
        found = program(pixels[:count].float()).detach().numpy()
        np.testing.assert_allclose(found, logits[:count], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", NETWORKS, ids=lambda changes: changes["arch"])
def test_every_network_computes_the_same_in_every_format(changes, tmp_path):
    torch.manual_seed(0)
    description = checkpoint.describe(
        architecture(width=8, **changes), MANIFEST, Normalization(255, None, None)
    )
    model = checkpoint.build(description)
    model(torch.rand(50, 1, 8, 8))  # running statistics
    trained = checkpoint.of(model.eval(), description)
    pixels = np.random.RandomState(0).randint(0, 256, (77, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        logits = checkpoint.Pixels(trained)(torch.from_numpy(pixels)).numpy()
    for kind in export.ENDINGS:
        path = tmp_path / f"model.{kind}"
        export.write(trained, kind, path, None)
        network = export.read(kind, path, description, CPU)
        for count in (1, 77):
            found = network(pixels[:count])
            np.testing.assert_allclose(found, logits[:count], rtol=1e-4, atol=1e-4)


def test_safetensors_is_a_repository_of_the_hub(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    run_export(monkeypatch, capsys, "--format", "safetensors", "--to", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.safetensors", "config.json", "README.md",
    }  # fmt: skip
    loaded = checkpoint.load(trained / "models", CPU)
    assert json.loads((tmp_path / "config.json").read_text()) == loaded.description
    card = (trained / "reports/model_card.md").read_text()
    assert (tmp_path / "README.md").read_text() == card
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert json.loads(stored.metadata()["striate"]) == loaded.description
        for name, value in loaded.model.state_dict().items():
            assert torch.equal(stored.get_tensor(name), value)


def test_the_card_does_not_go_with_another_network(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    (trained / "models").rename(tmp_path / "other")
    try:
        run_export(
            monkeypatch, capsys, tmp_path / "other", "--format", "safetensors", "--to",
            tmp_path / "to",
        )  # fmt: skip
    finally:
        (tmp_path / "other").rename(trained / "models")
    assert not (tmp_path / "to/README.md").exists()


def test_what_cannot_be_exported_is_one_line(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    out, err = run_export(
        monkeypatch, capsys, "--format", "pt2", "--int8", "--to", tmp_path, status=2
    )
    assert (out, err) == ("", "error: --int8 goes with --format onnx only, not with pt2\n")
    monkeypatch.chdir(tmp_path)
    out, err = run_export(monkeypatch, capsys, trained / "models", "--format", "onnx", status=2)
    assert out == ""
    assert err.startswith("error: data/manifest.json ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_an_export_leaves_the_network_as_it_was(tmp_path, kind):
    description = checkpoint.describe(
        ARCHITECTURE,
        MANIFEST,
        Normalization(255, [0.123], [0.456]),  # of no other test
    )
    trained = checkpoint.of(checkpoint.build(description), description)
    export.write(trained, kind, tmp_path / "file", None)
    pixels = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    ours = export.logits_of(export.eager(checkpoint.Pixels(trained).eval(), CPU), pixels)
    theirs = export.logits_of(export.read(kind, tmp_path / "file", description, CPU), pixels)
    with torch.no_grad():
        expected = trained.model((pixels / 255 - 0.123) / 0.456)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-4)


def test_an_exported_network_moves_to_another_device(tmp_path):
    description = checkpoint.describe(ARCHITECTURE, MANIFEST, Normalization(255, [0.1], [0.4]))
    trained = checkpoint.of(checkpoint.build(description), description)
    export.write(trained, "pt2", tmp_path / "file", None)
    elsewhere = torch.device("meta")
    moved = export.move(torch.export.load(tmp_path / "file"), elsewhere).module()
    with torch.no_grad():
        logits = moved(torch.zeros(5, 1, 8, 8, device=elsewhere))
    assert (logits.device, logits.shape) == (elsewhere, (5, 3))


def test_a_device_that_is_not_there_is_one_line(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    arguments = ("--format", "onnx", "--to", tmp_path / "to", "--device", "mps")
    out, err = run_export(monkeypatch, capsys, *arguments, status=2)
    assert out == ""
    assert err.startswith("error: --device is mps, which this machine does not have; it must be ")
    assert not (tmp_path / "to").exists()


def test_a_file_that_predicts_otherwise_is_counted():
    ours = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    theirs = torch.tensor([[2.0, 2.5], [0.0, 1.0], [3.0, 0.0]])
    found = export.check(ours, theirs, torch.tensor([0, 1, 0]))
    assert (found.differing, found.furthest, found.accuracy) == (1, 1.5, 2 / 3)
