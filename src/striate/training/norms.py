"""Batch norms in transfer learning and in several processes."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from striate.models.registry import Network

OWN_PART = (nn.BatchNorm1d, nn.BatchNorm2d)  # each process normalises its own part of a batch


def train_(model: Network) -> None:
    """Put a network into training mode; frozen norms keep their running statistics."""
    model.train()
    for part in model.modules():
        if isinstance(part, _BatchNorm) and not any(p.requires_grad for p in part.parameters()):
            part.eval()


def synchronize_(model: Network, device: torch.device) -> bool:
    """Make batch norms see the whole batch of several processes, which PyTorch can on CUDA only.

    Elsewhere each process normalises its own part.

    Returns:
        Whether all norms see the whole batch.
    """
    if device.type == "cuda":
        model.synchronize_norms_()
        for part in model.modules():
            if isinstance(part, nn.SyncBatchNorm):
                part.register_forward_pre_hook(_widen_nothing)
    return not any(isinstance(part, OWN_PART) for part in model.modules())


def _widen_nothing(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Make an input without images float32, as the statistics of other processes are.

    SyncBatchNorm sends zeros in the type of its input then, which autocast may have narrowed.
    """
    return inputs if len(inputs[0]) else (inputs[0].float(),)


def running_statistics(model: Network) -> list[Tensor]:
    """The running means and variances that a step updates from this process's part of a batch."""
    found = []
    for part in model.modules():
        if isinstance(part, OWN_PART) and part.training:
            found += [part.running_mean, part.running_var]
    return [value for value in found if value is not None]
