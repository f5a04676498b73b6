"""Push what a colleague needs so that no stage that ran here has to run there.

`dvc push --run-cache` pushes what was run and its files, but not the metrics, which Git keeps and
without which DVC runs a stage again.
"""

from __future__ import annotations

from pathlib import Path

from striate.errors import UserError, one_line


def share(root: Path) -> tuple[int, int]:
    """Push the run cache with all files that its runs made, as far as they are here.

    Args:
        root: the repository.

    Returns:
        How many runs it has, and how many files were not there yet.

    Raises:
        UserError: there is no remote, or it refuses.
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
                    continue  # `dvc gc` has removed what it made
                for files in used.values():
                    done = repo.cloud.push(files)
                    if done.failed:
                        raise UserError(f"the remote did not take {len(done.failed)} files")
                    pushed += len(done.transferred)
    except (DvcException, OSError) as error:
        raise UserError(f"DVC's remote cannot be written: {one_line(error)}") from None
    return len(runs), pushed
