"""Count the operations of a training step, and refuse those for which a GPU would wait."""

from contextlib import contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# They bring a number to the host, or a shape that hangs on numbers.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")
READS = ("tolist", "numpy", "cpu")


class Operations(TorchDispatchMode):
    """Keeps the names of all operations that compute or move something, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in WAITS, f"{name} makes the host wait"
        if name in ("index", "index_put", "index_put_"):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), "a mask"
        assert not name.startswith("lift_fresh"), "a number comes from the host"
        if not function.is_view and name not in ("empty", "empty_like", "detach"):
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@contextmanager
def traced():
    """Inside, what a step does is recorded; a host that waits is an error."""

    def refuse(*_):
        raise AssertionError("the host reads a tensor")

    with Operations() as operations:
        patches = [mock.patch.object(torch.Tensor, name, refuse) for name in READS]
        for patch in patches:
            patch.start()
        try:
            yield operations.names
        finally:
            mock.patch.stopall()
