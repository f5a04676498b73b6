"""Push DVC's run cache, so that teammates need not run a stage that ran here.

`dvc push --run-cache` leaves out the metrics, which Git keeps, and without them DVC runs a stage
again.
"""

from __future__ import annotations

from pathlib import Path

from striate.errors import UserError, one_line


def push(root: Path) -> tuple[int, int]:
    """Push the run cache with all outputs of its runs that are here.

    Args:
        root: the repository.

    Returns:
        The number of runs, and that of the files that the remote did not have yet.

    Raises:
        UserError: there is no remote, or it refuses the files.
    """
    from dvc.exceptions import CollectCacheError, DvcException
    from dvc.repo import Repo

    pushed = 0
    try:
        with Repo(str(root)) as repo:
            runs = repo.stage_cache.push(None)
            for run in runs:
                try:
                    used = repo.stage_cache.get_used_objs([run])
                except CollectCacheError:
                    continue  # `dvc gc` has removed its outputs
                for files in used.values():
                    done = repo.cloud.push(files)
                    if done.failed:
                        raise UserError(f"the remote did not take {len(done.failed)} files")
                    pushed += len(done.transferred)
    except (DvcException, OSError) as error:
        raise UserError(f"DVC's remote cannot be written: {one_line(error)}") from None
    return len(runs), pushed
