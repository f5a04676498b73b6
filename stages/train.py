"""Train the network that params.yaml describes; write its weights and its history."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # until `stage` can put outputs back
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])

from striate.config import params, validation
from striate.console import waiting
from striate.models import configs, model_json, portable
from striate.models.defaults import RANDOM
from striate.models.model_json import PRETRAINED
from striate.pipeline.stage import stage
from striate.tracking.logger import Logbook, logbook
from striate.training import torchrun

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from striate.data.tensors import Split
    from striate.models.registry import Network
    from striate.training.distributed import Group
    from striate.training.lazy_images import Stored
    from striate.training.resume import Checkpointer
    from striate.training.task import Task

DATA, MODELS, METRICS = Path("data"), Path("models"), Path("metrics")
MAX_NAMES = 20  # of parts, in a line that says which weights were loaded
FEW_STEPS = 50  # below, Adam at its usual rate of 0.001 barely changes the weights


def main() -> None:
    """Train in this process, or in several that it starts."""
    settings = params.load()
    portable.use(settings.training, DATA)
    chosen = (settings.training.processes, settings.training.device)
    if torchrun.is_needed(*chosen):
        torchrun.launch(torchrun.count(*chosen), Path(__file__), settings.training.device)
        return
    with logbook() as log:
        # Imported while the tracking process loads MLflow beside this one.
        with waiting("loading PyTorch") if torchrun.is_main_process() else nullcontext():
            from striate.training import distributed

        with distributed.process_group(settings.training.device) as (group, device):
            train(settings, log, group, device)


def train(settings: params.Params, log: Logbook, group: Group, device: torch.device) -> None:
    """Read data/, train, and write models/ and metrics/."""
    import torch

    from striate.data import arrays, splits
    from striate.models import checkpoint, devices
    from striate.models.normalization import pick_normalization
    from striate.training import norms, resume
    from striate.training.task import Task

    devices.keep_freed_memory()
    devices.set_deterministic(settings.training.deterministic is not False)
    manifest = arrays.load_manifest(DATA)
    validation.check(
        settings, manifest["shape"], len(manifest["classes"]), manifest["train"]["count"],
        group.size, splits.given_count(manifest),
    )  # fmt: skip
    splits.check_per_class(settings.data, manifest)
    normalization = pick_normalization(manifest, settings.data.normalize)
    description = checkpoint.describe(settings.model.architecture(), manifest, normalization)
    torch.manual_seed(settings.seed)
    model = checkpoint.build(description).to(device)
    train_set, val_set, sample, residency = load_data(settings, manifest, group, device)
    model.fit_to_data(normalization(sample))
    transferred = initialize(model, settings)
    description |= model_json.pretrained(Path(settings.training.init_from))
    task = Task(train_set, val_set, settings, normalization)
    whole_norms = group.size == 1 or norms.synchronize_(model, device)
    messages = [
        *transferred, summary(model, task, residency, group, whole_norms), *notes(task)
    ]  # fmt: skip

    flat = params.flatten(settings.model_dump())
    with resume.checkpointing(settings, manifest, device, Path(__file__)) as checkpointer:
        if group.rank == 0:
            print(*messages, sep="\n", flush=True)
        log.start(flat, machine(device, residency, group))
        rows = run(model, task, checkpointer, group, log)
        if group.rank == 0:
            write(model, task, rows, description)
            log.trained(flat, checkpointer.seconds())


def load_data(
    settings: params.Params, manifest: dict[str, Any], group: Group, device: torch.device
) -> tuple[Split[Tensor] | Split[Stored], Split[Tensor] | Split[Stored] | None, Tensor, str]:
    """Read the images, and put them where they are to lie.

    Returns:
        The training set, the validation set, images for the whitening, and where images lie.
    """
    from striate.data import splits, tensors
    from striate.models import devices, registry
    from striate.training import lazy_images, memory

    images = lazy_images.load(DATA, "train", device)
    given = lazy_images.load(DATA, "val", device) if splits.given_count(manifest) else None
    # All processes measure the free memory before any of them takes it.
    residency = group.all_gather(
        memory.pick_residency(
            settings.data.residency, images.images.pixels.nbytes, device,
            torchrun.local_world_size(),
        )
    )[group.rank]  # fmt: skip
    train_set, val_set = tensors.train_val_split(
        images, settings.data.val_size, settings.split_seed, settings.data.per_class,
        settings.data.fold, given,
    )  # fmt: skip
    precision = devices.pick_precision(settings.training.precision, device)
    return (
        lazy_images.reside(train_set, residency, precision.memory_format),
        None if val_set is None else lazy_images.reside(val_set, residency),
        train_set.images[: registry.FIT_IMAGES].read(),
        residency,
    )


def initialize(model: Network, settings: params.Params) -> list[str]:
    """Load the first weights and freeze layers; returns what to print of it."""
    from striate.models import checkpoint
    from striate.training import transfer

    source = Path(settings.training.init_from)
    if (source / PRETRAINED).is_file():
        from striate.models import timm_network

        weights: dict[str, Tensor] | None = timm_network.pretrained_weights(model, source)
    else:
        weights = checkpoint.first_weights(source)
    messages = []
    if weights is not None:
        taken, others = map(named, transfer.transfer_(model, weights))
        messages.append(f"weights from {source}: {taken}; new: {others}")
    transfer.freeze_(model, settings.training.freeze)
    return messages


def named(parts: list[str]) -> str:
    """The names of parts, or how many there are where that is a long list."""
    return f"{len(parts)} parts" if len(parts) > MAX_NAMES else ", ".join(parts) or "none"


def summary(model: Network, task: Task, residency: str, group: Group, whole_norms: bool) -> str:
    """What is about to be trained, in one line.

    Args:
        model: with its first weights.
        task: images and params.
        residency: where the images lie.
        group: the processes that train.
        whole_norms: whether batch norms see the whole batch, and not this rank's slice of it.
    """
    from striate.models import registry

    where = {"device": "in memory", "host": "in host memory", "disk": "on disk"}[residency]
    parts = [
        f"{registry.count_parameters(model):,} parameters",
        f"{len(task.train_set.labels):,} images {where}",
        f"on {task.device}",
    ]
    if task.class_weights is not None:
        low, high = task.class_weights.aminmax()
        parts.append(f"class weights from {low:.3g} to {high:.3g}")
    if is_portable(task):
        parts.append("portable arithmetic")
    if group.size > 1:
        own = "" if whole_norms else "; each applies batch norm to its own slice of a batch"
        parts.append(f"{group.size} processes{own}")
    return ", ".join(parts)


def is_portable(task: Task) -> bool:
    """Whether this processor computes as others of its kind do, to the last bit."""
    return task.device.type == "cpu" and portable.is_used()


def notes(task: Task) -> list[str]:
    """What may surprise in these params."""
    from striate.training.schedule import Schedule

    settings, images = task.params.training, len(task.train_set.labels)
    found = []
    network = task.params.model
    if unread := network.unread():
        said = ", ".join(f"model.{key}={configs.as_yaml(value)}" for key, value in unread.items())
        found.append(f"note: {network.arch} does not read {said}")
    if settings.deterministic == "portable" and not is_portable(task):
        found.append(
            "note: this processor is not x86-64 with AVX2, so training.deterministic=portable gives"
            " equal bytes only on processors of its kind"
        )
    steps = Schedule(task.params, images).total_steps
    if Path(settings.init_from) == RANDOM and steps < FEW_STEPS:
        found.append(
            f"note: this training takes {steps} steps (epochs of {images:,} images in batches of"
            f" {settings.batch_size:,}), and a new network learns little in fewer than {FEW_STEPS};"
            " lower training.batch_size or raise training.epochs"
        )
    return found


def machine(device: torch.device, residency: str, group: Group) -> dict[str, str]:
    """Where the training happens, for its record."""
    from striate.models import devices

    return devices.describe(device) | {
        "torch.processes": str(group.size),
        "torch.processor_name": devices.processor_name(),
        "striate.residency": residency,
    }


def run(
    model: Network, task: Task, checkpointer: Checkpointer, group: Group, log: Logbook
) -> list[dict[str, Any]]:
    """Train; print and log each epoch, and keep metrics/history.csv up to date.

    Returns:
        The rows of all epochs.
    """
    from striate.training import history, loop

    rows: list[dict[str, Any]] = []
    # Only where DVC has removed the old curves: a stage that somebody runs by hand may fail.
    live = history.LiveHistory(METRICS) if "DVC_STAGE" in os.environ else None
    with checkpointer.delayed_interrupts():
        for row in loop.fit(model, task, checkpointer=checkpointer, group=group):
            rows.append(row)
            if group.rank == 0:
                log.epoch(row)
                print(history.summary_line(row, task.params.training.epochs), flush=True)
                if live:
                    live.update(rows)
    return rows


def write(
    model: Network, task: Task, rows: list[dict[str, Any]], description: dict[str, Any]
) -> None:
    """Calibrate the network on the validation set, and write models/ and metrics/."""
    from striate.models import calibration, checkpoint, prediction, registry
    from striate.training import history, loop

    if task.val_set is not None:
        logits = prediction.predict(
            model, task.val_set.images, task.normalize, batch_size=loop.VALIDATION_BATCH
        )
        description["confidence"] = calibration.confidence(logits, task.val_set.labels.cpu())
    checkpoint.save(model, description, MODELS)
    kept = history.kept_epoch(rows, task.params.training.keep)
    history.write_training(rows, kept, registry.count_parameters(model), METRICS)


if __name__ == "__main__":
    with stage():
        main()
