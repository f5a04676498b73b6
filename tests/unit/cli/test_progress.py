"""What a person sees of a wait."""

import os
import subprocess
import sys
import time

from striate import progress


def test_a_wait_is_told_once_it_is_long_and_only_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.05)
    with progress.waiting("thinking"):
        pass
    time.sleep(0.2)
    assert capsys.readouterr() == ("", "")
    with progress.waiting("thinking"):
        time.sleep(0.2)
    assert capsys.readouterr() == ("", "thinking ...\n")


def test_a_reader_that_is_gone_is_no_fault():
    program = (
        "import time; from striate import progress; progress.QUIET_SECONDS = 0.01\n"
        "with progress.waiting('thinking'): time.sleep(0.2)\n"
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
