"""Find a trained network: in a folder, a DVC experiment, or MLflow's model registry."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from striate.errors import UserError
from striate.models import checkpoint, defaults, timm_network
from striate.tracking import mlflow_store, records

REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
ARTIFACT = "checkpoint"  # the folder in a run


def find(source: str, scratch: Path) -> Path:
    """Find a checkpoint; returns its folder.

    Args:
        source: a folder, `models:/NAME@ALIAS` or `models:/NAME/VERSION` in MLflow's registry, or an
            experiment, branch, tag or commit of the repository in the working folder.
        scratch: an empty folder to download to.

    Raises:
        UserError: there is no such network.
    """
    if not source.strip():
        raise UserError("the name of a network is empty; name an experiment or a folder")
    if source.startswith("models:"):
        return _registered(source, scratch)
    folder = Path(source)
    if folder.is_dir():
        # Of the pipeline's own folder, what reads it says how to make it.
        if folder != Path(records.MODELS) and not (folder / checkpoint.DESCRIPTION).exists():
            raise UserError(
                f"{folder} holds no network: {folder / checkpoint.DESCRIPTION} is not there"
            )
        return folder
    if source == records.MODELS:
        raise UserError(f"{source}/ is not there; `dvc repro` makes it")
    root = mlflow_store.root()
    if not (root / ".dvc").is_dir():
        raise UserError(f"{source} is not a folder, and experiments exist only in a DVC repository")
    needed = (records.MODELS,)
    record = records.named(root, source, needed)
    return records.fetch(root, record, needed, scratch) / records.MODELS


def _registered(source: str, scratch: Path) -> Path:
    match = REGISTERED.fullmatch(source)
    if match is None:
        raise UserError(f"{source} is not a registered model, such as models:/striate@champion")
    with mlflow_store.reachable():
        store = mlflow_store.open_store()
        client, name = store.client, match["name"]
        from mlflow.exceptions import MlflowException

        try:
            if match["alias"]:
                version = client.get_model_version_by_alias(name, match["alias"])
            else:
                version = client.get_model_version(name, match["version"])
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise UserError(
                    f"MLflow has no {source}; `striate promote EXPERIMENT` makes the champion"
                ) from None
            raise
        client.download_artifacts(version.run_id, ARTIFACT, str(scratch))
    return scratch / ARTIFACT


def keep(source: str, target: Path, file: Path | None = None) -> None:
    """Copy the checkpoint of a source to a folder, whole or not at all; replace one that is there.

    Args:
        source: as in `find`, or `timm:NAME`, whose published weights are kept.
        target: the folder.
        file: that has the weights of `timm:NAME`; None downloads them.

    Raises:
        UserError: there is no such network, or the folder contains other files.
    """
    if source.startswith("timm:"):
        timm_network.keep(source, target, file)
        return
    names = {checkpoint.WEIGHTS, checkpoint.DESCRIPTION}
    if target.exists() and not (
        target.is_dir() and {path.name for path in target.iterdir()} <= names
    ):
        raise UserError(f"{target} is not a folder with only a network; choose another: --to")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as scratch:
        found = find(source, Path(scratch, "found"))
        import torch

        checkpoint.load(found, torch.device("cpu"))  # refuse a damaged one
        copy = Path(scratch, "copy")
        copy.mkdir()
        for name in sorted(names):
            shutil.copyfile(found / name, copy / name)
        if target.exists():
            shutil.rmtree(target)
        copy.rename(target)


def default_folder(source: str) -> Path:
    """The folder in weights/ that `keep` writes a source to by default."""
    name = re.sub(r"[^\w.@-]+", "-", source.removeprefix("models:/")).strip("-.")
    if not name or Path("weights", name) == defaults.RANDOM:
        raise UserError(f"a folder in weights/ cannot be called {name!r}; choose one: --to")
    return Path("weights", name)
