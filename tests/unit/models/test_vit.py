"""The vision transformer: the paper's sizes, PyTorch's own layer, and its attention."""

import numpy as np
import pytest
import torch
from networks import build
from settings import architecture, changed
from torch import nn

from striate.config import params
from striate.errors import UserError
from striate.evaluation import inspection, predictions
from striate.models import configs
from striate.models.vit import EPSILON, Block
from striate.training import transfer

VIT = {"arch": "vit", "layers": 2, "width": 12, "patch": 4, "heads": 3}


# Table 1 of arXiv:2010.11929: ViT-Base 86 M. With a class token and its position, 2 · 768
# more, it has the 86,567,656 of torchvision.
def test_it_has_the_parameters_of_the_paper():
    base = {"layers": 12, "width": 768, "patch": 16, "heads": 12}
    config = configs.parse(architecture(**VIT | base))
    assert config.count_parameters((3, 224, 224), 1000) == 86_567_656 - 2 * 768


@pytest.mark.parametrize(
    ("shape", "patch", "side"),
    [((3, 32, 32), 4, 8), ((1, 28, 28), 4, 7), ((1, 28, 28), 2, 14), ((1, 8, 8), 2, 4)],
)
def test_each_layer_gives_an_image_of_patches(shape, patch, side):
    model = build(shape, **VIT | {"patch": patch})
    maps = inspection.feature_maps(model, torch.rand(2, *shape))
    assert list(maps) == ["stem", "layer1", "layer2", "norm"]
    assert {tuple(value.shape) for value in maps.values()} == {(2, 12, side, side)}
    assert model(torch.rand(2, *shape)).shape == (2, 10)
    assert list(inspection.filters(model)) == ["stem"]


def test_a_layer_computes_what_pytorchs_own_does():
    torch.manual_seed(0)
    block = Block(12, 3)
    for value in block.parameters():
        nn.init.normal_(value, std=0.5)
    theirs = nn.TransformerEncoderLayer(
        12, 3, 48, 0.0, "gelu", EPSILON, batch_first=True, norm_first=True
    )
    pairs = {
        "self_attn.in_proj_": "attention.qkv.",
        "self_attn.out_proj.": "attention.out.",
        "linear1.": "mlp.0.",
        "linear2.": "mlp.2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    ours = block.state_dict()
    theirs.load_state_dict(
        {f"{to}{kind}": ours[f"{name}{kind}"] for to, name in pairs.items()
         for kind in ("weight", "bias")}
    )  # fmt: skip
    tokens = torch.randn(2, 20, 12)
    images = tokens.transpose(1, 2).unflatten(2, (4, 5))
    found = block(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found, theirs(tokens), rtol=1e-4, atol=1e-5)


def test_without_positions_the_order_of_patches_does_not_matter():
    model = build((1, 8, 8), **VIT).eval()
    image = torch.rand(1, 1, 8, 8)
    swapped = torch.cat([image[:, :, 4:], image[:, :, :4]], dim=2)
    assert not torch.allclose(model(image), model(swapped), atol=1e-6)
    nn.init.zeros_(model.stem[1].weight)
    torch.testing.assert_close(model(image), model(swapped))


def test_attention_maps_say_how_much_each_patch_is_attended_to():
    torch.manual_seed(0)
    model = build((1, 8, 8), **VIT | {"patch": 2}).eval()
    maps = model.attention_maps(torch.rand(3, 1, 8, 8))
    assert list(maps) == ["layer1", "layer2"]
    for value in maps.values():
        assert value.shape == (3, 4, 4)
        torch.testing.assert_close(value.sum((1, 2)), torch.ones(3))
    qkv = model.layer1.attention.qkv
    nn.init.zeros_(qkv.weight)  # nobody asks for anything: all are attended to alike
    flat = model.attention_maps(torch.rand(3, 1, 8, 8))["layer1"]
    torch.testing.assert_close(flat, torch.full((3, 4, 4), 1 / 16))


def test_attention_is_kept_beside_the_filters_and_that_of_other_networks_is_nothing(tmp_path):
    model, images = build((1, 8, 8), **VIT | {"patch": 2}), torch.rand(3, 1, 8, 8)
    parts = [inspection.filters(model), inspection.feature_maps(model, images[:1])]
    arrays = [{name: value.numpy() for name, value in part.items()} for part in parts]
    maps = {name: v.numpy() for name, v in inspection.attention_maps(model, images).items()}
    arrays[1] = {name: value[0] for name, value in arrays[1].items()}
    predictions.write_network(predictions.Inspected(*arrays, maps), tmp_path)
    found = predictions.read_network(tmp_path).attention
    assert list(found) == ["layer1", "layer2"]
    for name, value in found.items():
        np.testing.assert_array_equal(value, maps[name])
    assert inspection.attention_maps(build((1, 8, 8)), images) == {}
    maps["layer1"] = maps["layer1"][0]
    predictions.write_network(predictions.Inspected(*arrays, maps), tmp_path)
    with pytest.raises(UserError, match=r"attention/\* must be float32 arrays of 3 axes"):
        predictions.read_network(tmp_path)


def test_the_weights_of_the_maps_are_those_of_the_forward_pass():
    torch.manual_seed(0)
    attention = Block(12, 3).attention
    tokens = torch.randn(2, 7, 12)
    weights = attention.weights(tokens)
    assert weights.shape == (2, 3, 7, 7)
    means = weights @ attention.split(tokens)[2]
    found = attention.out(means.transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, attention(tokens), rtol=1e-4, atol=1e-5)


def test_matrices_inside_are_filters_and_positions_are_biases():
    model = build((1, 8, 8), **VIT)
    roles = model.parameter_roles()
    # The patch filters, then query/key/value, output and two of the MLP in each layer.
    assert [weight.dim() for weight in roles["filters"]] == [4] + 2 * [2, 2, 2, 2]
    assert any(value is model.stem[1].weight for value in roles["biases"])
    assert [tuple(weight.shape) for weight in roles["head"]] == [(10, 12)]


def test_images_of_another_size_take_all_but_the_positions():
    taken, others = transfer.transfer_(build(**VIT), build((1, 8, 8), **VIT).state_dict())
    assert others == ["stem.1"]
    assert {"stem.0", "layer1.attention.qkv", "layer2.mlp.2", "norm", "head"} <= set(taken)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": 5}, "model.heads is 5; it must divide model.width, which is 12"),
        (
            {"width": [12, 12]},
            r"model.width is \[12, 12\]; it must be one number where ",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_one_line(changes, said):
    values = changed(**{f"model__{key}": value for key, value in (VIT | changes).items()})
    with pytest.raises(params.ParamsError, match=f"^params.yaml: {said}"):
        params.check(values)
