"""Heat maps: what their axioms demand, and that they find what decides."""

import pytest
import torch
from networks import build
from torch import nn

from striate.evaluation import heat_maps
from striate.models.registry import NETWORKS

SIZES = {
    "mlp": {"width": 8}, "speedrun": {"width": [8, 8], "kernel_size": 3, "whiten": 2},
    "vit": {"width": 8, "patch": 4, "heads": 2}, "convmixer": {"width": 8, "patch": 4},
    "resnet": {"width": 4, "layers": 1, "kernel_size": 3}, "gabor": {"width": 4},
    "recurrent": {"width": 4, "layers": 2, "kernel_size": 3}, "convnet": {"width": 4},
    "lenet5": {}, "timm:resnet18": {},
}  # fmt: skip


class OnePixel(nn.Module):
    """Class 1 as far as one pixel is bright."""

    def forward(self, images):
        value = images[:, 0, 3, 5]
        return torch.stack([torch.zeros_like(value), 6 * value], 1)


def test_the_pixel_that_decides_is_the_hottest():
    images = torch.zeros(2, 1, 8, 8)
    images[:, 0, 3, 5] = 1
    for_it, against = heat_maps.heat_maps(OnePixel(), images, torch.tensor([1, 0]))
    for found in (for_it, -against):
        # Averaged over 3 × 3 pixels, it shares the first place with its neighbours.
        assert found[3, 5] == found.max()
        assert (found == found.max()).sum() == 9
    assert for_it.max() > 0 > against.min()
    raw = heat_maps.integrated_gradients(OnePixel(), images, torch.tensor([1, 0]))
    assert (raw[0, 0] != 0).nonzero().tolist() == [[3, 5]]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_the_shares_add_up_to_the_rise_of_the_log_probability(shape):
    torch.manual_seed(0)
    model = build(shape, activation="gelu", norm="none", pool="average").eval()
    images, classes = torch.randn(3, *shape), torch.tensor([0, 4, 9])
    shares = heat_maps.integrated_gradients(model, images, classes, steps=64)
    with torch.no_grad():
        after, before = (
            model(some).log_softmax(1)[range(3), classes]
            for some in (images, heat_maps.blurred(images))
        )
    assert torch.allclose(shares.sum((1, 2, 3)), after - before, atol=2e-3)


@pytest.mark.parametrize("arch", [*SIZES])
def test_every_network_has_heat_maps(arch):
    assert {*NETWORKS} <= {name.partition(":")[0] for name in SIZES}
    shape = (3, 32, 32)
    model = build(shape, arch=arch, **SIZES[arch]).eval()
    images, classes = torch.rand(2, *shape), torch.tensor([1, 2])
    found = heat_maps.heat_maps(model, images, classes)
    assert found.shape == (2, 32, 32)
    assert found.isfinite().all()
    assert (found.flatten(1).std(1) > 0).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_image_has_the_same_map_in_any_company():
    torch.manual_seed(0)
    model = build().eval()
    images, classes = torch.rand(40, 1, 28, 28), torch.arange(40) % 10
    together = heat_maps.heat_maps(model, images, classes)
    alone = heat_maps.heat_maps(model, images[33:34], classes[33:34])
    assert torch.allclose(together[33], alone[0], atol=1e-6)


def test_large_images_are_computed_a_few_at_a_time(monkeypatch):
    torch.manual_seed(0)
    model = build().eval()
    images, classes = torch.rand(5, 1, 28, 28), torch.arange(5)
    whole, counts = heat_maps.heat_maps(model, images, classes), []
    model.register_forward_pre_hook(lambda _module, inputs: counts.append(len(inputs[0])))
    monkeypatch.setattr(heat_maps, "VALUES", 7 * 28 * 28)
    assert torch.allclose(heat_maps.heat_maps(model, images, classes), whole, atol=1e-6)
    assert max(counts) == 7
    assert sum(counts) == 5 * heat_maps.STEPS
