"""Adding a network as docs/extending.md says: with skip connections and a size rule of its own."""

import re
import shutil
import sys

import numpy as np
import pytest
import torch
import yaml
from clones import ROOT, Clone

from striate.models.configs import CONFIGS

pytestmark = pytest.mark.slow

TORCH_FILE, CONFIG = (
    code
    for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S)
    if '@register("residual")' in code
)
(LINES,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.S)
SHORT = {"training__epochs": 1, "training__batch_size": 20, "training__learning_rate": 0.01}
SMALL = {"arch": "residual", "layers": 4, "width": 4, "kernel_size": 3, "blocks": 2}
# The stages and the tests need torch; this shows that a check of params does not.
COUNT = """
import sys
sys.modules["torch"] = None
from striate.config import params
network = params.load().model
network.check_fits((1, 8, 8), 10)
print(network.count_parameters((1, 8, 8), 10))
"""
# A few steps on colour images whose channels are innermost, as training has them.
STEPS = f"""
import torch
from striate.models import registry
network = registry.build((3, 32, 32), 10, {SMALL}).to(memory_format=torch.channels_last)
images = torch.rand(50, 3, 32, 32).contiguous(memory_format=torch.channels_last)
for _ in range(3):
    network(images).square().mean().backward()
"""


def set_params(clone, **changes):
    """Change keys of params.yaml, such as `training__epochs`."""
    path = clone.folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        section, name = key.split("__")
        values[section][name] = value
    path.write_text(yaml.safe_dump(values))


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A copy of this tree with the network of the page, and nothing run yet."""
    clone = Clone.unrun(tmp_path_factory.mktemp("newcomer") / "striate")
    clone.env |= {"STRIATE_TRACKING": "off", "PYTHONPATH": "src"}
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "Start.")
    shutil.copy2(ROOT / "params.yaml", clone.folder)  # with its comments
    clone.run("git", "commit", "-qam", "Comments.", status=None)
    (clone.folder / "src/striate/models/residual.py").write_text(TORCH_FILE)
    with (clone.folder / "src/striate/models/configs.py").open("a") as stream:
        stream.write(f"\n\n{CONFIG}")
    arch, blocks = LINES.splitlines()
    params = clone.folder / "params.yaml"
    text = re.sub(r"(  arch: .*)", rf"\1{arch.split('…')[1]}", params.read_text())
    params.write_text(re.sub(r"(\n+training:)", rf"\n{blocks}\1", text))
    clone.run(sys.executable, "docs/make_params.py")
    return clone


@pytest.fixture(scope="module")
def finished(changed):
    """The same, run for an epoch on digits."""
    folder = changed.folder.parent / "finished"
    shutil.copytree(changed.folder, folder)
    clone = Clone(folder)
    clone.env = changed.env
    set_params(clone, **SHORT, **{f"model__{key}": v for key, v in SMALL.items()})
    clone.run("dvc", "repro")
    shutil.copytree(folder / "models", folder / "weights/first")
    return clone


@pytest.fixture
def variant(finished):
    """The same, whose params a test may change."""
    path = finished.folder / "params.yaml"
    before = path.read_bytes()
    yield finished
    path.write_bytes(before)


def test_four_files_are_touched(changed):
    touched = {line[3:] for line in changed.run("git", "status", "--porcelain").splitlines()}
    assert touched == {
        "docs/params.md",  # by `make docs`
        "params.yaml",
        "src/striate/models/configs.py",
        "src/striate/models/residual.py",
    }
    assert (
        "| `model.blocks` | `2` | residual blocks"
        in (changed.folder / "docs/params.md").read_text()
    )


def test_other_networks_and_their_recipes_go_on_without_the_new_key(changed):
    assert "model.arch=speedrun" in changed.striate("recipe", "mnist-99")
    code = (
        "from striate.config import params; p = params.load(); print(p.model.architecture());"
        " v = p.model_dump(); del v['model']['blocks']; params.check(v)"
    )
    assert "blocks" not in changed.run(sys.executable, "-c", code)


def test_the_tests_of_every_network_pass_for_it(changed):
    said = changed.run(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "tests/unit/models/test_configs.py",
    )  # fmt: skip
    # Three tests of each network here, and of the new one.
    assert re.search(rf"^{3 * (len(CONFIGS) + 1)} passed", said, re.M)


def test_it_is_counted_before_torch_loads_as_it_is_built(finished):
    counted = int(finished.run(sys.executable, "-c", COUNT))
    assert counted == finished.json("metrics/train.json")["parameters"] == 44_290


def test_steps_on_colour_images_write_inside_their_memory(changed):
    """Where they do not, the process is killed."""
    changed.run(sys.executable, "-c", STEPS)


def test_it_trains_where_the_other_networks_are_too_deep(finished):
    """Four layers leave one pixel of 8×8: 4, 2, 1, and 1 once more."""
    assert finished.json("metrics/test.json")["accuracy"] > 0.3  # chance is 0.1
    description = finished.json("models/model.json")
    assert description["architecture"] == SMALL | {"whiten": 0}


def test_filters_and_feature_maps_are_drawn(finished):
    drawn = {path.stem for path in (finished.folder / "reports/figures").iterdir()}
    assert {"feature_maps", "filters_layer1_conv1", "filters_layer4_conv1"} <= drawn
    arrays = np.load(finished.folder / "predictions/network.npz")
    sides = [array.shape[-1] for name, array in arrays.items() if re.search(r"layer\d$", name)]
    assert sides == [4, 2, 1, 1]


def test_weights_are_transferred_and_layers_are_frozen(variant):
    set_params(
        variant, training__init_from="weights/first", training__freeze="layer2",
        training__optimizer="muon", training__learning_rate=0.1,
    )  # fmt: skip
    said = variant.run(sys.executable, "stages/train.py")
    before, after = (
        torch.load(variant.folder / folder / "cnn_trained.ckpt")
        for folder in ("weights/first", "models")
    )
    assert "weights from weights/first: 37 parts; new: none" in said
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(("layer1.", "layer2."))}


def test_a_wrong_value_is_refused_in_one_line(variant):
    set_params(variant, training__freeze="layer5")
    said = variant.run(sys.executable, "stages/download.py", status=2)
    assert said == (
        "error: params.yaml: training.freeze is layer5; it must be one of none, features, layer1,"
        " layer2, layer3, layer4 where model.arch is residual and model.layers 4\n"
    )
    set_params(variant, training__freeze="none", model__blocks=0)
    said = variant.run(sys.executable, "stages/download.py", status=2)
    assert said == (
        "error: params.yaml: model.blocks is 0; it must be a whole number from 1 to 16\n"
    )
    set_params(variant, model__blocks=2, training__batch_size=4, data__val_size=0)
    said = variant.run(sys.executable, "stages/download.py", status=2)
    assert said.startswith("error: training.batch_size is 4, which leaves 1 of 1,437 images to")


def test_an_exported_file_predicts_the_same(finished):
    said = finished.striate("export", "weights/first", "--format", "onnx")
    assert "0 of 360 test images are predicted differently" in said
