"""What a person sees of a wait, and tables."""

import os
import subprocess
import sys
import time

from striate import console


def test_a_wait_is_told_once_it_is_long_and_only_then(monkeypatch, capsys):
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.05)
    with console.waiting("thinking"):
        pass
    time.sleep(0.2)
    assert capsys.readouterr() == ("", "")
    with console.waiting("thinking"):
        time.sleep(0.2)
    assert capsys.readouterr() == ("", "thinking ...\n")


def test_a_reader_that_is_gone_is_no_fault():
    program = (
        "import time; from striate import console; console.QUIET_SECONDS = 0.01\n"
        "with console.waiting('thinking'): time.sleep(0.2)\n"
        "print('done')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
        check=False,
    )
    os.close(writer)
    assert found.stdout == "done\n"


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [["name", "errors"], ["a", "12"], ["longer", "–"]]
    assert console.columns(rows) == "name    errors\n------  ------\na       12\nlonger  –"
