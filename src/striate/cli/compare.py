"""Compare results."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from striate.cli import workspace
from striate.cli.table import a_path, argument, command, number
from striate.console import waiting
from striate.errors import UserError

if TYPE_CHECKING:
    from striate.config.params import Params
    from striate.tracking.records import Record


@command()
def summary() -> None:
    """Show the results in the workspace.

    Network, training and scores, the mean over seeds where there are several, and what to try
    next.

    Example: striate summary
    """
    from striate.config import params
    from striate.data import json_csv
    from striate.tracking import mlflow_store, records

    settings = params.load()
    train, test = (
        json_csv.read_metrics(Path(f"metrics/{name}.json")) for name in ("train", "test")
    )
    root = mlflow_store.root()
    here = records.named(root, records.WORKSPACE)
    workspace.note_changed_params(here)
    print()
    rows = _summary_rows(settings, train, test) | _seeds_rows(root, here)
    for name, value in rows.items():
        print(f"  {name:<{max(map(len, rows))}}  {value}")
    print(
        "\nNext: see the report     reports/index.html"
        "\n      try an idea        dvc exp run -S model.layers=3"
        "\n      repeat with seeds  striate repeat --seeds 5"
        "\n      compare            make compare"
        "\n      open MLflow        make ui"
    )


def _summary_rows(settings: Params, train: dict[str, Any], test: dict[str, Any]) -> dict[str, str]:
    from striate.evaluation import metrics

    model, training = settings.model, settings.training
    size = f" {model.layers} layer{'s' if model.layers > 1 else ''}, width {model.width},"
    if not model.layers:  # timm alone knows
        size = ""
    rows = {
        "data": f"{settings.data.name}, seed {settings.seed}",
        "network": f"{model.arch},{size} {train['parameters']:,} parameters",
        "training": f"{train['epochs']:,} epoch{'s' if train['epochs'] != 1 else ''}"
        f" of {training.optimizer}, batches of {training.batch_size}",
        "training accuracy": f"{train['train_accuracy']:.2%}",
    }
    if "val_accuracy" in train:
        rows["validation accuracy"] = f"{train['val_accuracy']:.2%}"
    wrong = metrics.METRICS["errors"].shown(test)
    rows["test accuracy"] = f"{test['accuracy']:.2%} ({wrong} of {test['n']:,} wrong)"
    return rows | {metric.label: metric.shown(test) for metric in metrics.others(test)}


def _seeds_rows(root: Path, here: Record) -> dict[str, str]:
    """What several seeds of the workspace's setting say: its experiments here, or Git's table."""
    from striate.reporting import seeds
    from striate.reporting.numbers import mean_interval, mean_sd
    from striate.tracking import groups, records

    own = groups.of(here, records.find(root).records)
    kept = seeds.of_results(seeds.read(root / seeds.FILE), groups.row(here))
    rows = max([groups.row(member) for member in own.members], kept, key=len)
    lines = [
        f"{name} {mean_sd(mean)} (mean {mean_interval(mean)})"
        for name, mean in seeds.means(rows).items()
    ]
    return dict(zip((f"over {len(rows)} seeds", ""), lines, strict=False))


@command()
def experiments() -> None:
    """List all experiments.

    A row for each group of experiments that differ in the seed alone: mean and standard deviation
    of validation and test accuracy, size, and the params that differ; best validation accuracy
    first.

    Example: striate experiments
    """
    from striate.analysis import overview
    from striate.console import columns
    from striate.tracking import groups

    root = workspace.repository()
    found, _, here = workspace.find_experiments(root)
    workspace.note_changed_params(here)
    grouped = groups.group(found)
    print(columns(overview.table(grouped, here)))
    for line in overview.notes(grouped):
        print(f"\n{line}")


@command(
    argument(
        "names", metavar="NAME", nargs="+", values="experiments",
        help="experiments, branches, tags or commits, or `workspace`; the first is the baseline",
    ),
    argument(
        "--page", metavar="FILE", type=a_path, values="file", default=Path("reports/compare.html"),
        help="where to write the comparison with curves and images",
    ),
)  # fmt: skip
def compare(names: list[str], page: Path) -> None:
    """Compare settings over their seeds, and networks over images.

    An experiment stands for all that differ from it in the seed alone. Compares params, metrics,
    learning curves and predictions, as text and as a page: a t-test over seeds, McNemar's test
    over images.

    Example: striate compare main deeper
    """
    import tempfile

    workspace.check_name("--page", page, "compare.html")
    if len(set(names)) < max(2, len(names)):
        raise UserError("name at least two experiments, each once; `dvc exp list` shows them")
    root = workspace.repository()
    with waiting("loading PyTorch"):
        from striate.analysis import compare
        from striate.data import files

    with waiting("comparing"), tempfile.TemporaryDirectory() as scratch:
        sides, scored = compare.read_all(root, names, Path(scratch))
    for side in sides:
        if side.record.revision is None:
            workspace.note_changed_params(side.record)
    sentences = compare.sentences(sides, scored)
    print(compare.text(sides, sentences), flush=True)
    files.write(page, compare.page(sides, sentences, scored).encode())
    print(f"\nwith curves and images: {page}")


@command(
    argument(
        "--picture", metavar="FILE", type=a_path, values="file", default=Path("reports/pareto.png"),
        help="where to write the plot",
    ),
)  # fmt: skip
def pareto(picture: Path) -> None:
    """Plot accuracy against size and training time.

    A table, and a plot with the Pareto front, of every experiment on the data of HEAD; those that
    differ in the seed alone are one point, at their mean. Networks are compared by validation
    accuracy if any has one, and by training time if all were timed on the same kind of machine.

    Example: striate pareto --picture pareto.png
    """
    workspace.check_name("--picture", picture, "pareto.png")
    from striate.analysis import overview, pareto
    from striate.console import columns
    from striate.reporting.figures.style import save
    from striate.reporting.figures.trade_off import trade_off
    from striate.tracking import groups

    root = workspace.repository()
    found, left_out, accuracy = pareto.comparable(workspace.find_experiments(root).records)
    workspace.note_left_out(left_out)
    if not found:
        raise UserError("no experiment has an accuracy and a size to compare")
    timings = workspace.training_times(root, found)
    grouped = groups.group(found)
    candidates = pareto.candidates(grouped, accuracy, timings)
    print(columns(pareto.table(candidates, accuracy)))
    print()
    for line in pareto.notes(candidates) + overview.notes(grouped):
        print(line)
    save(trade_off(pareto.panels(candidates), accuracy), picture)
    print(f"as a plot: {picture}")


@command(
    argument(
        "--against", metavar="REV", values="experiments",
        help="commit, branch or tag (default: origin/main, or the commit before HEAD if HEAD is in"
        " it)",
    ),
)  # fmt: skip
def gate(against: str | None) -> None:
    """Fail if a metric got worse.

    Compares metrics/ with those of another commit, by the rules in gate.yaml: the means over the
    seeds in metrics/seeds.csv, or one seed. Exit status 1 if a metric is worse, missing, or differs
    where it must not; 2 if they cannot be compared.

    Example: striate gate --against HEAD~1
    """
    from striate.analysis import gate, gate_sources

    folder = Path()
    rules = gate.load_rules(folder / "gate.yaml")
    reason = ""
    if against is None:
        against, reason = gate_sources.default_revision(rules, folder)
    commit = gate_sources.resolved(folder, against)
    before = gate_sources.at(against, rules, folder)
    now = gate_sources.here(rules, folder)
    gate.check_rules(rules, before.metrics, now.metrics, against)
    gate_sources.check_sources(before.source, now.source, against)
    checks = gate.compare(before, now, rules)
    print(gate.table(checks))
    remarks = [
        *gate.remarks(checks, rules),
        *(gate_sources.stale_said(side) for side in (before, now)),
        gate_sources.params_said(before.source, now.source),
    ]
    for remark in filter(None, remarks):
        print(f"\n{remark}")
    because = f", because {reason}" if reason else ""
    print(f"\nagainst {against} ({commit[:7]}){because}: {gate.outcome(checks)}")
    sys.exit(1 if any(check.failed for check in checks) else 0)


@command(argument("--port", type=number(0, 65535), default=5000, help="on this machine"))
def ui(port: int) -> None:
    """Open MLflow's pages.

    Serves them on this machine only, until Ctrl-C; where MLFLOW_TRACKING_URI names a server,
    prints its pages.

    Example: striate ui --port 5001
    """
    from striate.tracking import mlflow_store

    root = workspace.dvc_root()
    server = f"http://127.0.0.1:{port}"
    shared = mlflow_store.is_server()
    if not shared:
        _lock_port(port, root / ".dvc" / "tmp" / f"striate-ui-{port}.lock")
    with mlflow_store.reachable(), waiting("loading MLflow"):
        store = mlflow_store.open_store()
        single, grouped = store.save_view(), store.save_view(grouped=True)
    if shared:
        server = mlflow_store.tracking_uri().rstrip("/")
    home = f"{server}/#/experiments/{store.experiment}/runs"
    # Without the last key MLflow opens the pages for language models and hides what matters here.
    pages = (
        ("Runs:      ", single, "TABLE"),
        ("Comparison:", single, "CHART"),
        ("Over seeds:", grouped, "CHART"),
    )
    for title, view, mode in pages:
        query = f"viewStateShareKey={view}&compareRunsMode={mode}&workflowType=machine_learning"
        print(f"{title} {home}?{query}", flush=True)
    if not shared:
        print("The server answers in 10 to 40 seconds; Ctrl-C stops it.", flush=True)
        _become_server(port, mlflow_store.tracking_uri())


def _lock_port(port: int, lock: Path) -> None:
    """Refuse a port that is in use, or that a starting server of this repository has claimed.

    The lock lasts as long as this process, also after it has become the server.

    Raises:
        UserError: the port is taken.
    """
    import fcntl
    import socket

    with socket.socket() as probe:
        # As servers do, so that an address whose last server has just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} cannot be used: {error.strerror}; name another: --port 5001"
            ) from None
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    os.set_inheritable(descriptor, True)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(
            f"another `striate ui` is starting on port {port}; open its pages, or name another"
            " port: --port 5001"
        ) from None


def _become_server(port: int, uri: str) -> NoReturn:
    """Replace this process by MLflow's server, so that what stops the one stops the other."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1",
        "--port", str(port),
    ]  # fmt: skip
    settings = {
        # Not as an argument, which everybody on the machine can read: it may hold a password.
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",
    }
    os.execve(sys.executable, command, os.environ | settings)  # noqa: S606
