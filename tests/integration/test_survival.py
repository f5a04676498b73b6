"""Under DVC, whatever ends a run early, nothing is lost and the same command goes on."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import yaml
from clones import Clone

from striate.tracking import mlflow_store

pytestmark = pytest.mark.walk

OUTPUTS = ("data", "models", "metrics", "predictions", "reports")
RESUME_DIR = Path(".dvc/tmp/striate")
LONG = ["-S", "training.epochs=25", "-S", "model.width=8", "-S", "training.batch_size=20"]


def outputs(folder):
    """Every file that the stages made, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in OUTPUTS
        for path in (folder / name).rglob("*")
        if path.is_file() and path.name != ".gitignore" and path.suffix != ".tmp"  # DVC's own
    }


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    return Clone.of_this_tree(tmp_path_factory.mktemp("survival") / "striate")


@pytest.fixture
def clone(origin, tmp_path):
    """A copy of a repository that has run once; tracking is off."""
    shutil.copytree(origin.folder, tmp_path / "striate", symlinks=True)
    copy = Clone(tmp_path / "striate")
    copy.env["STRIATE_TRACKING"] = "off"
    return copy


class Running:
    """A command that goes on, as at a terminal."""

    def __init__(self, clone, *command):
        self.clone = clone
        self.log = clone.folder.parent / "running.log"
        with self.log.open("w") as sink:
            self.process = clone.start(*command, stdout=sink, stderr=sink)

    def wait_for_state(self, saves=2):
        """Wait until the training has saved its state so many times."""
        seen = set()

        def saved():
            for path in (self.clone.folder / RESUME_DIR).glob("*.state"):
                seen.add(path.stat().st_mtime_ns)
            return len(seen) >= saves

        self.wait_until(saved)

    def wait_until(self, holds):
        """Wait until something holds, which it must before the command ends."""
        end = time.monotonic() + 120
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.001)

    def stage_started(self):
        """Whether DVC has started a process for a stage."""
        if "exec env" not in self.log.read_text():
            return False
        try:
            children = psutil.Process(self.process.pid).children()
            return any("stages/" in " ".join(child.cmdline()) for child in children)
        except psutil.NoSuchProcess:
            return False

    def script(self, name):
        """The process that runs a script, if there is one."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            return next((one for one in children if one.cmdline()[-1:] == [name]), None)
        except psutil.NoSuchProcess:
            return None

    def trainer(self):
        """The process that holds the lock."""
        said = (self.clone.folder / RESUME_DIR / "train.lock").read_text()
        return psutil.Process(int(re.match(r"process (\d+) ", said)[1]))

    def wait(self):
        """Wait for the end; returns the status and what was printed."""
        try:
            return self.process.wait(60), self.log.read_text()
        except subprocess.TimeoutExpired:
            pytest.fail(f"it resuming after a minute: {self.log.read_text()}")


def is_as_if_undisturbed(clone):
    """Whether the same params, trained in one go, give the same bytes."""
    found = outputs(clone.folder)
    clone.run("dvc", "repro", "--force", "--no-run-cache", "--single-item", "train")
    return outputs(clone.folder) == found


@pytest.mark.parametrize("victims", ["trainer", "dvc", "both"])
def test_after_a_kill_the_same_command_goes_on_to_the_same_bytes(clone, victims):
    command = ("dvc", "exp", "run", "train", *LONG)
    running = Running(clone, *command)
    running.wait_for_state()
    trainer = running.trainer()
    doomed = {"trainer": [trainer.pid], "dvc": [running.process.pid]}
    doomed["both"] = doomed["dvc"] + doomed["trainer"]
    for pid in doomed[victims]:
        os.kill(pid, signal.SIGKILL)
    running.wait()
    psutil.wait_procs([trainer], timeout=5)
    assert not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE
    assert len(list((clone.folder / RESUME_DIR).glob("*.state"))) == 1
    said = clone.run(*command)
    assert re.search(r"resuming after (step \d+ of 65 of )?epoch \d+", said)
    assert is_as_if_undisturbed(clone)
    clone.run("dvc", "repro")  # whose next stage sees that the training is recorded
    assert not list((clone.folder / RESUME_DIR).glob("*.*"))


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_ends_a_training_before_dvc_has_recorded_it_costs_no_epoch(clone, end):
    command = ("dvc", "exp", "run", "train", "-S", "training.epochs=9")
    running = Running(clone, *command)
    running.wait_for_state(1)
    trainer, dvc = running.trainer(), running.process.pid
    os.kill(dvc, signal.SIGSTOP)  # so that it records nothing, however fast it is
    running.wait_until(
        lambda: (
            list((clone.folder / RESUME_DIR).glob("*.done"))
            and trainer.status() == psutil.STATUS_ZOMBIE
        )
    )
    os.kill(dvc, end)
    os.kill(dvc, signal.SIGCONT)
    status, said = running.wait()
    assert status != 0, said
    said = clone.run(*command)
    assert re.search(r"resuming after (step (\d+) of \2 of )?epoch 9", said)
    assert is_as_if_undisturbed(clone)


def test_a_stage_whose_dvc_is_gone_before_it_began_ends_and_puts_outputs_back(clone):
    before = outputs(clone.folder)
    running = Running(clone, "dvc", "repro", "--force", "--single-item", "train")
    # DVC says what it runs before it does so; killed in between, it leaves nobody to tidy up.
    running.wait_until(running.stage_started)
    running.process.kill()
    running.process.wait()
    end = time.monotonic() + 60
    while outputs(clone.folder) != before:
        assert time.monotonic() < end, running.log.read_text()
        time.sleep(0.1)
    assert "epoch 1/" not in running.log.read_text()
    assert "up to date" in clone.run("dvc", "status")


@pytest.mark.parametrize("stage", ["train", "evaluate", "visualize"])
@pytest.mark.parametrize("wait", [0.05, 0.2, 0.4])
def test_an_interrupt_while_a_stage_begins_puts_outputs_back(clone, stage, wait):
    before = outputs(clone.folder)
    running = Running(clone, "dvc", "repro", "--force", "--single-item", stage)
    running.wait_until(lambda: running.script(f"stages/{stage}.py"))
    script = running.script(f"stages/{stage}.py")
    running.wait_until(lambda: signal.SIGINT in masked(script))  # Python runs it
    time.sleep(wait)
    os.killpg(running.process.pid, signal.SIGINT)
    _, said = running.wait()
    assert "Traceback" not in said
    assert "\ninterrupted: " in said
    assert outputs(clone.folder) == before


def masked(process):
    """The signals that a process blocks."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return set()
    bits = int(re.search(r"^SigBlk:\s*(\w+)$", status, re.MULTILINE)[1], 16)
    return {number for number in signal.Signals if bits >> (number - 1) & 1}


@pytest.fixture(scope="module")
def interrupted(origin, tmp_path_factory):
    """An experiment that was interrupted in its training.

    Has the `clone`, the `command`, its `status`, what it `said`, the `seconds` that the stage took
    to end, and the outputs `before` it and `after` it.
    """
    folder = tmp_path_factory.mktemp("interrupted") / "striate"
    shutil.copytree(origin.folder, folder, symlinks=True)
    clone = Clone(folder)
    before = outputs(clone.folder)
    command = ("dvc", "exp", "run", *LONG)
    running = Running(clone, *command)
    running.wait_for_state()
    trainer = running.trainer()
    begin = time.monotonic()
    os.killpg(running.process.pid, signal.SIGINT)
    psutil.wait_procs([trainer], timeout=30)
    seconds = time.monotonic() - begin
    status, said = running.wait()
    return SimpleNamespace(
        clone=clone, command=command, status=status, said=said, seconds=seconds, before=before,
        after=outputs(clone.folder),
    )  # fmt: skip


def test_an_interrupt_ends_a_training_in_time_and_says_how_to_go_on(interrupted):
    print(f"the stage ended {interrupted.seconds:.2f} s after the interrupt")
    assert interrupted.seconds < 4  # 2 s on a machine that does nothing else
    assert interrupted.status != 0
    said = interrupted.said
    assert re.search(r"interrupted: the same command resumes after .*epoch \d+", said)
    assert "Traceback" not in said


def test_an_interrupted_training_puts_its_outputs_back(interrupted):
    assert interrupted.after == interrupted.before


def test_the_run_of_an_interrupted_training_is_closed(interrupted, monkeypatch):
    monkeypatch.chdir(interrupted.clone.folder)
    store = mlflow_store.open_store()
    for _ in range(100):
        latest = store.runs()[-1]
        if latest.info.status != "RUNNING":
            break
        time.sleep(0.2)
    assert latest.info.status == "KILLED"


def test_after_an_interrupt_the_same_command_goes_on_to_the_same_bytes(interrupted):
    clone = interrupted.clone
    clone.env["STRIATE_TRACKING"] = "off"
    assert "resuming after" in clone.run(*interrupted.command)
    assert is_as_if_undisturbed(clone)


@pytest.mark.parametrize("command", ["repro", "exp run"])
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("model.layers", "three", "model.layers is 'three'; it must be a whole number"),
        ("model.layers", 4, "model.layers is 4, too many for images of 8×8"),
        ("training.device", "mps", "training.device is mps, which this machine does not have"),
        ("training.learning_rate", 100, "a smaller training.learning_rate"),
        ("data.name", "cifar10", "cifar10 could not be fetched"),
        ("evaluate.tta", "all", "evaluate.tta is 'all'; it must be one of none, flip"),
    ],
)
def test_after_a_refusal_all_outputs_are_as_they_were(clone, command, key, value, said):
    clone.env["STRIATE_MIRROR"] = str(clone.folder / "nowhere")
    clone.env |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    params = yaml.safe_load((clone.folder / "params.yaml").read_text())
    if key == "training.learning_rate":  # let it diverge
        params["model"] |= {"norm": "none", "activation": "leaky_relu"}
        params["training"] |= {"optimizer": "sgd"}
    before = outputs(clone.folder)
    section, name = key.split(".")
    if command == "repro":
        params[section][name] = value
    (clone.folder / "params.yaml").write_text(yaml.safe_dump(params))
    changes = [] if command == "repro" else ["-S", f"{key}={value}"]
    printed = clone.run("dvc", *command.split(), *changes, status=255)
    assert said in printed
    assert "Traceback" not in printed
    assert outputs(clone.folder) == before
    clone.run("git", "checkout", "-q", "params.yaml")
    assert "up to date" in clone.run("dvc", "status")
    assert clone.run("git", "status", "--porcelain") == ""


def test_in_a_new_clone_the_metrics_that_git_keeps_are_put_back(origin, tmp_path):
    subprocess.run(["git", "clone", "-q", origin.folder, tmp_path / "new"], check=True)
    clone = Clone(tmp_path / "new")
    clone.env["STRIATE_TRACKING"] = "off"
    before = outputs(clone.folder)
    kept = ("seeds.csv", "shifted.json", "train.json", "test.json")
    assert set(before) == {f"metrics/{name}" for name in kept}
    said = clone.run("dvc", "exp", "run", "-S", "model.layers=4", status=255)
    assert "model.layers is 4" in said
    assert "could not be restored" not in said
    assert outputs(clone.folder).items() >= before.items()


def test_of_two_at_once_one_is_refused_and_the_other_is_whole(clone):
    running = Running(clone, "dvc", "exp", "run", "train", *LONG)
    running.wait_for_state(1)
    said = clone.run("dvc", "repro", status=255)
    assert "is busy" in said
    assert running.wait()[0] == 0
    assert is_as_if_undisturbed(clone)


def test_a_new_run_over_an_orphan_says_who_it_is_and_loses_nothing(clone):
    before = outputs(clone.folder)
    params = yaml.safe_load((clone.folder / "params.yaml").read_text())
    params["training"]["epochs"] = 10_000  # more than `dvc repro` takes to start
    (clone.folder / "params.yaml").write_text(yaml.safe_dump(params))
    # As if its DVC had been killed on a system that does not tell it.
    orphan = Running(clone, sys.executable, "stages/train.py")
    try:
        orphan.wait_for_state(1)
        said = clone.run("dvc", "repro", status=255)
        assert f"error: process {orphan.process.pid} (in {clone.folder}) does this training" in said
        assert outputs(clone.folder) == before
    finally:
        orphan.process.send_signal(signal.SIGTERM)
    status, printed = orphan.wait()
    assert status == 130
    assert "the same command resumes after" in printed


@pytest.mark.parametrize("same_code", [True, False])
def test_another_checkout_ends_with_its_own_bytes(origin, tmp_path, same_code):
    params = yaml.safe_load((origin.folder / "params.yaml").read_text())
    params["training"] |= {"epochs": 5, "checkpoint_minutes": 0}
    folders = [tmp_path / name for name in ("first", "other", "alone")]
    for folder in folders:
        subprocess.run(["git", "clone", "-q", origin.folder, folder], check=True)
        shutil.copytree(origin.folder / "data", folder / "data", dirs_exist_ok=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
    first, other, alone = (Clone(folder) for folder in folders)
    for clone in (first, other, alone):
        clone.env["STRIATE_TRACKING"] = "off"
    if not same_code:
        for clone in (other, alone):
            path = clone.folder / "src/striate/models/convnet.py"
            path.write_text(path.read_text().replace("import torch\n", "import torch\n\n", 1))
    running = Running(first, sys.executable, "-u", "stages/train.py")
    running.wait_until(lambda: "epoch 3/5" in running.log.read_text())
    running.process.kill()
    running.wait()
    # Worse than what Git would carry over: the very states of the other checkout.
    shutil.copytree(first.folder / RESUME_DIR, other.folder / RESUME_DIR)
    said = other.run(sys.executable, "stages/train.py")
    assert ("resuming after" in said) == same_code
    alone.run(sys.executable, "stages/train.py")
    for name in ("models", "metrics"):
        for path in (alone.folder / name).iterdir():
            assert (other.folder / name / path.name).read_bytes() == path.read_bytes()


@pytest.fixture
def small_disk(origin, tmp_path):
    """A copy of the repository on a disk of its own, which `fill` leaves a little room on."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        shutil.copytree(origin.folder, place / "striate", symlinks=True)
        clone = Clone(place / "striate")
        clone.env |= {"STRIATE_TRACKING": "off", "PYTHONDONTWRITEBYTECODE": "1"}
        clone.run("dvc", "status")
        yield clone
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(clone, room):
    """Leave so many bytes free on the disk of a clone, while others may write to it too."""
    filler = clone.folder.parent / "filler"
    for _ in range(1000):
        filler.unlink(missing_ok=True)
        free = shutil.disk_usage(clone.folder).free
        try:
            with filler.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, max(1, free - room))
            return
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    raise AssertionError(f"{free} bytes are free, and no file of that size can be made")


STAGES = {
    "download": "data/train",
    "train": "models",
    "evaluate": "predictions",
    "visualize": "reports/figures",
}


@pytest.mark.parametrize("stage", STAGES)
def test_on_a_full_disk_outputs_are_whole(small_disk, stage):
    before = outputs(small_disk.folder)
    # DVC removes the old outputs, which makes room for the new ones or for these again.
    for room in (4096, 65_536):
        fill(small_disk, room)
        printed = small_disk.run("dvc", "repro", "--force", "--single-item", stage, status=None)
        assert outputs(small_disk.folder) == before, printed
        assert "Traceback" not in printed


@pytest.mark.parametrize("stage", STAGES)
def test_when_the_disk_fills_up_the_old_outputs_can_be_had_back(small_disk, stage):
    before = outputs(small_disk.folder)
    running = Running(small_disk, "dvc", "repro", "--force", "--single-item", stage)
    running.wait_until(lambda: not (small_disk.folder / STAGES[stage]).exists())
    fill(small_disk, 4096)
    status, printed = running.wait()
    assert status == 255
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert line.endswith("No space left on device")
    (small_disk.folder.parent / "filler").unlink()
    if "try `dvc checkout --force dvc.yaml` and `git checkout metrics`" in printed:
        small_disk.run("dvc", "checkout", "--force", "dvc.yaml")
        small_disk.run("git", "checkout", "-q", "metrics")
    assert outputs(small_disk.folder) == before, printed


def test_on_a_disk_that_cannot_be_written_to_a_stage_says_so(small_disk):
    place = str(small_disk.folder.parent)
    before = outputs(small_disk.folder)
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    for stage in ("download", "train", "evaluate", "visualize"):
        printed = small_disk.run(sys.executable, f"stages/{stage}.py", status=2)
        (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert line.endswith("Read-only file system")
        assert "Traceback" not in printed
    assert outputs(small_disk.folder) == before
