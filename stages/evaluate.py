"""Score the trained network on the test images, once; keep its predictions and what is inside."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # until `stage` can put outputs back
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])

from striate.config import params
from striate.console import waiting
from striate.models import portable
from striate.pipeline.stage import stage
from striate.tracking.logger import record_later

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from striate.data.tensors import Split
    from striate.evaluation.metrics import Predictions
    from striate.models.checkpoint import Checkpoint

DATA, PREDICTIONS = Path("data"), Path("predictions")


def evaluate(settings: params.Params) -> None:
    """Read models/ and the test images; write predictions/ and metrics/."""
    with waiting("loading PyTorch"):
        from striate.data import arrays, json_csv, tensors
        from striate.evaluation import metrics, predictions, scores, shifts
        from striate.models import checkpoint, devices, model_json, prediction

    devices.keep_freed_memory()
    device = devices.pick_device(settings.training.device)
    devices.set_deterministic(True)
    trained = checkpoint.load(Path("models"), device)
    model_json.check_fits(trained.description, arrays.load_manifest(DATA))
    test = tensors.load_split(DATA, "test", device)
    batch_size, tta = settings.evaluate.batch_size, settings.evaluate.tta
    logits = prediction.predict(
        trained.model, test.images, trained.normalization,
        batch_size=batch_size, tta=tta, description="test",
    )  # fmt: skip
    shifted: dict[str, list[float]] = {}
    if count := settings.evaluate.shifted:
        shifted, examples = shifts.score(trained, test, count, batch_size=batch_size, tta=tta)
        predictions.write_shifted(shifted, examples, PREDICTIONS)
    found = metrics.predictions_of(logits, test.labels.cpu(), shifted)
    rows = scores.per_class_scores(found.confusion)
    named = [{"class": name} | row for name, row in zip(trained.classes, rows, strict=True)]
    json_csv.write_table(Path("metrics/per_class.csv"), named)
    predictions.write_predictions(found.logits, found.labels, trained.classes, PREDICTIONS)
    inspect(trained, test, found, settings, device)
    json_csv.write_json(Path("metrics/shifted.json"), metrics.by_corruption(shifted))
    values = metrics.measure(found)
    json_csv.write_json(Path("metrics/test.json"), values)
    rest = "".join(f"; {metric.label} {metric.shown(values)}" for metric in metrics.others(values))
    print(
        f"test accuracy {values['accuracy']:.2%}: {values['errors']:,} errors"
        f" in {values['n']:,} images{rest}"
    )


def inspect(
    trained: "Checkpoint",
    test: "Split[Tensor]",
    found: "Predictions",
    settings: params.Params,
    device: "torch.device",
) -> None:
    """Write what is inside the network, and what its worst mistakes come from."""
    from striate.data import arrays
    from striate.evaluation import inspection, mistakes, neighbours, predictions
    from striate.models import devices

    def train_batches() -> Iterator[tuple["Tensor", "Tensor"]]:
        from torch import from_numpy

        images, _ = arrays.map_split(DATA, "train")
        compared = neighbours.compared(len(images))
        for start in range(0, len(compared), settings.evaluate.batch_size):
            part = compared[start : start + settings.evaluate.batch_size]
            yield from_numpy(part), from_numpy(images[part]).to(device)

    # A network may have trained on what has no deterministic gradient.
    devices.set_deterministic(settings.training.deterministic is not False)
    shown = trained.normalization(test.images[: inspection.ATTENDED])
    predictions.write_network(inspection.inspect(trained.model, shown), PREDICTIONS)
    wrong = mistakes.inspect(
        trained, test.images, found.labels, found.logits, train_batches(),
        settings.evaluate.neighbours,
    )  # fmt: skip
    predictions.write_mistakes(wrong, PREDICTIONS)


if __name__ == "__main__":
    with stage():
        loaded = params.load()
        portable.use(loaded.training, DATA)
        evaluate(loaded)
        record_later()
