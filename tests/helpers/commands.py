"""The command `striate`, called within a test."""

import sys

import pytest

from striate import cli


def run(monkeypatch, capsys, *arguments, status=0):
    """Call it so that it must end with `status`; returns what it printed and what it complained."""
    monkeypatch.setattr(sys, "argv", ["striate", *map(str, arguments)])
    if status:
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == status
    else:
        cli.main()
    shown = capsys.readouterr()
    return shown.out, shown.err
