"""Train the network that params.yaml describes; write its weights and its history."""

from pathlib import Path

from striate import limits, params
from striate.logbook import Logbook, logbook
from striate.stage import stage


def train(settings: params.Params, log: Logbook) -> None:
    """Read the sections, train, and write models/ and metrics/."""
    # Imported while the tracking process loads MLflow beside this one.
    import torch

    from striate import (
        checkpoint,
        devices,
        evaluation,
        images,
        models,
        results,
        resume,
        training,
    )

    devices.keep_freed_memory()
    device = devices.pick_device(settings.training.device)
    devices.set_deterministic(settings.training.deterministic)
    manifest = images.load_manifest(Path("data"))
    limits.check(settings, manifest["shape"], len(manifest["classes"]), manifest["train"]["count"])
    normalization = images.normalization(manifest, settings.data.normalize)
    description = checkpoint.describe(settings.model.model_dump(), manifest, normalization)
    torch.manual_seed(settings.seed)
    model = checkpoint.build(description).to(device)
    stored = images.load_split(Path("data"), "train", device)
    learnt, val = images.hold_out(stored, settings.data.val_size, settings.seed)
    models.whiten_(model, normalization(learnt.images[: models.WHITENING_IMAGES]))
    source = Path(settings.training.init_from)
    first = checkpoint.first_weights(source)
    if first is not None:
        taken, others = (", ".join(parts) or "none" for parts in models.transfer_(model, first))
        print(f"weights of {source}: {taken}; new ones: {others}")
    models.freeze_(model, settings.training.freeze)
    parameters = models.count_parameters(model)
    print(f"{parameters:,} parameters, {len(learnt.labels):,} images, on {device}", flush=True)

    flat = params.flatten(settings.model_dump())
    with resume.kept(settings, manifest, device, Path(__file__)) as keeper:
        log.start(flat, devices.describe(device))
        rows = []
        with keeper.stoppable():
            for row in training.fit(
                model, learnt, val, settings=settings.training, augmentation=settings.augment,
                normalize=normalization, seed=settings.seed, keeper=keeper,
            ):  # fmt: skip
                rows.append(row)
                log.epoch(row)
                print(training.summary_line(row, settings.training.epochs), flush=True)
        kept = training.kept_epoch(rows, settings.training.keep)
        if val is not None:
            logits = evaluation.predict(
                model, val.images, normalization, batch_size=training.VALIDATION_BATCH
            )
            description["confidence"] = evaluation.confidence(logits, val.labels.cpu())
        checkpoint.save(model, description, Path("models"))
        results.write_training(rows, kept, parameters, Path("metrics"))
        log.trained(flat, keeper.seconds())


if __name__ == "__main__":
    with stage():
        loaded = params.load()
        with logbook() as opened:
            train(loaded, opened)
