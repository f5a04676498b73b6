"""The optimizers, and which one trains which group of parameters at which learning rate.

Adam and SGD call PyTorch's functional forms: its classes import the compiler, which takes seconds,
and slow every step down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from striate.training.muon import muon

if TYPE_CHECKING:
    from striate.config.params import Training
    from striate.models.registry import Network


class Optimizer:
    """Updates one group of parameters.

    Args:
        params: that have a gradient whenever `step` is called.
        lr: the peak learning rate.
    """

    def __init__(self, params: list[nn.Parameter], lr: float) -> None:
        self.params: list[Tensor] = list(params)
        self.peak_lr = lr
        self.lr: float | Tensor = lr

    def scale_rate(self, factor: float) -> None:
        """Set the learning rate of the next step, relative to its peak."""
        if isinstance(self.lr, Tensor):
            self.lr.fill_(self.peak_lr * factor)
        else:
            self.lr = self.peak_lr * factor

    def move_rate(self, device: torch.device) -> None:
        """Read the learning rate from a device: a CUDA graph would capture it as a constant."""
        self.lr = torch.tensor(self.lr, device=device)

    def grads(self) -> list[Tensor]:
        """The gradients of the parameters, in their order."""
        return [param.grad for param in self.params if param.grad is not None]

    def step(self) -> None:
        """Update every parameter by its gradient."""
        raise NotImplementedError

    def state(self) -> list[Tensor]:
        """The tensors that it keeps from step to step and changes in place."""
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
        # The fused form counts steps on the device, so that a captured step counts on.
        device = self.params[0].device if fused else torch.device("cpu")
        self.steps = [torch.zeros((), device=device) for _ in self.params]

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter by its gradient."""
        adam(
            self.params, self.grads(), self.means, self.squares, [], self.steps,
            fused=self.fused, amsgrad=False, beta1=0.9, beta2=0.999, eps=1e-8, lr=self.lr,
            weight_decay=self.weight_decay, decoupled_weight_decay=self.decoupled, maximize=False,
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
        """Update every parameter by its gradient."""
        sgd(
            self.params, self.grads(), [*self.averages], fused=self.fused, lr=self.lr,
            momentum=self.momentum, nesterov=self.momentum > 0, dampening=0.0,
            weight_decay=self.weight_decay, maximize=False,
        )  # fmt: skip

    def state(self) -> list[Tensor]:
        """The average of each parameter's gradient."""
        return [*self.averages]


class Muon(Optimizer):
    """Momentum with orthogonal updates; see `striate.training.muon`.

    Args:
        params: weights of convolutions, (out, in, k, k), and matrices, (out, in).
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
        """Update every bank of filters by its gradient."""
        muon(
            self.params, self.grads(), self.averages, lr=self.lr, momentum=self.momentum,
            dtype=self.dtype,
        )  # fmt: skip

    def state(self) -> list[Tensor]:
        """The average of each bank's gradient."""
        return [*self.averages]


def parameter_groups(model: Network) -> dict[str, list[nn.Parameter]]:
    """The parameters that learn, by the roles that the network gives them."""
    return {
        role: [parameter for parameter in members if parameter.requires_grad]
        for role, members in model.parameter_roles().items()
    }


def build_optimizers(
    model: Network, settings: Training, *, fused: bool, dtype: torch.dtype
) -> list[Optimizer]:
    """An optimizer for each group of parameters that has a learning rate of its own.

    Args:
        model: whose parameters are to learn.
        settings: the section `training` of params.yaml.
        fused: one kernel for all parameters of a group, which rounds differently.
        dtype: of the matrix products inside Muon.
    """
    groups = parameter_groups(model)
    if settings.bias_rate == settings.head_rate == 1 and settings.optimizer != "muon":
        # As one group, so that a fused optimizer needs one kernel.
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
