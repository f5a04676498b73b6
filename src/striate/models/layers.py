"""What several networks are built of."""

from collections.abc import Iterable

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def numbered_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The parts of a network that are called `layer1`, `layer2`, …, in order."""
    return {name: part for name, part in model.named_children() if name.startswith("layer")}


def roles(layers: Iterable[nn.Module], head: nn.Linear) -> dict[str, list[nn.Parameter]]:
    """The parameters by role, for a network of convolutions, matrices, norms and a head.

    Args:
        layers: all parts of the network before the head.
        head: gives the logits.

    Returns:
        What `striate.models.registry.Network.parameter_roles` is to give.
    """
    found: dict[str, list[nn.Parameter]] = {"filters": [], "head": [], "biases": []}
    for part in (part for layer in layers for part in layer.modules()):
        role = "filters" if isinstance(part, nn.Conv2d | nn.Linear) else "biases"
        for name, parameter in part.named_parameters(recurse=False):
            found[role if name == "weight" else "biases"].append(parameter)
    for name, parameter in head.named_parameters():
        found["head" if name == "weight" else "biases"].append(parameter)
    return found
