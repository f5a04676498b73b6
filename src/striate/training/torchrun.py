"""Start the processes of one training by torchrun, and read what it tells them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from striate.data import files
from striate.data.processors import cores
from striate.errors import UserError, describe, exit_on_error

RESTARTS = 3  # of all processes, when one of them has ended early
MESSAGES = "STRIATE_EXIT_MESSAGES"  # names the folder in which processes say why they end
LOOK_SECONDS = 0.5  # between two looks for a fault of another process
LEAVE_SECONDS = 3.0  # for a process to notice by itself that the training is lost
TERM_SECONDS = 15.0  # for one that torchrun ends to answer, and to save its state
FAULT, STOPPED = "fault", "stopped"  # files there, by kind and rank
OF_A_MEMBER = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
OF_MORE_MACHINES = {"PET_NNODES", "PET_RDZV_ENDPOINT"}


def is_member() -> bool:
    """Whether torchrun, or what does its work, has started this process."""
    return os.environ.keys() >= OF_A_MEMBER


def is_main_process() -> bool:
    """Whether this is the process that writes and logs: rank 0, or the only one."""
    return not is_member() or os.environ["RANK"] == "0"


def local_world_size() -> int:
    """How many processes of this training are on this machine, including this one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if is_member() else 1


def is_needed(processes: int | str, device: str) -> bool:
    """Whether this process is to start others, which do its work.

    Args:
        processes: `training.processes`.
        device: `training.device`.
    """
    if is_member():
        return False
    return count(processes, device) > 1 or bool(os.environ.keys() & OF_MORE_MACHINES)


def count(processes: int | str, device: str) -> int:
    """How many processes of a training to start on this machine.

    Args:
        processes: `training.processes`; `auto` means one for each GPU that trains, and one where
            there is none.
        device: `training.device`.
    """
    if processes != "auto":
        return int(processes)
    return max(1, _gpus(device))


def _gpus(device: str) -> int:
    """How many GPUs of this machine a training on that device can use."""
    if device not in ("auto", "cuda"):
        return 0
    from striate.models.devices import count_gpus

    return count_gpus()


def too_many(processes: int, gpus: int) -> str:
    """What to tell of more processes than GPUs."""
    return (
        f"{processes} processes need a GPU each, and this machine has {gpus}; lower"
        " training.processes, or set training.device to cpu"
    )


def launch(processes: int, script: Path, device: str) -> None:
    """Run a script in several processes on this machine, and wait for their end.

    torchrun starts them, and restarts all of them when one has ended early. Its own variables
    (`PET_NNODES`, `PET_RDZV_ENDPOINT`, `PET_MAX_RESTARTS` and so on) let other machines take part.

    Args:
        processes: how many.
        script: what each of them runs.
        device: `training.device`.

    Raises:
        UserError: there are fewer GPUs than processes, torchrun rejected its variables, a process
            found a fault, processes ended early too often, or other machines were not found.
        KeyboardInterrupt: says from where the same command resumes.
    """
    given = sorted(name for name in os.environ if name.startswith("PET_"))
    _set_variables(processes, device)
    # The processes themselves say better what matters of what torchrun and its store report.
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[MESSAGES] = folder
        failure = _run(script, folder, given)
        fault = _read(folder, FAULT)
    if fault or failure:
        raise UserError(fault or failure)


def _set_variables(processes: int, device: str) -> None:
    """Set the variables that torchrun and its processes read, unless they are set.

    Raises:
        UserError: there are fewer GPUs than processes, or a variable contradicts params.yaml, on
            which results that DVC keeps depend.
    """
    asked = os.environ.setdefault("PET_NPROC_PER_NODE", str(processes))
    if asked != str(processes) and not os.environ.keys() & OF_MORE_MACHINES:
        raise UserError(
            f"PET_NPROC_PER_NODE is {asked}, and training.processes makes {processes}; on one"
            " machine unset that variable, and set training.processes"
        )
    here = int(asked) if asked.isdigit() else processes
    gpus = _gpus(device)
    if 0 < gpus < here:  # without any, `auto` takes the CPU, and each process refuses `cuda`
        raise UserError(too_many(here, gpus))
    if gpus == 0 and device == "auto":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # so that all of them take the CPU
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // max(1, here))))
    os.environ.setdefault("PET_MAX_RESTARTS", str(RESTARTS))
    # Otherwise the processes of a second attempt get the addresses of the first.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if os.environ.keys() & OF_MORE_MACHINES:
        os.environ.setdefault("PET_RDZV_BACKEND", "c10d")


def _run(script: Path, folder: str, given: list[str]) -> str:
    """Run a script by torchrun.

    Args:
        script: what each process runs.
        folder: in which they say why they end.
        given: variables of torchrun that the user has set.

    Returns:
        What to tell if processes ended early too often without a message; otherwise nothing.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    standalone = [] if os.environ.keys() & OF_MORE_MACHINES else ["--standalone"]
    try:
        # Its usage, of 25 lines; the last holds the reason.
        with contextlib.redirect_stderr(io.StringIO()) as usage:
            options = parse_args([*standalone, str(script)])
        run(options)
    except (ValueError, SystemExit) as error:
        refused = usage.getvalue().strip().rpartition("error: ")[2]
        reason = refused if isinstance(error, SystemExit) else str(error)
        raise UserError(f"torchrun rejected {' or '.join(given)}: {reason}") from None
    except SignalException:
        raise KeyboardInterrupt(_read(folder, STOPPED)) from None
    except RendezvousError as error:
        where = os.environ.get("PET_RDZV_ENDPOINT", "this machine")
        raise UserError(
            f"the processes of {os.environ.get('PET_NNODES', '1')} machines did not find each"
            f" other at {where}: {' '.join(str(error).split())}"
        ) from None
    except ChildFailedError as error:
        rank, failed = error.get_first_failure()
        return (
            f"the training's processes ended early in each of {_attempts()} attempts, the last time"
            f" rank {rank} with status {failed.exitcode}; the same command resumes where they"
            " stopped"
        )
    return ""


def _attempts() -> int:
    return int(os.environ["PET_MAX_RESTARTS"]) + 1


def _read(folder: str, kind: str) -> str:
    """The message of that kind, of the first process that left one."""
    return next((path.read_text() for path in sorted(Path(folder).glob(f"{kind}-*"))), "")


def has_fatal_error() -> bool:
    """Whether an earlier attempt of these processes found what this one would find too."""
    return MESSAGES in os.environ and bool(_read(os.environ[MESSAGES], FAULT))


def leave(failure: BaseException) -> None:
    """Write down why this process ends, for what started it to report once for all of them.

    Returns if nothing but torchrun has started it, or if only another attempt can tell.

    Args:
        failure: that ends the process.
    """
    if not (is_member() and MESSAGES in os.environ):
        return
    # torchrun ends the others of a process that has failed, also while they say why.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    folder, rank = os.environ[MESSAGES], os.environ["RANK"]
    if isinstance(failure, KeyboardInterrupt):
        if is_main_process():
            files.write(Path(folder, f"{STOPPED}-0"), str(failure).encode())
        sys.exit(130)
    text = describe(failure)
    if text is None and not _may_pass(failure):
        traceback.print_exception(failure)
        reason = " ".join(str(failure).split())
        text = f"process {rank} failed: {type(failure).__name__}: {reason}"
    if text is not None:
        files.write(Path(folder, f"{FAULT}-{rank}"), text.encode())
        # To torchrun a success, so that it does not try again.
        sys.exit(0)


def _may_pass(failure: BaseException) -> bool:
    """Whether a failure may be the GPU's or the network's, which another attempt may not meet."""
    import torch
    import torch.distributed as dist

    return isinstance(failure, (torch.AcceleratorError, dist.DistError))


def end(failure: BaseException) -> NoReturn:
    """End this process of a group at once, with the status of its failure.

    Ordinary ways out tear the group down, and NCCL waits there for processes that wait for this
    one.

    Args:
        failure: a SystemExit, or what is shown as a traceback.
    """
    status = 1
    if isinstance(failure, SystemExit):
        status = failure.code if isinstance(failure.code, int) else 0 if failure.code is None else 1
    else:
        traceback.print_exception(failure)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def watch() -> None:
    """Have a thread end this process once the training is lost, wherever the process waits.

    One that waits inside NCCL for a process that is gone is told nothing and handles no signal. The
    training is lost when another process has written down a fault, when torchrun ends this one, or
    when torchrun is gone.
    """
    if MESSAGES not in os.environ:
        return  # what has started this process may end before it
    parent = os.getppid()
    signals, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written, warn_on_full_buffer=False)  # which needs no Python code to run

    def look() -> None:
        while not has_fatal_error() and os.getppid() == parent:
            if not select.select([signals], [], [], LOOK_SECONDS)[0]:
                continue
            if signal.SIGTERM in os.read(signals, 64):
                time.sleep(TERM_SECONDS)
                os._exit(1)
        if not has_fatal_error():
            os.kill(os.getpid(), signal.SIGTERM)  # so that it saves its state, if it can
        time.sleep(LEAVE_SECONDS)
        os._exit(0 if has_fatal_error() else 1)

    threading.Thread(target=look, name="watch", daemon=True).start()


@contextlib.contextmanager
def exits() -> Iterator[None]:
    """Exit on errors like `exit_on_error`; a member of a group leaves word, and ends at once."""
    try:
        with exit_on_error():
            try:
                yield
            except (Exception, KeyboardInterrupt) as failure:
                leave(failure)
                raise
    except BaseException as failure:
        if is_member():
            end(failure)
        raise
