"""Score the trained network on the test images, once, and keep its predictions."""

from pathlib import Path

from striate import params, portable
from striate.logbook import record_later
from striate.progress import waiting
from striate.stage import stage


def evaluate(settings: params.Params) -> None:
    """Read models/ and the test images; write predictions/ and metrics/."""
    with waiting("loading PyTorch"):
        from striate import checkpoint, devices, evaluation, images, results

    devices.keep_freed_memory()
    device = devices.pick_device(settings.training.device)
    devices.set_deterministic(True)
    trained = checkpoint.load(Path("models"), device)
    checkpoint.check_fits(trained, images.load_manifest(Path("data")))
    test = images.load_split(Path("data"), "test", device)
    logits = evaluation.predict(
        trained.model, test.images, trained.normalization,
        batch_size=settings.evaluate.batch_size, tta=settings.evaluate.tta, description="test",
    )  # fmt: skip
    labels = test.labels.cpu()
    scores = evaluation.scores(logits, labels)
    confusion = evaluation.confusion_matrix(logits, labels)
    rows = evaluation.per_class_scores(confusion)
    named = [{"class": name} | row for name, row in zip(trained.classes, rows, strict=True)]
    results.write_table(Path("metrics/per_class.csv"), named)
    results.write_predictions(logits.numpy(), labels.numpy(), trained.classes, Path("predictions"))
    results.write_json(Path("metrics/test.json"), scores)
    print(
        f"test accuracy {scores['accuracy']:.2%}: {scores['errors']:,} errors"
        f" in {scores['n']:,} images; loss {scores['loss']:.4f}"
    )


if __name__ == "__main__":
    with stage():
        loaded = params.load()
        portable.use(loaded.training, Path("data"))
        evaluate(loaded)
        record_later()
