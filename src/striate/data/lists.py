"""Lists of file names, such as `data.leave_out`."""

from pathlib import Path

from striate.errors import UserError, one_line


def read_list(path: Path) -> list[str]:
    """The lines of a file that are not empty, without blanks at their ends.

    Raises:
        UserError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.leave_out is {path}, which cannot be read: {one_line(error)}"
        ) from None
    # Not by `splitlines`: a name may hold what it takes for the end of a line, such as U+2028.
    return [Path(line.strip()).as_posix() for line in text.split("\n") if line.strip()]
