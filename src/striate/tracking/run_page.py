"""What the run of an experiment lacks: find it, add it, verify it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from striate.errors import UserError
from striate.tracking import descriptions, groups, mlflow_store, records, system_metrics, times
from striate.tracking.mlflow_database import History
from striate.tracking.records import Record

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Run

    from striate.tracking.mlflow_store import Store

MODEL = "striate.model"  # tag: the id of the run's checkpoint on the Models page
SLACK = 1.0  # seconds by which a run may last longer than its training says: it is not one clock


class Wanted(NamedTuple):
    """What decides on what a run is to have, beside its experiment.

    Attributes:
        found: all experiments.
        group: the value of the tag `striate.group`.
        colour: of the run, unless it has one.
        models: ids on the Models page, as they were known a while ago.
    """

    found: Sequence[Record]
    group: str
    colour: str
    models: Collection[str]


class Missing(NamedTuple):
    """What a run lacks; all false for a complete one."""

    artifacts: dict[str, str]  # path → its folder in the run
    tags: dict[str, str]
    params: dict[str, Any]
    data_sets: bool
    model: bool
    end: float | None  # in seconds since the epoch, of a run that lasts longer than its training


def missing(store: Store, record: Record, run: Run, wanted: Wanted) -> Missing:
    """What the run of an experiment lacks."""
    present = store.files(run)
    pages = {records.MODELS: "checkpoint"} | {path: records.PAGES[path] for path in record.pages}
    model = run.data.tags.get(MODEL)
    known = model is not None and (model in wanted.models or store.has_model(model))
    return Missing(
        {path: name for path, name in pages.items() if name not in present},
        _missing_tags(record, run, wanted),
        {key: value for key, value in record.params.items() if key not in run.data.params},
        not _has_data_sets(record, run),
        not known,
        _true_end(run),
    )


def _missing_tags(record: Record, run: Run, wanted: Wanted) -> dict[str, str]:
    named = [name for name in record.names if name.commit]
    tags = {
        "dvc.experiment": " ".join(sorted(name.name for name in named if name.baseline)),
        "dvc.baseline": " ".join(sorted({name.baseline for name in named if name.baseline})),
        "dvc.commit": " ".join(sorted({name.commit for name in named})),
    }
    present = run.data.tags
    if mlflow_store.is_server():
        # Other people have other names for it.
        tags = {
            key: " ".join(sorted({*value.split(), *present.get(key, "").split()}))
            for key, value in tags.items()
        }
    commits = f"{tags['dvc.baseline']} {tags['dvc.commit']}".split()
    if descriptions.is_stale(present.get(descriptions.NOTE), record, commits):
        tags[descriptions.NOTE] = descriptions.note(record, wanted.found)
    # A colour that a person has chosen stays.
    tags[descriptions.COLOUR] = present.get(descriptions.COLOUR) or wanted.colour
    tags[groups.TAG] = wanted.group
    return {key: value for key, value in tags.items() if value and present.get(key) != value}


def _has_data_sets(record: Record, run: Run) -> bool:
    """Whether the data sets of an experiment are inputs of its run, in their contexts."""
    present = {
        (one.dataset.name, one.dataset.digest, tag.value)
        for one in (run.inputs.dataset_inputs if run.inputs else [])
        for tag in one.tags
        if tag.key == descriptions.CONTEXT
    }
    wanted = descriptions.data_sets(record)
    return {(one.name, one.digest, one.context) for one in wanted} <= present


def _true_end(run: Run) -> float | None:
    """When a run ended that lasts longer than its training; None if it does not."""
    seconds, end = run.data.metrics.get(times.SECONDS), run.info.end_time
    if seconds is None or end is None:
        return None
    begin = run.info.start_time / 1000
    return begin + seconds if end / 1000 > begin + seconds + SLACK else None


def add(root: Path, store: Store, record: Record, run: Run, wanted: Wanted) -> list[str]:
    """Add what a run lacks, which has all of its metrics; returns what was added."""
    lacks = missing(store, record, run, wanted)
    run_id = run.info.run_id
    done = []
    for path, name in lacks.artifacts.items():
        with tempfile.TemporaryDirectory() as scratch:
            place = records.fetch(root, record, (path,), Path(scratch))
            store.upload(run_id, place / path, name)
        done.append(f"added {name}")
    if lacks.tags:
        store.tag(run_id, lacks.tags)
        done.append("added name")
    if lacks.params:
        store.log_params(run_id, lacks.params)
    if lacks.data_sets:
        store.log_inputs(run_id, _data_sets(root, record))
        done.append("added data sets")
    if lacks.model:
        sets = descriptions.data_sets(record)
        scores = descriptions.model_scores(record, sets)
        with tempfile.TemporaryDirectory() as scratch:
            place = records.fetch(root, record, (records.MODELS,), Path(scratch))
            model = store.add_model(run, place / records.MODELS, scores, record.params)
        # Last: a model that no tag names is looked for again. Somebody may have deleted it.
        if store.has_model(model):
            store.tag(run_id, {MODEL: model})
            done.append("added model")
    if lacks.end is not None:
        store.terminate(run_id, run.info.status, lacks.end)
        done.append("corrected its end")
    return done


def _data_sets(root: Path, record: Record) -> list[descriptions.DataSet]:
    """The data sets of an experiment, with their shapes if the manifest is here."""
    try:
        manifest = json.loads(records.read(root, record, records.MANIFEST))
    except (UserError, ValueError, OSError):
        manifest = None
    return descriptions.data_sets(record, manifest)


def faults(
    record: Record, run: Run, logged: History, models: Mapping[str, LoggedModel]
) -> list[str]:
    """What is wrong with a run beside its params and metrics, a line for each.

    Args:
        record: of the experiment.
        run: of it.
        logged: the points of its metrics.
        models: all entries of the Models page, by id.
    """
    found = []
    if not _has_data_sets(record, run):
        found.append("its run lacks data sets; `striate sync`")
    if not run.data.tags.get(descriptions.NOTE):
        found.append("its run has no description; `striate sync`")
    if not run.data.tags.get(descriptions.COLOUR):
        found.append("its run has no colour; `striate sync`")
    if _true_end(run) is not None:
        found.append("its run lasts longer in MLflow than its training did; `striate sync`")
    for name, history in logged.items():
        if name.startswith(system_metrics.PREFIX) and len(dict(history)) != len(history):
            found.append(f"metric {name} has several values at one step in MLflow")
    model = models.get(run.data.tags.get(MODEL, ""))
    if model is None:
        return [*found, "its checkpoint is not among MLflow's models; `striate sync`"]
    return found + _model_faults(record, run, model)


def _model_faults(record: Record, run: Run, model: LoggedModel) -> list[str]:
    found = []
    if model.status != "READY" or model.source_run_id != run.info.run_id:
        found.append("its model in MLflow is not complete, or another run's; `striate sync`")
    params = {key: str(value) for key, value in record.params.items()}
    if model.params != params:
        found.append("its model in MLflow has other params than DVC has")
    sets = descriptions.data_sets(record)
    expected = {
        (name, step, value, one.name, one.digest)
        for (name, value, step), one in descriptions.model_scores(record, sets)
    }
    present = {
        (one.key, one.step, one.value, one.dataset_name, one.dataset_digest)
        for one in model.metrics or []
    }
    different = sorted({key for key, *_ in expected ^ present})
    found += [f"metric {key} of its model in MLflow is not what DVC has" for key in different]
    return found
