"""What heat maps find: against random pixels, other methods, and networks of random weights.

    python benchmarks/heat_maps.py $(striate fetch EXPERIMENT) ...

For the first 200 test images, each network's likeliest class is explained. *Deletion* is the mean
probability of that class as pixels are blurred, those first that spoke most for it; *insertion* is
the mean as they come into a blurred image: the lower and the higher, the better. *Randomised* is
Spearman's rank correlation of the map with that of the same network after its layers were drawn
anew, from the head down (J. Adebayo et al., "Sanity Checks for Saliency Maps", arXiv:1810.03292).
"""

import argparse
import copy
import time
from pathlib import Path

import common
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from striate.data import tensors
from striate.evaluation import heat_maps
from striate.models import checkpoint

IMAGES, STEPS = 200, 16
CPU = torch.device("cpu")


def random_pixels(model, images, classes):
    return torch.rand(len(images), *images.shape[2:], generator=torch.Generator().manual_seed(0))


def gradient(model, images, classes):
    """Gradient times input: K. Simonyan et al., arXiv:1312.6034."""
    inputs = images.clone().requires_grad_()
    chosen = model(inputs).log_softmax(1).gather(1, classes[:, None])
    (found,) = torch.autograd.grad(chosen.sum(), inputs)
    return (found * images).sum(1)


def layer_cam(model, images, classes):
    """LayerCAM of the last layer with more than one pixel: P.-T. Jiang et al., 2021."""
    outputs = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for layer in model.layers().values()
    ]
    inputs = images.clone().requires_grad_()
    chosen = model(inputs).log_softmax(1).gather(1, classes[:, None])
    for hook in hooks:
        hook.remove()
    maps = [output for output in outputs if output.dim() == 4 and output.shape[2] > 1]
    if not maps:
        return None
    (found,) = torch.autograd.grad(chosen.sum(), maps[-1])
    seen = (found.relu() * maps[-1].detach()).sum(1, keepdim=True)
    return F.interpolate(seen, images.shape[2:], mode="bilinear")[:, 0]


@torch.no_grad()
def occlusion(model, images, classes):
    """The fall of the log-probability as a blurred square moves: M. Zeiler, R. Fergus, 2013."""
    height, width = images.shape[2:]
    side, stride = max(2, round(min(height, width) / 5)), max(1, min(height, width) // 15)
    background, found = heat_maps.blurred(images), torch.zeros(len(images), height, width)
    seen = torch.zeros(height, width)

    def log_probability(inputs):
        return model(inputs).log_softmax(1).gather(1, classes[:, None])[:, 0]

    whole = log_probability(images)
    for top in range(-side // 2, height - side // 2, stride):
        for left in range(-side // 2, width - side // 2, stride):
            mask = torch.zeros(height, width, dtype=torch.bool)
            mask[max(0, top) : top + side, max(0, left) : left + side] = True
            fall = whole - log_probability(torch.where(mask, background, images))
            found += fall[:, None, None] * mask
            seen += mask
    return found / seen.clamp(min=1)


@torch.no_grad()
def probabilities_by_share(model, images, classes, maps, steps):
    """How the classes' mean probability changes as pixels go or come by their map.

    Deletion and insertion curves: V. Petsiuk, A. Das and K. Saenko, "RISE", arXiv:1806.07421.

    Args:
        model: in evaluation mode, on the device of the images.
        images: normalised, float32 (N, C, H, W).
        classes: one for each image, int64 (N,).
        maps: (N, H, W); the pixels with the highest values are the first.
        steps: the shares of the pixels are 0, 1/steps, 2/steps, …, 1.

    Returns:
        Both (steps + 1,): with those pixels blurred, and with all others blurred.
    """
    background, pixels = heat_maps.blurred(images), maps[0].numel()
    rank = maps.flatten(1).argsort(1, descending=True).argsort(1).view_as(maps)[:, None]
    curves = ([], [])
    for step in range(steps + 1):
        first = rank < pixels * step / steps
        views = torch.where(first, background, images), torch.where(first, images, background)
        for curve, view in zip(curves, views, strict=True):
            found = model(view).softmax(1).gather(1, classes[:, None])
            curve.append(found.mean())
    return torch.stack(curves[0]), torch.stack(curves[1])


METHODS = {
    "random pixels": random_pixels, "gradient × input": gradient, "LayerCAM": layer_cam,
    "occlusion": occlusion, "Striate": heat_maps.heat_maps,
}  # fmt: skip


def compared(name, model, images, classes):
    """A row for each method: deletion, insertion, milliseconds an image."""
    for method, explain in METHODS.items():
        begin = time.perf_counter()
        maps = explain(model, images, classes)
        seconds = time.perf_counter() - begin
        if maps is None:
            continue
        curves = probabilities_by_share(model, images, classes, maps, STEPS)
        areas = [f"{curve.mean():.3f}" for curve in curves]
        yield [name, method, *areas, f"{1000 * seconds / len(images):.1f}"]


def randomised(model, images, classes):
    """The mean rank correlation after the head, …, after all layers were drawn anew."""
    before = heat_maps.heat_maps(model, images, classes).flatten(1).numpy()
    changed = copy.deepcopy(model)
    torch.manual_seed(0)
    parts = [module for module in changed.modules() if hasattr(module, "reset_parameters")]
    found = {}
    for count, module in enumerate(reversed(parts), start=1):
        module.reset_parameters()
        if count in (1, (len(parts) + 1) // 2, len(parts)):
            after = heat_maps.heat_maps(changed, images, classes).flatten(1).numpy()
            ranks = [spearmanr(*pair).statistic for pair in zip(before, after, strict=True)]
            found[count] = sum(ranks) / len(ranks)
    return [f"{found[count]:.2f}" for count in (1, (len(parts) + 1) // 2, len(parts))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+", type=Path)
    arguments = parser.parse_args()
    print(common.header() + "\n")
    rows, changes = [], []
    for folder in arguments.networks:
        trained = checkpoint.load(folder, CPU)
        model = trained.model.eval().requires_grad_(False)
        data = trained.description["data"]
        test = tensors.load_split(common.stored(data), "test", CPU)
        name = f"{data}, {trained.description['architecture']['arch']}"
        images = trained.normalization(test.images[:IMAGES])
        classes = model(images).argmax(1)
        rows += compared(name, model, images, classes)
        changes.append([name, *randomised(model, images, classes)])
    common.table(["network", "map", "deletion", "insertion", "ms an image"], rows)
    print()
    common.table(["network", "head drawn anew", "half of the layers", "all layers"], changes)


if __name__ == "__main__":
    main()
