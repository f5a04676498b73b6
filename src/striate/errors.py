"""`UserError`, the one kind of error that its reader can fix, and how a command reports errors."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# What the errors of PyTorch, cuBLAS, cuDNN and cuSOLVER say if memory cannot be allocated.
MEMORY_SIGNS = (
    "out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED", "ALLOCATION_FAILED",
)  # fmt: skip
GPU_SIGNS = ("CUDA", "CUBLAS", "CUDNN", "CUSOLVER", "HIP ")
# What those of the CUDA runtime say if a card or its driver does not go with this PyTorch.
GPU_FAULTS = (
    "no kernel image is available", "CUDA driver version is insufficient",
    "The NVIDIA driver on your system is too old", "busy or unavailable",
)  # fmt: skip
# What cuDNN says if none of its algorithms for a convolution fits, as with determinism in bfloat16.
NO_ALGORITHM = (
    "unable to find an engine to execute", "Unable to find a valid cuDNN algorithm",
    "No valid engine configs", "no valid convolution algorithms",
)  # fmt: skip

INTERRUPTED = "interrupted: give the same command again"


class UserError(Exception):
    """Something outside the code is wrong; the message says what, where, and what is right."""


def describe(error: BaseException) -> str | None:
    """The message for an error that its reader can fix; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if shortage := next((e for e in _causes(error) if is_out_of_memory(e)), None):
        return "there is too little memory for this" + (
            " on the GPU; reduce training.batch_size, evaluate.batch_size or model.width, or set"
            " data.residency to host"
            if any(sign in str(shortage) for sign in GPU_SIGNS)
            else "; reduce training.batch_size, evaluate.batch_size or model.width"
        )
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in GPU_FAULTS):
        reason = str(error).splitlines()[0]
        return f"the GPU cannot be used: {reason}; training.device=cpu does without"
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_ALGORITHM):
        return (
            "cuDNN has no algorithm for a convolution of this network; set training.precision to"
            " float32, training.deterministic to false, or another model.kernel_size"
        )
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch or Python raised an error for want of memory, of the host or of a GPU."""
    # On a CPU, and in a library of CUDA, it is a plain RuntimeError.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY_SIGNS)
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it arose from.

    Want of memory while a CUDA graph is captured is raised anew as a failed capture.
    """
    found: BaseException | None = error
    while found is not None:
        yield found
        hidden = found.__suppress_context__ or not isinstance(found, RuntimeError)
        found = found.__cause__ or (None if hidden else found.__context__)


def open_streams() -> None:
    """Make the three standard streams usable, even if closed or of a narrow encoding.

    A closed stream reads and writes nothing; if it stayed closed, the next opened file would get
    its number. Characters that the encoding lacks are escaped.
    """
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
        stream = getattr(sys, name)
        if mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_last(text: str) -> None:
    """Print why this process ends, on standard error, if that is open.

    Redirects a broken standard output to nowhere, which the interpreter would flush again.
    """
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if text:
        with suppress(OSError):
            print(text, file=sys.stderr)


def one_line(error: Exception) -> str:
    """A library's error message on one line of 200 characters at most; its type if it is empty."""
    message = getattr(error, "strerror", None) or str(error)  # `str` would repeat the path
    text = " ".join(message.split()) or type(error).__name__
    return text[:200] + "…" if len(text) > 201 else text


@contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """The interrupts that come, also where something catches them; repeat those that Python drops.

    It drops one in what it calls when an object is freed, as SQLAlchemy and the import system
    have it. A SIGINT that something else handles is none.
    """
    found: list[int] = []
    timers: list[threading.Timer] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        found.append(number)
        raise KeyboardInterrupt

    def repeat(lost: UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            hook(lost)
            return
        # One that stops where SIGINT is ignored, as behind `nohup`, came by SIGTERM.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        number = signal.SIGTERM if ignored else signal.SIGINT
        # Not at once: it would be dropped again.
        main = threading.main_thread().ident
        timers.append(threading.Timer(0.05, signal.pthread_kill, (main, number)))
        timers[-1].daemon = True
        timers[-1].start()

    if threading.current_thread() is not threading.main_thread():
        yield found  # other threads get no signals
        return
    hook, sys.unraisablehook = sys.unraisablehook, repeat
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield found
    finally:
        for timer in timers:
            timer.cancel()
        if signal.getsignal(signal.SIGINT) is interrupt:  # else the body has set its own
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = hook


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn errors that the reader can fix into a line on standard error and an exit status.

    Status 2 for a `UserError` or what the system refuses (a full disk, a missing permission), 130
    for an interrupt, 1 for a broken pipe. Bugs keep their traceback, but not behind an interrupt.
    """
    open_streams()
    try:
        try:
            with _noted_interrupts() as interrupts:
                yield
        # Not after an error, which a broken pipe would hide.
        except SystemExit:
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        _print_last("")
        sys.exit(1)
    except Exception as error:
        text = describe(error)
        if text is not None:
            _print_last(f"error: {text}")
            sys.exit(2)
        if not interrupts:
            raise
        # A library whose import is interrupted may catch that, and fail later, in another way.
        _print_last(INTERRUPTED)
        sys.exit(130)
    except KeyboardInterrupt as interrupt:
        _print_last(f"interrupted: {interrupt}" if str(interrupt) else INTERRUPTED)
        sys.exit(130)
