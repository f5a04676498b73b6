"""Start the processes of one training by torchrun, and read what it tells them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
from pathlib import Path

from striate.data import files
from striate.errors import UserError, describe

RESTARTS = 3  # of all processes, when one of them has ended early
MESSAGES = "STRIATE_EXIT_MESSAGES"  # names the folder in which processes say why they end
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


def is_needed(processes: int | str) -> bool:
    """Whether this process is to start others, which do its work.

    Args:
        processes: `training.processes`.
    """
    if is_member():
        return False
    return count(processes) > 1 or bool(os.environ.keys() & OF_MORE_MACHINES)


def count(processes: int | str) -> int:
    """How many processes of a training to start on this machine.

    Args:
        processes: `training.processes`; `auto` means one for each GPU, and one where there is none.
    """
    if processes != "auto":
        return int(processes)
    import torch

    return max(1, torch.cuda.device_count())


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launch(processes: int, script: Path) -> None:
    """Run a script in several processes on this machine, and wait for their end.

    torchrun starts them, and restarts all of them when one has ended early. Its own variables
    (`PET_NNODES`, `PET_RDZV_ENDPOINT`, `PET_MAX_RESTARTS` and so on) let other machines take part.

    Raises:
        UserError: torchrun rejected its variables, a process found a fault, processes ended early
            too often, or other machines were not found.
        KeyboardInterrupt: says from where the same command resumes.
    """
    _set_variables(processes)
    # The processes themselves say better what matters of what torchrun and its store report.
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[MESSAGES] = folder
        failure = _run(script, folder)
        fault = _read(folder, FAULT)
    if fault or failure:
        raise UserError(fault or failure)


def _set_variables(processes: int) -> None:
    """Set the variables that torchrun and its processes read, unless they are set."""
    asked = os.environ.setdefault("PET_NPROC_PER_NODE", str(processes))
    here = int(asked) if asked.isdigit() else processes
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // max(1, here))))
    os.environ.setdefault("PET_MAX_RESTARTS", str(RESTARTS))
    # Otherwise the processes of a second attempt get the addresses of the first.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if os.environ.keys() & OF_MORE_MACHINES:
        os.environ.setdefault("PET_RDZV_BACKEND", "c10d")


def _run(script: Path, folder: str) -> str:
    """Run a script by torchrun.

    Args:
        script: what each process runs.
        folder: in which they say why they end.

    Returns:
        What to tell if processes ended early too often without a message; otherwise nothing.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    standalone = [] if os.environ.keys() & OF_MORE_MACHINES else ["--standalone"]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its usage, of 25 lines
            options = parse_args([*standalone, str(script)])
        run(options)
    except (ValueError, SystemExit) as error:
        named = ", ".join(sorted(name for name in os.environ if name.startswith("PET_")))
        reason = "" if isinstance(error, SystemExit) else f": {error}"
        raise UserError(f"torchrun rejected {named}{reason}") from None
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
    """End this process so that what started it reports why, once for all of them.

    Returns if nothing but torchrun has started it, or if only another attempt can tell.

    Args:
        failure: that ends the process.
    """
    if not (is_member() and MESSAGES in os.environ):
        return
    folder = os.environ[MESSAGES]
    if isinstance(failure, KeyboardInterrupt):
        if is_main_process():
            files.write(Path(folder, f"{STOPPED}-0"), str(failure).encode())
        sys.exit(130)
    if text := describe(failure):
        files.write(Path(folder, f"{FAULT}-{os.environ['RANK']}"), text.encode())
        # To torchrun a success, so that it does not try again.
        sys.exit(0)
