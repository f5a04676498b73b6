"""What params may be for the images of a data set, before any of them is there."""

import subprocess
import sys

import pytest
import torch
from networks import RESIDUAL
from paths import ROOT
from settings import architecture, settings
from stages import fail_stage, write_params

from striate.config import validation
from striate.datasets.registry import DATASETS
from striate.errors import UserError
from striate.models import configs, registry

SPEEDRUN = {"arch": "speedrun", "whiten": 2, "width": 4, "convs_per_layer": 2}


def check(name="digits", **changes):
    entry = DATASETS[name]
    validation.check(settings(**changes), entry.shape, len(entry.classes), entry.counts[0])


def speedrun(**changes):
    return {f"model__{key}": value for key, value in (SPEEDRUN | changes).items()}


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("digits", {"model__layers": 4}, "model.layers is 4, too many .* 8×8 .* value is 3$"),
        ("mnist", {"model__layers": 5}, "model.layers is 5, too many .* 28×28 .* value is 4$"),
        ("mnist", {"model__layers": 16}, "model.layers is 16, too many .* value is 4$"),
        ("digits", speedrun(whiten=8), "model.whiten is 8, too large .* 8×8 .* value is 7$"),
        ("digits", speedrun() | {"augment__shrink": 4}, "augment.shrink is 4, .* value is 5, or 0"),
        (
            "mnist",
            {"model__arch": "convmixer", "model__patch": 4, "augment__shrink": 27},
            "augment.shrink is 27, and model.patch is 4, which does not tile images of 27×27",
        ),
        ("digits", {"augment__translate": 8}, "augment.translate is 8, .* value is 7$"),
        ("cifar10", {"augment__cutout": 33}, "augment.cutout is 33, .* value is 32$"),
        ("mnist", {"data__val_size": 60_000}, "data.val_size is 60000: 60000 of 60000 images"),
        ("digits", {"data__val_size": 0.9999}, "data.val_size is 0.9999: 1437 of 1437 images"),
        (
            "digits",
            {"model__width": 1024, "model__kernel_size": 31, "model__convs_per_layer": 16},
            r"model.width, layers, .* make [0-9,]+ parameters; .* number is 268,435,456$",
        ),
    ],
)
def test_what_does_not_fit_the_images_is_named(name, changes, said):
    with pytest.raises(UserError, match=f"^{said}"):
        check(name, **changes)


def test_the_largest_values_fit():
    check("cifar10", model__layers=5, augment__translate=31, augment__cutout=32)
    check("digits", **speedrun(), augment__shrink=5)
    check("mnist", model__arch="convmixer", model__patch=4, augment__shrink=24)
    check("digits", **speedrun(whiten=7, layers=1), data__val_size=1436, training__batch_size=2,
          model__norm="none")  # fmt: skip


def test_a_last_step_of_one_image_is_refused_where_a_norm_would_see_one_value():
    sizes = {"data__val_size": 0, "training__batch_size": 4}  # 1437 = 359 · 4 + 1
    with pytest.raises(UserError, match=r"^training.batch_size is 4, which leaves 1 of 1,437"):
        check(**speedrun(layers=2, whiten=4), **sizes)
    check(**speedrun(layers=1, whiten=4), **sizes)
    check(**speedrun(layers=2, whiten=4, norm="none"), **sizes)
    check(**speedrun(layers=2, whiten=4), **sizes | {"training__batch_size": 5})
    check(model__layers=3, model__pool="stride", model__norm="group", **sizes)
    check(model__arch="mlp", model__norm="layer", **sizes)
    check(model__arch="resnet", **sizes)
    check(model__arch="convmixer", model__patch=4, **sizes)
    with pytest.raises(UserError, match=r"^training.batch_size is 4, which leaves 1 of 1,437"):
        check(model__arch="convmixer", model__patch=8, **sizes)
    with pytest.raises(UserError, match=r"^training.batch_size is 4, which leaves 1 of 1,437"):
        check(model__arch="mlp", **sizes)
    with pytest.raises(UserError, match=r"^training.batch_size is 4, which leaves 1 of 1,437"):
        check(model__layers=3, model__pool="stride", **sizes)
    check(model__layers=3, **sizes)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28)])
@pytest.mark.parametrize(
    "changes",
    [{"layers": 1}, {"width": 5, "kernel_size": 3}, {"width": [3, 7]}, SPEEDRUN,
     SPEEDRUN | {"whiten": 0, "width": [4, 6]}, {"norm": "none", "convs_per_layer": 3},
     SPEEDRUN | {"norm": "none", "layers": 1}, SPEEDRUN | {"norm": "group"},
     RESIDUAL, RESIDUAL | {"norm": "none", "width": [3, 3, 5], "layers": 3}, {"pool": "average"},
     RESIDUAL | {"norm": "layer", "width": [3, 3], "pool": "stride"},
     {"arch": "gabor"}, RESIDUAL | {"arch": "gabor", "orientations": 3, "kernel_size": 7},
     {"arch": "lenet5"}, {"arch": "mlp"}, {"arch": "mlp", "width": [7, 5], "norm": "none"},
     {"arch": "resnet", "width": 5}, {"arch": "convmixer", "width": 5, "patch": 4},
     {"arch": "recurrent", "layers": 3, "width": 5}, {"arch": "recurrent", "norm": "none"},
     {"arch": "vit", "width": 6, "patch": 4, "heads": 3}],
)  # fmt: skip
def test_parameters_are_counted_as_they_are_built(shape, changes):
    model = architecture(**changes)
    built = sum(value.numel() for value in registry.build(shape, 10, model).parameters())
    assert configs.parse(model).count_parameters(shape, 10) == built


@pytest.mark.parametrize("stage", ["download", "train"])
@pytest.mark.parametrize(
    "changes",
    [{"model__layers": 5}, {"augment__translate": 28}, {"data__val_size": 60_000},
     {"model__width": 1024, "model__kernel_size": 31, "model__convs_per_layer": 16}],
)  # fmt: skip
def test_nothing_is_fetched_or_trained_for_params_that_do_not_fit(
    stage, changes, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STRIATE_TRACKING", "off")
    monkeypatch.setenv("STRIATE_MIRROR", str(tmp_path / "nowhere"))
    write_params(tmp_path, data__name="mnist", **changes)
    if stage == "train":
        monkeypatch.setattr("striate.data.arrays.load_manifest", lambda folder: MNIST)
    (line,) = fail_stage(stage, capsys).splitlines()
    assert line.startswith(f"error: {next(iter(changes)).replace('__', '.')}")
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


ENTRY = DATASETS["mnist"]
MNIST = {"shape": ENTRY.shape, "classes": ENTRY.classes, "train": {"count": ENTRY.counts[0]}}


def test_download_needs_no_torch_to_refuse(tmp_path):
    write_params(tmp_path, data__name="mnist", model__layers=5)
    code = (
        "import runpy, sys; sys.modules['torch'] = None;"
        f" runpy.run_path({str(ROOT / 'stages/download.py')!r}, run_name='__main__')"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: model.layers is 5, too many for images of 28×28")


def test_what_is_refused_could_not_be_trained():
    """A norm of one value is what torch refuses; nothing more is refused here."""
    network = registry.build((1, 8, 8), 10, architecture(**SPEEDRUN | {"whiten": 4}))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network.train()(torch.zeros(1, 1, 8, 8))
    network(torch.zeros(2, 1, 8, 8))
