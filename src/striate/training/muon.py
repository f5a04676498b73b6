"""Muon: momentum whose update of each bank of filters is made orthogonal.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Coefficients of the quintic iteration that drives singular values towards 1; found for three steps
# by the authors of the 2.0-second record (hiverge/cifar10-speedrun, 2025).
NEWTON_SCHULZ = (3.4576, -4.7391, 2.0843)


def muon(
    weights: list[Tensor],
    grads: list[Tensor],
    averages: list[Tensor],
    *,
    lr: float | Tensor,
    momentum: float,
    dtype: torch.dtype,
) -> None:
    """Update banks of filters in place.

    Before the update a bank is rescaled to the norm √(number of filters), so that a learning rate
    means the same whatever the size of the weights.

    Args:
        weights: of convolutions, each (out, in, k, k), or matrices, (out, in).
        grads: of the weights.
        averages: of the gradients; changed in place.
        lr: the learning rate.
        momentum: of Nesterov's kind, from 0 to below 1.
        dtype: of the matrix products inside.
    """
    # One call for all banks where that is possible: on a GPU each call is a launch.
    torch._foreach_mul_(averages, momentum)
    torch._foreach_add_(averages, grads)
    updates = torch._foreach_add(grads, averages, alpha=momentum)
    directions = [orthogonal(update.flatten(1).to(dtype)).view(update.shape) for update in updates]
    norms = torch._foreach_norm(weights)
    for weight, norm in zip(weights, norms, strict=True):
        weight.mul_(math.sqrt(len(weight)) / norm)
    torch._foreach_sub_(weights, torch._foreach_mul(directions, lr))


def orthogonal(matrix: Tensor, steps: int = 3) -> Tensor:
    """Approximate the nearest orthogonal matrix by a Newton–Schulz iteration.

    Args:
        matrix: (rows, columns).
        steps: of the iteration; after three, singular values lie between about 0.7 and 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    result = matrix.mT if tall else matrix
    result = result / (result.norm() + 1e-7)
    for _ in range(steps):
        square = result @ result.mT
        polynomial = torch.addmm(square, square, square, beta=b, alpha=c)
        result = torch.addmm(result, polynomial, result, beta=a)
    return result.mT if tall else result
