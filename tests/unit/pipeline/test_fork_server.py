"""Programs that run in forks of a process with loaded packages: as the real Python runs them."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from striate.models.portable import PRELOADED
from striate.pipeline import fork_server, preloaded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is preloaded")

# What a program finds, and that it is in a fork: the server has loaded the package.
PROBE = """
    import json, os, sys
    print(json.dumps({
        "argv": sys.argv, "folder": os.getcwd(), "greeting": os.environ.get("GREETING"),
        "home": os.environ.get("HOME"), "input": sys.stdin.read(), "name": __name__,
        "loaded": "colorsys" in sys.modules, "path": sys.path[:2],
    }))
    print("aside", file=sys.stderr)
"""
WAIT = """
    import os, signal, sys, time
    try:
        print(os.getpid(), flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(7)
"""


@pytest.fixture(scope="module")
def served():
    """The `python` of a server, with the server's process."""
    before = set(psutil.Process().children())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preloaded, "PACKAGES", ("colorsys",))
        patch.setenv("PYTHONPATH", "/of/the/server")
        with preloaded.python({"SOME": "thing"}) as variables:
            patch.undo()
            assert variables["SOME"] == "thing"
            (server,) = set(psutil.Process().children()) - before
            yield Path(variables[PRELOADED], "python"), server


@pytest.fixture
def python(served):
    return served[0]


@pytest.fixture(autouse=True)
def idle(served):
    """After each test, the server has no child: neither program, nor supervisor, nor zombie."""
    yield
    wait_until(lambda: not alive(served[1]) or served[1].children(recursive=True) == [])


def alive(process):
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def write(folder, text, name="program.py"):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return str(path)


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("form", ["script", "module"])
def test_a_program_finds_what_it_finds_in_the_real_python(python, tmp_path, form):
    path = write(tmp_path, PROBE)
    words = ["-m", "program"] if form == "module" else [path]
    found = []
    for program in (python, sys.executable):
        answer = run(
            program, *words, "a b", "--c=ü", "-m", cwd=tmp_path, input="said",
            env=os.environ | {"GREETING": "hello\n'you'", "PYTHONPATH": "src"},
        )  # fmt: skip
        assert answer.stderr == "aside\n"
        assert answer.returncode == 0
        found.append(json.loads(answer.stdout))
    assert [one.pop("loaded") for one in found] == [True, False]
    assert found[0] == found[1]
    assert found[0]["argv"][1:] == ["a b", "--c=ü", "-m"]
    assert found[0]["path"] == [str(tmp_path), str(tmp_path / "src")]


def test_other_options_are_for_the_real_python(python):
    for words in (["-c", "import sys; print('colorsys' in sys.modules)"], ["-V"], []):
        answer = run(python, *words, input="print('colorsys' in sys.modules)" if words else "")
        assert (answer.returncode, answer.stderr) == (0, "")
        assert "True" not in answer.stdout


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("import sys; sys.exit('error: faulty')", 1, "error: faulty\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.kill(os.getpid(), 9)", 137, ""),
        ("import os; os._exit(255)", 255, ""),
        ("import os; os.abort()", 134, ""),
        ("import faulty_module", 1, "ModuleNotFoundError: No module named 'faulty_module'\n"),
    ],
)
def test_the_exit_status_and_the_last_words_arrive(python, tmp_path, text, status, said):
    answer = run(python, write(tmp_path, text))
    assert (answer.returncode, answer.stdout) == (status, "")
    assert answer.stderr.endswith(said)
    assert bool(answer.stderr) == bool(said)


def test_a_missing_script_is_an_error(python, tmp_path):
    answer = run(python, tmp_path / "none.py")
    assert answer.returncode != 0
    assert "none.py" in answer.stderr


def test_much_output_through_a_pipe_arrives_whole(python, tmp_path):
    answer = run(python, write(tmp_path, "print('x' * 1_000_000)"))
    assert answer.stdout == "x" * 1_000_000 + "\n"


def test_a_package_comes_from_pythonpath(python, tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, f"NAME = {name!r}", "striate.py")
        program = write(tmp_path, "import striate, sys; print(striate.NAME, sys.path)")
        answer = run(python, program, cwd=tmp_path, env=os.environ | {"PYTHONPATH": name})
        assert answer.stdout.split()[0] == name
        assert "/of/the/server" not in answer.stdout
        assert str(Path(fork_server.__file__).parent) not in answer.stdout


@pytest.fixture
def waiting(python, tmp_path):
    """A program that waits, as the front process and the program's id."""
    front = subprocess.Popen(
        [python, write(tmp_path, WAIT)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    program = psutil.Process(int(front.stdout.readline()))
    yield front, program
    with suppress(ProcessLookupError):
        os.killpg(front.pid, signal.SIGKILL)
    front.communicate()


def test_an_interrupt_of_the_group_interrupts_the_program(waiting):
    front, program = waiting
    os.killpg(front.pid, signal.SIGINT)
    assert front.communicate(timeout=20)[0] == "interrupted\n"
    assert front.returncode == 7
    wait_until(lambda: not alive(program))


def test_sigterm_ends_the_program(waiting):
    front, program = waiting
    front.terminate()
    assert front.communicate(timeout=20)[0] == ""
    assert front.returncode == 128 + signal.SIGTERM
    wait_until(lambda: not alive(program))


def test_a_front_that_is_killed_takes_the_program_along(waiting):
    front, program = waiting
    front.kill()
    wait_until(lambda: not alive(program))


def test_a_supervisor_that_is_killed_takes_the_program_along(waiting):
    front, program = waiting
    program.parent().kill()
    assert front.wait(20) == 1
    wait_until(lambda: not alive(program))


def test_a_program_takes_its_own_children_along(python, tmp_path):
    text = """
        import subprocess
        child = subprocess.Popen(["sleep", "60"])
        print(child.pid, flush=True)
        child.wait()
    """
    front = subprocess.Popen([python, write(tmp_path, text)], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(front.stdout.readline()))
    front.kill()
    front.communicate()
    wait_until(lambda: not alive(child))


def test_the_end_of_the_parent_ends_the_program(python, tmp_path):
    # As where DVC is killed: its shell has become the front.
    parent = subprocess.Popen(
        ["sh", "-c", f"'{python}' '{write(tmp_path, WAIT)}' & wait"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    program = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    wait_until(lambda: not alive(program))


def test_many_at_once(python, tmp_path):
    path = write(tmp_path, "import sys, time; time.sleep(0.2); print(sys.argv[1])")
    fronts = [
        subprocess.Popen([python, path, str(n)], stdout=subprocess.PIPE, text=True)
        for n in range(20)
    ]
    assert [front.communicate()[0] for front in fronts] == [f"{n}\n" for n in range(20)]


def test_requests_that_break_off_harm_nothing(served, tmp_path, capfd):
    python, _ = served
    path = str(python.parent.parent / "socket")
    for content in (b"", b"\0" * 7, (99).to_bytes(8, "big") + b"{"):
        with fork_server.socket.socket(fork_server.socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(content)
    assert run(python, write(tmp_path, "print(1)")).stdout == "1\n"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("socket_stays", [True, False])
def test_without_a_server_the_real_python_runs(tmp_path, monkeypatch, socket_stays):
    monkeypatch.setattr(preloaded, "PACKAGES", ("colorsys",))
    before = set(psutil.Process().children())
    with preloaded.python({}) as variables:
        (server,) = set(psutil.Process().children()) - before
        server.kill()
        server.wait()
        if not socket_stays:
            Path(variables[PRELOADED]).parent.joinpath("socket").unlink()
        program = write(tmp_path, "import sys; print('colorsys' in sys.modules); sys.exit(3)")
        answer = run(Path(variables[PRELOADED], "python"), program)
        assert (answer.returncode, answer.stdout, answer.stderr) == (3, "False\n", "")


def test_a_server_that_cannot_load_a_package_is_done_without(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(preloaded, "PACKAGES", ("no_such_package",))
    with preloaded.python({}) as variables:
        answer = run(Path(variables[PRELOADED], "python"), write(tmp_path, "print(1)"))
    assert answer.stdout == "1\n"
    assert "no_such_package" in capfd.readouterr().err


def test_the_server_ends_with_the_block_and_with_its_process(tmp_path):
    program = write(tmp_path, """
        import os, signal, psutil
        from striate.pipeline import preloaded
        preloaded.PACKAGES = ()
        with preloaded.python({}) as variables:
            (server,) = psutil.Process().children()
            print(server.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)  # fmt: skip
    killed = run(sys.executable, program, env=os.environ | {"TMPDIR": str(tmp_path)})
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: not psutil.pid_exists(int(killed.stdout)))
    assert list(tmp_path.glob("striate-*")) == []


def test_elsewhere_than_on_linux_nothing_is_preloaded(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with preloaded.python({"OMP_NUM_THREADS": "1"}) as variables:
        assert variables == {"OMP_NUM_THREADS": "1"}
