"""Score the trained network on the test images, once; keep its predictions and its filters."""

from pathlib import Path

from striate.config import params
from striate.console import waiting
from striate.models import portable
from striate.pipeline.stage import stage
from striate.tracking.logger import record_later


def evaluate(settings: params.Params) -> None:
    """Read models/ and the test images; write predictions/ and metrics/."""
    with waiting("loading PyTorch"):
        from striate.data import arrays, json_csv, tensors
        from striate.evaluation import inspection, metrics, predictions, scores
        from striate.models import checkpoint, devices, model_json, prediction

    devices.keep_freed_memory()
    device = devices.pick_device(settings.training.device)
    devices.set_deterministic(True)
    trained = checkpoint.load(Path("models"), device)
    model_json.check_fits(trained.description, arrays.load_manifest(Path("data")))
    test = tensors.load_split(Path("data"), "test", device)
    logits = prediction.predict(
        trained.model, test.images, trained.normalization,
        batch_size=settings.evaluate.batch_size, tta=settings.evaluate.tta, description="test",
    )  # fmt: skip
    found = metrics.predictions_of(logits, test.labels.cpu())
    rows = scores.per_class_scores(found.confusion)
    named = [{"class": name} | row for name, row in zip(trained.classes, rows, strict=True)]
    json_csv.write_table(Path("metrics/per_class.csv"), named)
    predictions.write_predictions(found.logits, found.labels, trained.classes, Path("predictions"))
    shown = trained.normalization(test.images[: inspection.ATTENDED])
    maps = inspection.feature_maps(trained.model, shown[:1])
    filters = inspection.shown_filters(trained.model)
    attention = inspection.attention_maps(trained.model, shown)
    found_inside = predictions.Inspected(
        {name: weight.cpu().numpy() for name, weight in filters.items()},
        {name: value[0].cpu().numpy() for name, value in maps.items()},
        {name: value.cpu().numpy() for name, value in attention.items()},
    )
    predictions.write_network(found_inside, Path("predictions"))
    values = metrics.measure(found)
    json_csv.write_json(Path("metrics/test.json"), values)
    rest = "".join(f"; {metric.label} {metric.shown(values)}" for metric in metrics.others(values))
    print(
        f"test accuracy {values['accuracy']:.2%}: {values['errors']:,} errors"
        f" in {values['n']:,} images{rest}"
    )


if __name__ == "__main__":
    with stage():
        loaded = params.load()
        portable.use(loaded.training, Path("data"))
        evaluate(loaded)
        record_later()
