"""The network of mixed patches: the paper's sizes, and what each layer mixes."""

import pytest
import torch
from networks import build
from settings import architecture
from torch import nn

from striate.errors import UserError
from striate.evaluation import inspection
from striate.models import configs
from striate.models.convmixer import ConvMixer, mixer

MIXER = {"arch": "convmixer", "layers": 2, "width": 8, "kernel_size": 3}


def test_it_has_the_parameters_of_the_paper():
    small = {"layers": 8, "width": 256, "kernel_size": 9, "patch": 1}
    config = configs.parse(architecture(**MIXER | small))
    # stem 1,024+512, eight layers of 20,992+512+65,792+512, head 2,570: 0.7 M there
    assert config.count_parameters((3, 32, 32), 10) == 706_570
    with torch.device("meta"):  # ConvMixer-768/32: 21.1 M there
        large = ConvMixer(
            (3, 224, 224), 1000, layers=32, width=768, kernel_size=7, patch=7, dropout=0
        )
    assert sum(value.numel() for value in large.parameters()) == 21_110_248


@pytest.mark.parametrize(
    ("shape", "patch", "side"),
    [((3, 32, 32), 1, 32), ((3, 32, 32), 2, 16), ((1, 28, 28), 2, 14), ((1, 8, 8), 2, 4)],
)
def test_all_layers_keep_the_size_that_the_patches_leave(shape, patch, side):
    model = build(shape, **MIXER | {"patch": patch})
    maps = inspection.feature_maps(model, torch.rand(2, *shape))
    assert list(maps) == ["stem", "layer1", "layer2"]
    assert {tuple(value.shape) for value in maps.values()} == {(2, 8, side, side)}
    assert model(torch.rand(2, *shape)).shape == (2, 10)


def test_a_layer_mixes_pixels_within_a_channel_and_then_channels_within_a_pixel():
    residual, channels = mixer(4, 3).eval()
    features = torch.rand(1, 4, 5, 5)
    changed = features.clone()
    changed[0, 1, 2, 2] += 1
    seen = (residual.inside(features) != residual.inside(changed))[0]
    assert seen[1, 1:4, 1:4].any()
    assert not seen[[0, 2, 3]].any()
    seen = (channels(features) != channels(changed))[0]
    assert seen[:, 2, 2].all()
    assert seen.sum() == 4


def test_pixels_pass_by_a_skip_connection():
    residual, _ = mixer(4, 3).eval()
    nn.init.zeros_(residual.inside[2].weight)
    features = torch.rand(2, 4, 5, 5)
    assert torch.equal(residual(features), features)


@pytest.mark.parametrize("arch", ["convmixer", "vit"])
def test_patches_must_tile_the_image(arch):
    for shape in ((1, 28, 28), (1, 4, 8)):
        build(shape, arch=arch, patch=4)
    with pytest.raises(UserError, match=r"patch is 3, .* 28×28 pixels; .* one of 1, 2, 4, 7"):
        build((1, 28, 28), arch=arch, patch=3)
    config = configs.parse(architecture(arch=arch, patch=8))
    assert config.smallest_side() == 8
    with pytest.raises(UserError, match=r"^model.patch is 8, .* 4×8 pixels; .* one of 1, 2, 4$"):
        config.check_size((4, 8))
