"""The command `striate`, run in the process of the test."""

import sys

import pytest

from striate import cli


def run(monkeypatch, capsys, *arguments, status=0):
    """Run it; it must exit with `status`. Returns its standard output and its standard error."""
    monkeypatch.setattr(sys, "argv", ["striate", *map(str, arguments)])
    if status:
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == status
    else:
        cli.main()
    shown = capsys.readouterr()
    return shown.out, shown.err
