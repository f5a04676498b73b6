"""Train the network that params.yaml describes; write its weights and its history."""

import time
from pathlib import Path

import torch

from striate import checkpoint, images, models, params, results, tracking, training
from striate.errors import reported


def main() -> None:
    """Read the sections, train, and write models/ and metrics/."""
    settings = params.load()
    device = images.pick_device(settings.training.device)
    manifest = images.load_manifest(Path("data"))
    images.check_augment(settings.augment, manifest["shape"])
    normalization = images.normalization(manifest, settings.data.normalize)
    description = checkpoint.describe(settings.model.model_dump(), manifest, normalization)
    torch.manual_seed(settings.seed)
    model = checkpoint.build(description).to(device)
    stored = images.load_split(Path("data/train"), device)
    train, val = images.hold_out(stored, settings.data.val_size, settings.seed)
    parameters = models.count_parameters(model)
    print(f"{parameters:,} parameters, {len(train.labels):,} images, on {device}", flush=True)

    with tracking.live_run(params.flatten(settings.model_dump())) as run:
        start, rows = time.perf_counter(), []
        for row in training.fit(
            model, train, val, settings=settings.training, augmentation=settings.augment,
            normalize=normalization, seed=settings.seed,
        ):  # fmt: skip
            rows.append(row)
            run.log_epoch(row)
            print(training.summary_line(row, settings.training.epochs), flush=True)
        seconds = time.perf_counter() - start
        checkpoint.save(model, description, Path("models"))
        results.write_training(rows, parameters, Path("metrics"))
        run.complete(Path(), seconds)


if __name__ == "__main__":
    with reported():
        main()
