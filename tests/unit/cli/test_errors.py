"""What an error becomes in words."""

import pytest
import torch

from striate.errors import describe, is_out_of_memory

ADVICE = "reduce training.batch_size, evaluate.batch_size or model.width"
ON_HOST = f"there is too little memory for this; {ADVICE}"
ON_GPU = f"there is too little memory for this on the GPU; {ADVICE}, or set data.residency to host"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), ON_HOST),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate"
                " memory: you tried to allocate 4503599627370496 bytes."
            ),
            ON_HOST,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GiB)"), ON_HOST),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), ON_GPU),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might"), ON_GPU),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            ON_GPU,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), ON_GPU),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
            ON_GPU,
        ),
        (
            RuntimeError("CUDA error: no kernel image is available for execution on the device\nx"),
            "the GPU cannot be used: CUDA error: no kernel image is available for execution on the"
            " device; training.device=cpu does without",
        ),
        (
            RuntimeError("GET was unable to find an engine to execute this computation"),
            "cuDNN has no algorithm for a convolution of this network; set training.precision to"
            " float32, training.deterministic to false, or another model.kernel_size",
        ),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (ValueError("out of memory"), None),
        (RuntimeError("shapes differ"), None),
    ],
)
def test_want_of_memory_is_told_from_a_bug(error, said):
    assert describe(error) == said
    assert is_out_of_memory(error) == (said in (ON_HOST, ON_GPU))


def capture(inside):
    """Raise as `torch.cuda.graph` does if the captured block fails."""
    try:
        raise inside
    finally:
        raise RuntimeError(
            "CUDA error: operation failed due to a previous error during capture\nCUDA kernel"
        )


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), ON_GPU),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), ON_GPU),
        (RuntimeError("shapes differ"), None),
    ],
)
def test_want_of_memory_is_found_behind_a_capture_that_failed(inside, said):
    with pytest.raises(RuntimeError, match="during capture") as caught:
        capture(inside)
    assert describe(caught.value) == said


def test_an_error_that_hides_what_came_before_is_taken_at_its_word():
    error = RuntimeError("another matter")
    error.__context__ = MemoryError()
    assert describe(error) == ON_HOST
    error.__suppress_context__ = True
    assert describe(error) is None
