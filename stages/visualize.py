"""Draw the data, the curves, the filters and the predictions; write the page that shows them."""

from pathlib import Path

from striate.config import params
from striate.pipeline.stage import stage
from striate.progress import waiting
from striate.tracking.logger import record_later


def visualize(settings: params.Params) -> None:
    """Read what the other stages wrote; write one PNG a picture, the page and the model card."""
    from striate.data import arrays, files, json_csv
    from striate.evaluation import metrics, predictions, scores
    from striate.models import model_json
    from striate.reporting import figures, model_card, report
    from striate.tracking import records

    data = Path("data")
    manifest = arrays.load_manifest(data)
    description = model_json.read(Path("models"))
    model_json.check_fits(description, manifest)
    classes = description["classes"]
    train_pixels, train_labels = arrays.map_split(data, "train")
    test_pixels, labels = arrays.map_split(data, "test")
    logits = predictions.read_logits(Path("predictions"), (len(labels), len(classes)))
    filters, maps = predictions.read_network(Path("predictions"))
    confusion = scores.confusion_matrix(logits, labels)
    calibration = scores.calibration(scores.softmax(logits), labels)
    history = json_csv.read_history(Path("metrics/history.csv"))
    train_indices = report.spread(train_labels, report.SAMPLES)
    train_samples = (
        arrays.scale_to_unit(train_pixels[train_indices], manifest["peak"]),
        train_labels[train_indices],
    )
    shown = arrays.scale_to_unit(test_pixels, manifest["peak"])
    test_indices = report.spread(labels, report.PREDICTIONS)
    test_samples = shown[test_indices], labels[test_indices], logits[test_indices]
    drawn = {
        "samples": figures.samples(*train_samples, classes),
        "curves": figures.learning_curves(history),
        "predictions": figures.predictions(*test_samples, classes),
        "mistakes": figures.confident_mistakes(shown, labels, logits, classes, report.MISTAKES),
        "confusion": figures.confusion_matrix(confusion, classes),
        "calibration": figures.calibration(calibration),
        "feature_maps": figures.feature_maps(shown[0], maps, classes[labels[0]]),
    }
    for name, weight in filters.items():
        drawn[f"filters_{name}"] = figures.filters(weight, name)
    pictures = {name: figures.png(figure) for name, figure in drawn.items()}
    for name, content in pictures.items():
        files.write(Path("reports/figures", f"{name}.png"), content)
    pictures["curves_stacked"] = figures.png(figures.learning_curves(history, stacked=True))
    flat = params.flatten(settings.model_dump())
    measured = {
        name: metrics.read_metrics(Path(f"metrics/{name}.json")) for name in ("train", "test")
    }
    hashes = records.training_identity(flat, Path()) | records.evaluation_identity(flat, Path())
    page = report.page(
        settings, manifest, measured, hashes, pictures, confusion, calibration,
        {
            "samples": report.samples(*train_samples, classes),
            "predictions": report.predictions(*test_samples, classes),
            "mistakes": report.mistakes(shown, labels, logits, classes),
        },
    )  # fmt: skip
    files.write(Path("reports/index.html"), page.encode())
    written = model_card.card(settings, manifest, measured, description, hashes, logits, labels)
    files.write(Path("reports/model_card.md"), written.encode())
    print(
        f"reports/index.html, reports/model_card.md, and {len(drawn)} pictures in reports/figures/"
    )


if __name__ == "__main__":
    with stage():
        with waiting("drawing pictures and the report"):
            visualize(params.load())
        record_later()
