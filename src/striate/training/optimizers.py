"""The optimisers that the section `training` names, with a rate for each group of parameters.

Adam and SGD are PyTorch's, by their functional forms: the classes around these import the
compiler, which takes seconds, and add to the time of every step.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

if TYPE_CHECKING:
    from striate.config.params import Training
    from striate.models.registry import Network

# Of the quintic iteration that drives singular values towards 1; found for three steps by the
# authors of the 2.0-second record (hiverge/cifar10-speedrun, 2025).
NEWTON_SCHULZ = (3.4576, -4.7391, 2.0843)


class Optimizer:
    """What changes one group of parameters.

    Args:
        params: that have a gradient whenever `step` is called.
        lr: the learning rate, which may be set anew before each step.
    """

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        self.params: list[Tensor] = list(params)
        self.lr: float | Tensor = lr

    def grads(self) -> list[Tensor]:
        """The gradients of the parameters, in their order."""
        return [param.grad for param in self.params if param.grad is not None]

    def step(self) -> None:
        """Change every parameter by its gradient."""
        raise NotImplementedError

    def state(self) -> list[Tensor]:
        """What it remembers from step to step: tensors that it changes in place."""
        raise NotImplementedError


class Adam(Optimizer):
    """D. Kingma and J. Ba, arXiv:1412.6980; with `decoupled`, AdamW, arXiv:1711.05101."""

    def __init__(
        self,
        params: list[nn.Parameter],
        lr: float,
        *,
        weight_decay: float,
        decoupled: bool,
        fused: bool,
    ) -> None:
        super().__init__(params, lr)
        self.weight_decay = weight_decay
        self.decoupled = decoupled
        self.fused = fused or None  # None leaves the choice to PyTorch
        self.means = [torch.zeros_like(param) for param in self.params]
        self.squares = [torch.zeros_like(param) for param in self.params]
        # On a device the steps are counted there, so that a recorded step counts on.
        self.steps = [torch.zeros((), device=param.device) for param in self.params]

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter by its gradient."""
        adam(
            self.params, self.grads(), self.means, self.squares, [], self.steps,
            fused=self.fused, capturable=self.steps[0].is_cuda, amsgrad=False, beta1=0.9,
            beta2=0.999, eps=1e-8, lr=self.lr, weight_decay=self.weight_decay,
            decoupled_weight_decay=self.decoupled, maximize=False,
        )  # fmt: skip

    def state(self) -> list[Tensor]:
        """Both averages of each parameter, and how many steps were taken."""
        return [*self.means, *self.squares, *self.steps]


class SGD(Optimizer):
    """Stochastic gradient descent with Nesterov's momentum."""

    def __init__(
        self,
        params: list[nn.Parameter],
        lr: float,
        *,
        momentum: float,
        weight_decay: float,
        fused: bool,
    ) -> None:
        super().__init__(params, lr)
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.fused = fused or None
        self.averages = [torch.zeros_like(param) for param in self.params]

    @torch.no_grad()
    def step(self) -> None:
        """Change every parameter by its gradient."""
        sgd(
            self.params, self.grads(), [*self.averages], fused=self.fused, lr=self.lr,
            momentum=self.momentum, nesterov=self.momentum > 0, dampening=0.0,
            weight_decay=self.weight_decay, maximize=False,
        )  # fmt: skip

    def state(self) -> list[Tensor]:
        """The average of each parameter's gradient."""
        return [*self.averages]


class Muon(Optimizer):
    """Momentum whose update of each bank of filters is made orthogonal.

    K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. Before each
    step a bank is rescaled to the norm √(number of filters), so that a learning rate means the
    same whatever the size of the weights.

    Args:
        params: weights of convolutions, (out, in, k, k).
        lr: the learning rate.
        momentum: of Nesterov's kind, from 0 to below 1.
        dtype: of the matrix products inside.
    """

    def __init__(
        self, params: list[nn.Parameter], lr: float, *, momentum: float, dtype: torch.dtype
    ) -> None:
        super().__init__(params, lr)
        self.momentum = momentum
        self.dtype = dtype
        self.averages = [torch.zeros_like(param) for param in self.params]

    @torch.no_grad()
    def step(self) -> None:
        """Change every bank of filters by its gradient."""
        for weight, grad, average in zip(self.params, self.grads(), self.averages, strict=True):
            average.mul_(self.momentum).add_(grad)
            update = grad.add(average, alpha=self.momentum)
            direction = orthogonal(update.flatten(1).to(self.dtype)).view(update.shape)
            weight.mul_(math.sqrt(len(weight)) / weight.norm())
            weight.sub_(direction * self.lr)

    def state(self) -> list[Tensor]:
        """The average of each bank's gradient."""
        return [*self.averages]


def orthogonal(matrix: Tensor, steps: int = 3) -> Tensor:
    """The nearest matrix whose singular values are about 1, by a Newton–Schulz iteration.

    Args:
        matrix: (rows, columns).
        steps: of the iteration; after three, singular values lie between about 0.7 and 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.mT if tall else matrix
    found = found / (found.norm() + 1e-7)
    for _ in range(steps):
        square = found @ found.mT
        polynomial = torch.addmm(square, square, square, beta=b, alpha=c)
        found = torch.addmm(found, polynomial, found, beta=a)
    return found.mT if tall else found


def parameter_groups(model: Network) -> dict[str, list[nn.Parameter]]:
    """The parameters that learn, by the roles that the network gives them."""
    return {
        role: [parameter for parameter in members if parameter.requires_grad]
        for role, members in model.parameter_roles().items()
    }


def build_optimizers(
    model: Network, settings: Training, *, fused: bool, dtype: torch.dtype
) -> list[Optimizer]:
    """An optimiser for each group of parameters that has a rate of its own.

    Args:
        model: whose parameters are to learn.
        settings: the section `training` of params.yaml.
        fused: one kernel for all parameters of a group, which rounds differently.
        dtype: of the matrix products inside Muon.
    """
    groups = parameter_groups(model)
    if settings.bias_rate == settings.head_rate == 1 and settings.optimizer != "muon":
        # As one, so that a fused optimiser needs one kernel.
        groups = {"filters": [parameter for members in groups.values() for parameter in members]}
    factors = {"filters": 1.0, "head": settings.head_rate, "biases": settings.bias_rate}
    decay = settings.weight_decay
    found: list[Optimizer] = []
    for kind, members in groups.items():
        rate = settings.learning_rate * factors[kind]
        if not members:
            continue
        if settings.optimizer in ("adam", "adamw"):
            decoupled = settings.optimizer == "adamw"
            found.append(Adam(members, rate, weight_decay=decay, decoupled=decoupled, fused=fused))
        elif settings.optimizer == "muon" and kind == "filters":
            found.append(Muon(members, rate, momentum=settings.momentum, dtype=dtype))
        else:
            found.append(
                SGD(
                    members, rate, momentum=settings.momentum, weight_decay=decay, fused=fused
                )
            )  # fmt: skip
    return found
