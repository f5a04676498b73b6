"""The file by which MLflow loads a checkpoint: `mlflow.pyfunc.load_model("models:/ID")`.

Written by hand, because MLflow's own functions would pickle the network, which takes seconds.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

LOADER = "striate.serving.pyfunc"
DATA = "checkpoint"  # the folder beside the file


def tensor_spec(kind: str, shape: Sequence[int]) -> str:
    """What MLflow says of arrays, as JSON.

    Args:
        kind: NumPy's name of the type of their elements.
        shape: of one of them; any number may be stacked.
    """
    return json.dumps([{"type": "tensor", "tensor-spec": {"dtype": kind, "shape": [-1, *shape]}}])


def write(target: Path, folder: Path, model_id: str, run_id: str) -> None:
    """Write a model as MLflow keeps one: the checkpoint, and a file that describes it.

    Args:
        target: an empty folder.
        folder: with the checkpoint.
        model_id: of the entry on MLflow's Models page.
        run_id: of the training.

    Raises:
        CheckpointError: the checkpoint has no description.
    """
    from mlflow.models import Model, ModelSignature

    from striate.models import model_json  # which takes NumPy

    description = model_json.read(folder)
    shapes = (description["shape"], [len(description["classes"])])
    tensors = [tensor_spec("float32", shape) for shape in shapes]
    signature = ModelSignature.from_dict(dict(zip(("inputs", "outputs"), tensors, strict=True)))
    model = Model(run_id=run_id, model_id=model_id, signature=signature)
    model.add_flavor(
        "python_function",
        loader_module=LOADER, data=DATA, python_version=platform.python_version(),
    )  # fmt: skip
    shutil.copytree(folder, target / DATA)
    model.save(str(target / "MLmodel"))
