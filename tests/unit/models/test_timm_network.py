"""Networks of timm: built for small images, trained on an own folder, begun with weights."""

import copy
import json
import os
import shutil
import subprocess
import sys
import time

import commands
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from checkpoints import CPU
from PIL import Image
from settings import COMMITTED, changed
from stages import STAGES, fail_stage, run_stage, write_params
from torch import nn

from striate.config import params
from striate.data import tensors
from striate.errors import UserError
from striate.evaluation import inspection
from striate.models import (
    checkpoint,
    configs,
    model_json,
    normalization,
    prediction,
    registry,
    timm_network,
)
from striate.serving import export
from striate.training import norms, transfer

SHAPE, CLASSES = (3, 32, 32), 3
SMALL = ("test_resnet", "test_vit", "mobilenetv3_small_050")
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]


def build(name, shape=SHAPE, classes=CLASSES, seed=0, **changes):
    torch.manual_seed(seed)
    model = COMMITTED["model"] | {"arch": f"timm:{name}"} | changes
    return registry.build(shape, classes, model)


def write_images(folder):
    """Three classes of 24 images of 32×32 pixels: noise with a red, green or blue square."""
    random = np.random.RandomState(0)
    for label, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(24):
            pixels = random.randint(0, 90, (32, 32, 3)).astype(np.uint8)
            pixels[8:24, 8:24, label] = 250
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The data that the stage download makes of these images, and the images."""
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "images/train")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_params(folder, data__name="folder", data__path="images")
        run_stage("download")
    return folder


@pytest.fixture
def workspace(images, tmp_path, monkeypatch):
    """A copy of them to work in."""
    shutil.copytree(images, tmp_path / "workspace")
    monkeypatch.chdir(tmp_path / "workspace")
    monkeypatch.setenv("STRIATE_TRACKING", "off")
    return tmp_path / "workspace"


def write(folder, name, **changes):
    """Params of a short training on the images."""
    write_params(
        folder, data__name="folder", data__path="images", data__val_size=9, training__epochs=1,
        training__batch_size=9, model__arch=f"timm:{name}", **changes,
    )  # fmt: skip


def published(name, file, seed=1, **options):
    """Write random weights as their publisher would, in timm's format; returns them."""
    torch.manual_seed(seed)
    weights = timm.create_model(name, **options).state_dict()
    if file.suffix == ".pth":
        torch.save({"state_dict": weights}, file)
    else:
        safetensors.torch.save_file(weights, file)
    return weights


# Building


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 64, 64)])
def test_a_network_is_built_for_the_images_and_gives_each_parameter_one_role(name, shape):
    model = build(name, shape, dropout=0.25)
    assert model(torch.rand(2, *shape)).shape == (2, CLASSES)
    assert model.dropout.p == 0.25
    assert list(model.layers()) == configs.TimmConfig.layer_names(None)
    roles = model.parameter_roles()
    found = [id(parameter) for members in roles.values() for parameter in members]
    assert sorted(found) == sorted(map(id, model.parameters()))
    assert {weight.dim() for weight in roles["filters"]} <= {2, 4}
    assert roles["head"] == [model.head.weight]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28)])
def test_a_convolutional_network_takes_tiny_images(shape):
    assert build("test_resnet", shape)(torch.rand(2, *shape)).shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("test_convnext", (3, 28, 28), "28×28 pixels .*Kernel size.* to a side that it takes"),
        ("test_vit", (1, 28, 28), "28×28 pixels .its patches are 16×16.; data.size .*such as 160$"),
        # It would cut off what is left behind the last whole patch.
        ("vit_tiny_patch16_224", (1, 28, 40), "28×40 pixels .its patches are 16×16.*such as 224$"),
    ],
)
def test_images_that_a_network_cannot_take_are_refused_with_a_size(name, shape, said):
    with pytest.raises(
        UserError, match=f"^model.arch is timm:{name}, which takes no images of {said}"
    ):
        build(name, shape)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet1", r"timm [\d.]+ has no network timm:resnet1; similar names: timm:resnet"),
        ("resnet18.nothing", "whose tag timm does not know; it has timm:resnet18.a1_in1k"),
    ],
)
def test_an_unknown_name_is_one_line_with_known_ones(name, said):
    with pytest.raises(UserError, match=said):
        build(name)


def test_a_network_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(timm_network, "MAX_PARAMETERS", 300_000)
    with pytest.raises(UserError, match=r"has 372,979 parameters; .* is 300,000$"):
        build("test_resnet")


@pytest.mark.parametrize(
    "arch", ["timm", "timm:", "timm:a b", "timm:../x", "timm:a.b.c", "timm:a/b"]
)
def test_what_is_no_name_is_refused_before_timm_is_asked(arch):
    with pytest.raises(params.ParamsError, match=r"it must be one of convnet, .*, or timm:NAME"):
        params.check(changed(model__arch=arch))


def test_pretrained_says_what_goes_with_it():
    arch = {"model__arch": "timm:test_vit", "model__pretrained": True}
    with pytest.raises(
        params.ParamsError, match=r"init_from .* \$\(striate fetch timm:test_vit\)$"
    ):
        params.check(changed(**arch))
    arch["training__init_from"] = "weights/timm-test_vit"
    params.check(changed(**arch))
    with pytest.raises(params.ParamsError, match=r"data.normalize is standard; it must be unit"):
        params.check(changed(**arch, data__normalize="standard"))
    with pytest.raises(
        params.ParamsError, match=r"model.pretrained is true; it must be false where"
    ):
        params.check(changed(model__pretrained=True))


def test_without_timm_the_extra_is_named(workspace, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    said = (
        "error: model.arch is timm:test_resnet, which needs the extra timm: pip install '.[timm]'"
    )
    write(workspace, "test_resnet")
    for stage in ("download", "train"):
        assert fail_stage(stage, capsys).splitlines()[-1] == said
    _, err = commands.run(monkeypatch, capsys, "fetch", "timm:test_resnet", status=2)
    assert "needs the extra timm: pip install '.[timm]'" in err


@pytest.mark.parametrize("name", ["regnetx_002", "mobileone_s0"])
def test_strides_of_filters_of_one_pixel_are_taken_before_them(name):
    model = build(name).eval().trunk.net
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(model.state_dict())
    images = torch.rand(4, *SHAPE)
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(model(images), expected)
        torch.testing.assert_close(copy.deepcopy(model)(images), expected)
    assert timm_strides(model) == {(1, 1)} != timm_strides(theirs)


def test_a_stride_over_a_single_pixel_is_dropped_and_changes_nothing():
    convs = [nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)]
    net = nn.Sequential(*convs)
    images = torch.rand(8, 1, 4, 4)
    before = net(images)
    with timm_network.dropped_strides(net):
        net(images)
    assert [conv.stride for conv in convs] == [(2, 2), (2, 2), (1, 1)]
    assert torch.equal(net(images), before)
    net(images[..., :1, :1])
    assert [conv.stride for conv in convs] == [(2, 2), (2, 2), (1, 1)]


def test_a_stride_that_an_idle_padding_needs_is_kept():
    conv = nn.Conv2d(1, 4, 2, 2, 1)
    before = conv(torch.ones(2, 1, 1, 1))
    with timm_network.dropped_strides(conv):
        conv(torch.ones(2, 1, 1, 1))
    assert conv(torch.ones(2, 1, 1, 1)).shape == before.shape == (2, 4, 1, 1)


def timm_strides(net):
    return {part.stride for part in net.modules() if getattr(part, "kernel_size", 0) == (1, 1)}


STEPS = """
import sys, torch
from striate.models.timm_network import create
net = create("timm:" + sys.argv[1], (3, 32, 32)).to(memory_format=torch.channels_last)
images = torch.rand(50, 3, 32, 32).contiguous(memory_format=torch.channels_last)
for _ in range(3):
    net(images).square().mean().backward()
"""


@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0"])
def test_steps_on_colour_images_write_inside_their_memory(name):
    """Where they do not, the process is killed."""
    process = subprocess.run(
        [sys.executable, "-c", STEPS, name], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert process.returncode == 0


# Training


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_network_learns_from_scratch_and_every_stage_takes_it(workspace, name, capsys):
    write(workspace, name)
    for stage in STAGES:
        run_stage(stage)
    trained = checkpoint.load(workspace / "models", CPU)
    assert trained.description["architecture"]["arch"] == f"timm:{name}"
    assert "pretrained" not in trained.description["architecture"]
    page = (workspace / "reports/index.html").read_text()
    assert f"<title>folder: timm:{name}, " in page
    assert "layers" not in page.split("This network")[1].split("was trained")[0].replace(name, "")
    figures = {path.stem for path in (workspace / "reports/figures").iterdir()}
    assert len([figure for figure in figures if figure.startswith("filters_")]) == 1
    assert "the first convolution of each layer" in page or name == "test_vit"
    pixels = tensors.load_split(workspace / "data", "test", CPU).images
    before = prediction.predict(
        trained.model, pixels, trained.normalization, batch_size=7
    )  # fmt: skip
    assert torch.equal(before, torch.from_numpy(np.load(workspace / "predictions/logits.npy")))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("freeze", ["none", "features"])
def test_a_network_begins_with_weights_from_a_file(workspace, monkeypatch, capsys, name, freeze):
    file = workspace / ("w.pth" if name == "test_resnet" else "w.safetensors")
    weights = published(name, file)
    out, _ = commands.run(monkeypatch, capsys, "fetch", f"timm:{name}", "--from", file)
    folder = f"weights/timm-{name}"
    assert out == f"{folder}\n"
    write(
        workspace, name, model__pretrained=True, training__init_from=folder,
        training__freeze=freeze,
    )  # fmt: skip
    run_stage("train")
    said = capsys.readouterr().out
    assert f"weights from {folder}: " in said
    assert "; new: head\n" in said
    trained = checkpoint.load(workspace / "models", CPU)
    own = {
        key: value for key, value in trained.model.trunk.net.state_dict().items()
        if value.is_floating_point()
    }  # fmt: skip
    same = [key for key, value in own.items() if torch.equal(value, weights.get(key, value))]
    if freeze == "features":
        others = {"pos_embed"} if name == "test_vit" else set()  # of fewer patches here
        assert own.keys() - same == others  # running statistics are the same, too
        assert f"{trained.model.head.weight.numel() + CLASSES:,} parameters, " in said
    elif name == "test_resnet":
        assert same == []
    cfg = timm.models.get_pretrained_cfg(name)
    torch.testing.assert_close(trained.model.trunk.scale.mean.flatten(), torch.tensor(cfg.mean))
    assert trained.description["normalization"]["mean"] is None
    # What is trained on from there passes on where the weights come from.
    note = json.loads((workspace / folder / "pretrained.json").read_text())
    assert trained.description["pretrained"] == note
    assert model_json.pretrained(workspace / "models") == {"pretrained": note}


def test_pixels_are_normalized_as_the_weights_expect(monkeypatch):
    cfg = timm.models.get_pretrained_cfg("test_resnet")
    model = build("test_resnet", pretrained=True).eval()
    images = torch.rand(4, *SHAPE)
    mean, std = (torch.tensor(value)[:, None, None] for value in (cfg.mean, cfg.std))
    expected = model.trunk.net((images - mean) / std)
    torch.testing.assert_close(model.features(images), expected)
    assert timm_network.of_channels((0.5, 0.4, 0.3), 1) == [pytest.approx(0.4)]
    assert timm_network.of_channels((0.5, 0.4, 0.3), 4) == [0.5, 0.4, 0.3, 0.5]


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_weights_are_adapted_to_channels_size_and_classes_as_timm_does(tmp_path, name, channels):
    weights = published(name, tmp_path / "w.safetensors", num_classes=CLASSES)
    timm_network.keep(f"timm:{name}", tmp_path / "kept", tmp_path / "w.safetensors")
    note = json.loads((tmp_path / "kept/pretrained.json").read_text())
    assert note["classes"] == CLASSES
    model = build(name, (channels, 32, 32), pretrained=True)
    found = timm_network.pretrained_weights(model, tmp_path / "kept")
    _, others = transfer.transfer_(model, found)
    assert others == []  # the classifier has as many classes
    assert torch.equal(
        model.head.weight, weights[f"{timm.models.get_pretrained_cfg(name).classifier}.weight"]
    )
    images = torch.rand(3, channels, 32, 32)
    theirs = timm.create_model(
        name, pretrained=True, in_chans=channels, num_classes=CLASSES,
        pretrained_cfg_overlay={"file": str(tmp_path / "w.safetensors"), "num_classes": CLASSES},
        **({"img_size": 32} if name == "test_vit" else {}),
    ).eval()  # fmt: skip
    scaled = model.trunk.scale(images)
    torch.testing.assert_close(model.eval()(images), theirs(scaled))


def test_equal_weights_are_kept_as_equal_bytes(tmp_path):
    published("test_resnet", tmp_path / "w.safetensors")
    for folder in ("one", "two"):
        timm_network.keep("timm:test_resnet", tmp_path / folder, tmp_path / "w.safetensors")
    one, two = (
        [path.read_bytes() for path in sorted((tmp_path / folder).iterdir())]
        for folder in ("one", "two")
    )
    assert one == two


def test_own_weights_are_not_taken_for_published_ones(tmp_path, monkeypatch):
    published("test_resnet", tmp_path / "own.pth", num_classes=7)
    folder = tmp_path / "kept"
    timm_network.keep("timm:test_resnet", folder, tmp_path / "own.pth")
    note = json.loads((folder / "pretrained.json").read_text())
    assert (note["arch"], note["source"], note["license"]) == ("timm:test_resnet", "own.pth", None)
    downloads = []

    def download(arch):
        downloads.append(arch)
        return timm.create_model("test_resnet")

    monkeypatch.setattr(timm_network, "_downloaded", download)
    for _ in range(2):  # the second finds them
        timm_network.keep("timm:test_resnet", folder, None)
        assert downloads == ["timm:test_resnet"]
    note = json.loads((folder / "pretrained.json").read_text())
    assert note["arch"] == "timm:test_resnet.r160_in1k"
    assert note["source"] == "https://huggingface.co/timm/test_resnet.r160_in1k"
    assert (note["license"], note["classes"]) == ("apache-2.0", 1000)
    # A file has the tag that its owner gives it.
    timm_network.keep("timm:test_resnet.r160_in1k", folder, tmp_path / "own.pth")
    note = json.loads((folder / "pretrained.json").read_text())
    assert (note["arch"], note["license"]) == ("timm:test_resnet.r160_in1k", "apache-2.0")
    assert note["source"] == "own.pth"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("w.pth", "w.pth is not a folder with only weights; choose another: --to"),
        ("w.pth/below", "w.pth/below"),
    ],
)
def test_a_target_that_is_no_folder_is_one_line(monkeypatch, capsys, tmp_path, target, said):
    monkeypatch.chdir(tmp_path)
    published("test_resnet", tmp_path / "w.pth")
    out, err = commands.run(
        monkeypatch, capsys, "fetch", "timm:test_resnet", "--from", "w.pth", "--to", target,
        status=2,
    )  # fmt: skip
    assert out == "weights/no-such-network\n"
    assert err.splitlines()[-1].startswith("error: ")
    assert said in err
    assert "Traceback" not in err


def test_weights_that_do_not_belong_here_are_refused(workspace, capsys):
    published("test_resnet", workspace / "w.pth")
    folder = workspace / "weights/r"
    timm_network.keep("timm:test_resnet", folder, workspace / "w.pth")
    begin = {"training__init_from": "weights/r"}
    write(workspace, "test_resnet", **begin)
    assert "they need model.pretrained=true" in fail_stage("train", capsys)
    write(workspace, "test_vit", **begin, model__pretrained=True)
    assert "holds the weights of timm:test_resnet, and" in fail_stage("train", capsys)
    (folder / "model.safetensors").write_bytes(b"damaged")
    write(workspace, "test_resnet", **begin, model__pretrained=True)
    said = fail_stage("train", capsys)
    assert "model.safetensors is not the file that" in said
    assert "`striate fetch timm:test_resnet --to weights/r --from w.pth` brings it again" in said
    with pytest.raises(UserError, match=r"w.pth cannot be read as weights of timm:test_vit: "):
        timm_network.keep("timm:test_vit", workspace / "weights/v", workspace / "w.pth")
    with pytest.raises(UserError, match=r"is not a folder with only weights"):
        timm_network.keep("timm:test_resnet", workspace / "data", workspace / "w.pth")


@pytest.mark.parametrize("offline", [True, False])
def test_without_the_hub_one_line_says_what_else_would_do(monkeypatch, capsys, tmp_path, offline):
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    start = time.monotonic()
    out, err = commands.run(monkeypatch, capsys, "fetch", "timm:resnet18", status=2)
    assert time.monotonic() - start < 30
    assert out == "weights/no-such-network\n"
    assert err.splitlines()[-1] == (
        "error: the weights of timm:resnet18 could not be fetched: the Hugging Face Hub cannot be"
        " reached; go online, or name a file of them: striate fetch timm:resnet18 --from FILE"
    )


def test_a_file_goes_with_a_network_of_timm_only(monkeypatch, capsys):
    _, err = commands.run(monkeypatch, capsys, "fetch", "main", "--from", "w.pth", status=2)
    assert err.splitlines()[-1] == "error: --from goes with timm:NAME only, not with main"


# What is made of a network


@pytest.fixture(params=["test_resnet", "test_vit", "regnetx_002"])
def trained(request, tmp_path):
    manifest = {"name": "x", "shape": list(SHAPE), "classes": ["a", "b", "c"], "peak": 255,
                "frame": {"background": "mixed", "extent": 1.0}}  # fmt: skip
    unit = normalization.pick_normalization(manifest, "unit")
    model = COMMITTED["model"] | {"arch": f"timm:{request.param}", "pretrained": True}
    description = checkpoint.describe(configs.parse(model).architecture(), manifest, unit)
    torch.manual_seed(0)
    network = checkpoint.build(description)
    network(torch.rand(20, *SHAPE))  # running statistics
    checkpoint.save(network, description, tmp_path)
    return checkpoint.load(tmp_path, CPU)


@pytest.mark.slow
def test_an_export_computes_the_same(trained, tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (9, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        logits = checkpoint.Pixels(trained).eval()(torch.from_numpy(pixels)).numpy()
    for kind in export.ENDINGS:
        export.write(trained, kind, tmp_path / kind, None)
        network = export.read(kind, tmp_path / kind, trained.description, CPU)
        np.testing.assert_allclose(network(pixels), logits, rtol=1e-4, atol=1e-4)
    export.write(trained, "onnx", tmp_path / "int8", torch.from_numpy(pixels).byte())
    found = export.read("onnx", tmp_path / "int8", trained.description, CPU)(pixels)
    assert np.abs(found - logits).max() < 0.5 * np.abs(logits).max() + 0.1


def test_the_report_shows_its_stages_and_its_first_filters(trained):
    maps = inspection.feature_maps(trained.model, torch.rand(1, *SHAPE))
    assert list(maps)[:2] == ["stage1", "stage2"]
    assert all(value.dim() == 4 for value in maps.values())
    (weight,) = inspection.shown_filters(trained.model).values()
    assert weight.shape[1] == 3


def test_the_weights_go_to_another_data_set(trained):
    target = build(trained.model.arch.removeprefix("timm:"), classes=7, pretrained=True, seed=5)
    taken, others = transfer.transfer_(target, trained.model.state_dict())
    assert others == ["head"]
    assert len(taken) > 10


def test_norms_of_several_processes_keep_their_activation():
    model = build("mobilenetv3_small_050")
    activations = [type(part) for part in model.modules() if isinstance(part, nn.Hardswish)]
    model.synchronize_norms_()
    assert not any(isinstance(part, norms.OWN_PART) for part in model.modules())
    assert [type(part) for part in model.modules() if isinstance(part, nn.Hardswish)] == activations


def test_a_checkpoint_that_names_no_network_of_timm_is_one_line(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"model.json cannot be used: .* needs the extra timm"):
        checkpoint.load(tmp_path, CPU)
