"""Train the network that params.yaml describes; write its weights and its history."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from striate.config import params, validation
from striate.models import portable
from striate.pipeline.stage import stage
from striate.progress import waiting
from striate.tracking.logger import Logbook, logbook
from striate.training import torchrun

FEW_STEPS = 50  # below, Adam at its usual rate of 0.001 barely changes the weights

if TYPE_CHECKING:
    import torch

    from striate.training.distributed import Group


def main() -> None:
    """Train in this process, or in several that it starts."""
    settings = params.load()
    portable.use(settings.training, Path("data"))
    chosen = (settings.training.processes, settings.training.device)
    if torchrun.is_needed(*chosen):
        torchrun.launch(torchrun.count(*chosen), Path(__file__), settings.training.device)
        return
    with logbook() as log:
        # Imported while the tracking process loads MLflow beside this one.
        with waiting("loading PyTorch") if torchrun.is_first() else nullcontext():
            from striate.training import distributed

        with distributed.joined(settings.training.device) as (group, device):
            train(settings, log, group, device)


def train(settings: params.Params, log: Logbook, group: Group, device: torch.device) -> None:
    """Read the sections, train, and write models/ and metrics/."""
    import torch

    from striate.data import arrays, tensors
    from striate.models import calibration, checkpoint, devices, networks, prediction
    from striate.models.normalization import pick_normalization
    from striate.training import history, lazy_images, loop, memory, norms, resume, transfer

    devices.keep_freed_memory()
    devices.set_deterministic(settings.training.deterministic is not False)
    manifest = arrays.load_manifest(Path("data"))
    validation.check(
        settings, manifest["shape"], len(manifest["classes"]), manifest["train"]["count"],
        group.size,
    )  # fmt: skip
    normalization = pick_normalization(manifest, settings.data.normalize)
    description = checkpoint.describe(settings.model.model_dump(), manifest, normalization)
    torch.manual_seed(settings.seed)
    model = checkpoint.build(description).to(device)
    everything = lazy_images.load(Path("data"), "train", device)
    size = everything.images.pixels.nbytes
    # All processes look at what is free before any of them takes it.
    where = group.gathered(
        memory.pick_residency(settings.data.residency, size, device, torchrun.beside())
    )[group.rank]
    first, second = tensors.hold_out(everything, settings.data.val_size, settings.seed)
    networks.whiten_(model, normalization(first.images[: networks.WHITENING_IMAGES].read()))
    precision = devices.pick_precision(settings.training.precision, device)
    learnt = lazy_images.reside(first, where, precision.memory_format)
    val = None if second is None else lazy_images.reside(second, where)
    said = []
    source = Path(settings.training.init_from)
    weights = checkpoint.first_weights(source)
    if weights is not None:
        taken, others = (", ".join(parts) or "none" for parts in transfer.transfer_(model, weights))
        said.append(f"weights of {source}: {taken}; new ones: {others}")
    transfer.freeze_(model, settings.training.freeze)
    parameters = networks.count_parameters(model)
    place = {"device": "in memory", "host": "in host memory", "disk": "on disk"}[where]
    is_portable = device.type == "cpu" and portable.is_used()
    said.append(
        f"{parameters:,} parameters, {len(learnt.labels):,} images {place}, on {device}"
        + (", portable arithmetic" if is_portable else "")
    )
    if group.size > 1:
        whole = norms.synchronize_(model, device)
        said[-1] += f", {group.size} processes" + (
            "" if whole else "; batch norm by each of them over its own part of a batch"
        )
    if settings.training.deterministic == "portable" and not is_portable:
        said.append(
            "note: this is no x86-64 processor with AVX2, so training.deterministic=portable gives"
            " equal bytes on its own kind only"
        )
    batch = settings.training.batch_size
    steps = settings.training.epochs * loop.steps_per_epoch(len(learnt.labels), batch)
    if weights is None and steps < FEW_STEPS:
        said.append(
            f"note: this training takes {steps} steps (epochs of {len(learnt.labels):,} images in"
            f" batches of {batch:,}), and new networks learn little in fewer than {FEW_STEPS}; a"
            " smaller training.batch_size or more training.epochs make more steps"
        )

    flat = params.flatten(settings.model_dump())
    with resume.kept(settings, manifest, device, Path(__file__)) as keeper:
        if group.rank == 0:
            print(*said, sep="\n", flush=True)
        machine = {
            "torch.processes": str(group.size),
            "torch.processor_name": devices.processor_name(),
            "striate.residency": where,
        }
        log.start(flat, devices.describe(device) | machine)
        rows = []
        with keeper.stoppable():
            for row in loop.fit(
                model, learnt, val, settings=settings.training, augmentation=settings.augment,
                normalize=normalization, seed=settings.seed, keeper=keeper, group=group,
            ):  # fmt: skip
                rows.append(row)
                if group.rank == 0:
                    log.epoch(row)
                    print(loop.summary_line(row, settings.training.epochs), flush=True)
        if group.rank:
            return
        kept = loop.kept_epoch(rows, settings.training.keep)
        if val is not None:
            logits = prediction.predict(
                model, val.images, normalization, batch_size=loop.VALIDATION_BATCH
            )
            description["confidence"] = calibration.confidence(logits, val.labels.cpu())
        checkpoint.save(model, description, Path("models"))
        history.write_training(rows, kept, parameters, Path("metrics"))
        log.trained(flat, keeper.seconds())


if __name__ == "__main__":
    with stage():
        main()
