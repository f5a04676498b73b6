"""Metrics of trainings that go on at once, logged to a team's server that is killed among them.

usage: python benchmarks/team.py [RUNS] [METRICS]

Starts `deploy/services.py`'s PostgreSQL, S3 server and MLflow. RUNS processes (8 unless said
otherwise) log METRICS points in all (50,000), as stages/train.py does: through `logger`,
100 steps an epoch, an epoch every second and a half. When half of it is there, the server is killed
with SIGKILL and started again; a training goes on at least until then. Every point is read back
and compared: what is lost, and what is there twice. It ends with status 1 where something is.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "deploy")]

import services as deploy

STEPS = 100  # of an epoch
EPOCH_SECONDS = 1.5
SEED = 900_000  # of the first run, by which it is found: no training has it
BACK = "back"  # a file that says that the server is there again
PER_EPOCH = STEPS + 3  # the losses of the steps, and what else an epoch says
PARAMS = {"seed": 0, "data.name": "digits", "model.layers": 2, "model.width": 4}


def points(run, epochs):
    """What a training says: for each epoch the row that `striate.training.loop.fit` would yield."""
    for epoch in range(1, epochs + 1):
        first = (epoch - 1) * STEPS
        yield {
            "epoch": epoch, "learning_rate": 1 / epoch, "train_loss": run + 1 / epoch,
            "train_accuracy": 1 - 1 / (epoch + 1),
            "step_losses": [(first + k, run + 1 / (first + k)) for k in range(1, STEPS + 1)],
        }  # fmt: skip


def train(run, epochs):
    """One training, in the folder that is the working folder; only its numbers are made up."""
    from striate.tracking.logger import logbook

    with logbook() as log:
        log.start(PARAMS | {"seed": SEED + run}, {})
        for row in points(run, epochs):
            log.epoch(row)
            time.sleep(EPOCH_SECONDS)
        end = time.monotonic() + deploy.START_SECONDS
        while not Path("..", BACK).exists() and time.monotonic() < end:
            time.sleep(0.1)
        done = time.monotonic()
    print(f"{time.monotonic() - done:.1f}")  # what the end of the stage waited for


def start_trainings(services, folder, runs, epochs):
    """Start the trainings, each in a folder of its own, as those of several people."""
    environment = os.environ | services.environment("writer") | {"PYTHONPATH": str(ROOT / "src")}
    environment.pop("DVC_ROOT", None)
    for run in range(runs):
        (folder / str(run)).mkdir()
    return [
        subprocess.Popen(
            [sys.executable, Path(__file__).absolute(), "train", str(run), str(epochs)],
            cwd=folder / str(run),
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for run in range(runs)
    ]  # fmt: skip


def compared(rows, run, epochs):
    """Compare what is stored of a run, as rows of key, step and value, with what it logged."""
    expected = {}
    for row in points(run, epochs):
        for name in ("learning_rate", "train_loss", "train_accuracy"):
            expected[name, row["epoch"]] = row[name]
        expected |= {("step_loss", step): loss for step, loss in row["step_losses"]}
    there = Counter((key, step) for key, step, _ in rows)
    return {
        "there": len(rows),
        "lost": len(expected.keys() - there.keys()),
        "twice": sum(count - 1 for count in there.values()),
        "wrong": sum(expected.get((key, step)) != value for key, step, value in rows),
    }


def measure(services, folder, runs, epochs):
    """Log from `runs` processes, kill the server meanwhile, read back; returns what was found."""
    from psycopg2 import connect

    from striate.tracking import background
    from striate.tracking.system_metrics import PREFIX

    folder.mkdir(exist_ok=True)
    begin = time.monotonic()
    trainings = start_trainings(services, folder, runs, epochs)
    connection = connect(services.database.replace("+psycopg2", ""))
    connection.autocommit = True

    def ask(query):
        with connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    total = runs * epochs * PER_EPOCH
    before = ask("SELECT count(*) FROM metrics")[0][0]
    while ask("SELECT count(*) FROM metrics")[0][0] - before < total / 2:
        time.sleep(0.1)
        if all(training.poll() is not None for training in trainings):
            break
    at = ask("SELECT count(*) FROM metrics")[0][0] - before
    killed = time.monotonic()
    services.kill_mlflow()
    services.start_mlflow()
    (folder / BACK).touch()
    away = time.monotonic() - killed
    said = [training.communicate() for training in trainings]
    for run in range(runs):
        background.wait(folder / str(run))  # what a training leaves to be recorded after its end
    seconds = time.monotonic() - begin
    sums = Counter(there=0, lost=0, twice=0, wrong=0)
    for run in range(runs):
        # Of all runs, should there be two of one training.
        rows = ask(
            "SELECT key, step, value FROM metrics WHERE run_uuid IN (SELECT run_uuid FROM params"
            f" WHERE key = 'seed' AND value = '{SEED + run}') AND step > 0"
            f" AND key NOT LIKE '{PREFIX}%'"  # of the machine
        )
        sums.update(compared(rows, run, epochs))
    finished = ask("SELECT count(*) FROM runs WHERE status = 'FINISHED'")[0][0]
    connection.close()
    return {
        "metrics": total, "finished": finished, **sums, "seconds": seconds, "killed_at": at,
        "away": away, "waited": [float(out or "nan") for out, _ in said],
        "said": [err for _, err in said],
    }  # fmt: skip


def main():
    """Print the table."""
    from common import table

    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    metrics = int(sys.argv[2]) if len(sys.argv) > 2 else 50_000
    epochs = -(-metrics // (runs * PER_EPOCH))
    with tempfile.TemporaryDirectory() as folder:
        # PostgreSQL's user has to enter it.
        Path(folder).chmod(0o755)
        with deploy.services(Path(folder) / "services") as services:
            found = measure(services, Path(folder) / "work", runs, epochs)
    table(
        [
            "runs, finished", "metrics", "there when it was killed", "server away (s)", "lost",
            "twice", "other value", "seconds", "waited at a stage's end (s)",
        ],
        [[
            f"{runs}, {found['finished']}", f"{found['metrics']:,}", f"{found['killed_at']:,}",
            f"{found['away']:.1f}", found["lost"], found["twice"], found["wrong"],
            f"{found['seconds']:.0f}", f"up to {max(found['waited']):.1f}",
        ]],
    )  # fmt: skip
    print("".join(sorted(set(found["said"]))), file=sys.stderr)
    sys.exit(1 if found["lost"] or found["twice"] or found["wrong"] else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        train(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
