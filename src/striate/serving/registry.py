"""The registered model in MLflow: the champion of all experiments, ready to serve.

It takes pixels as published and normalises them itself, so that clients need to know nothing of the
training. Its format is torch.export's pt2, which runs no code when it is loaded.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from pathlib import Path

import torch

from striate.errors import UserError
from striate.models import checkpoint
from striate.serving import export
from striate.tracking import mlflow_store, records, sync

NAME, ALIAS = "striate", "champion"
ACCURACY = "test_accuracy"
SPLIT = "striate.split"  # tag: a hash of what determines the validation set


def promote(root: Path, record: records.Record, force: bool) -> tuple[bool, str]:
    """Register the model of an experiment under the alias `champion`.

    Args:
        root: the repository.
        record: of the experiment.
        force: register it even if its accuracy is below the current champion's. They are compared
            on the validation set if both have the same one, else on the test set.

    Returns:
        Whether it was registered, and a message.

    Raises:
        UserError: it has no run, or its checkpoint is not here.
    """
    # Logging the model reopens the run; meanwhile `sync` would create another one.
    with mlflow_store.runs_lock():
        return _promote(root, record, force)


def _promote(root: Path, record: records.Record, force: bool) -> tuple[bool, str]:
    experiment = record.names[0].name
    store = mlflow_store.open_store()
    run = sync.run_of(store, record)
    if run is None:
        raise UserError(f"{experiment} has no run in MLflow; `striate sync` makes it")
    present = champion(store)
    ours = float(record.test["accuracy"])
    data = record.params["data.name"]
    scores = _scores(record)
    if present is not None and not force:
        if present.tags["data"] != data:
            of = present.tags["data"]
            return False, f"refused: the champion is for {of}, not {data}; --force replaces it"
        key, name = ACCURACY, "test"
        if records.VALIDATION in scores and present.tags.get(SPLIT) == scores[SPLIT]:
            key, name = records.VALIDATION, "validation"
        mine, theirs = float(scores[key]), float(present.tags[key])
        if mine < theirs:
            return False, (
                f"refused: its {name} accuracy of {mine:.4%} is below the champion's {theirs:.4%}"
            )
    with tempfile.TemporaryDirectory() as scratch:
        place = records.fetch(root, record, (records.MODELS,), Path(scratch))
        trained = checkpoint.load(place / records.MODELS, torch.device("cpu"))
        try:
            version = _register(store, run.info.run_id, trained)
        finally:
            # MLflow has reopened the run, whose duration would be that until now.
            end = (run.info.end_time or run.info.start_time) / 1000
            store.terminate(run.info.run_id, run.info.status, end)
    for key, value in (scores | {"data": data}).items():
        store.client.set_model_version_tag(NAME, version, key, value)
    store.client.set_registered_model_alias(NAME, ALIAS, version)
    return True, f"models:/{NAME}@{ALIAS} is now version {version}: {experiment}, {ours:.2%}"


def _scores(record: records.Record) -> dict[str, str]:
    """The accuracies that models are compared by, as tags of the model version."""
    scores = {ACCURACY: repr(float(record.test["accuracy"]))}
    if records.VALIDATION in record.train:
        held_out = records.validation_split(record.params)
        scores[records.VALIDATION] = repr(float(record.train[records.VALIDATION]))
        scores[SPLIT] = records.hash_values(
            held_out | {records.DATA: record.identity[records.DATA]}
        )
    return scores


def champion(store: mlflow_store.Store):  # type: ignore[no-untyped-def]
    """The current champion's model version, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return store.client.get_model_version_by_alias(NAME, ALIAS)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def servable(version: str, device: torch.device, folder: Path) -> str:
    """The address of a registered version, for MLflow's scoring server.

    Args:
        version: in MLflow's registry.
        device: that computes.
        folder: an empty one. If the device is a GPU, it receives a copy of the model that computes
            there: MLflow moves no exported network.
    """
    address = f"models:/{NAME}/{version}"
    if device.type == "cpu":
        return address
    import mlflow

    mlflow.set_tracking_uri(mlflow_store.tracking_uri())
    mlflow.set_registry_uri(mlflow_store.tracking_uri())
    copy = mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder))
    path = Path(copy, "data", "model.pt2")
    torch.export.save(export.move(torch.export.load(path), device), path)
    return str(copy)


def _register(store: mlflow_store.Store, run_id: str, trained: checkpoint.Checkpoint) -> str:
    """Log the model to its run and register it; returns the version."""
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    shape = trained.description["shape"]
    kind = np.dtype(np.float32)
    signature = ModelSignature(
        Schema([TensorSpec(kind, (-1, *shape))]),
        Schema([TensorSpec(kind, (-1, len(trained.classes)))]),
    )
    mlflow.set_tracking_uri(mlflow_store.tracking_uri())
    mlflow.set_registry_uri(mlflow_store.tracking_uri())
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pytorch.log_model(
            checkpoint.Pixels(trained).eval(),
            name="model",
            signature=signature,
            # Two rows: one would fix the batch size.
            input_example=np.zeros((2, *shape), np.float32),
            registered_model_name=NAME,
            # Given here, because MLflow's inference of them is slow.
            pip_requirements=[
                f"{name}=={importlib.metadata.version(name)}"
                for name in ("mlflow", "torch", "torchvision", "numpy")
            ],
        )
    return str(info.registered_model_version)
