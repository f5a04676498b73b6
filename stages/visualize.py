"""Draw the data, the curves, the filters and the predictions; write the page that shows them."""

from pathlib import Path

from striate import params, portable
from striate.logbook import record_later
from striate.progress import waiting
from striate.stage import stage


def visualize(settings: params.Params) -> None:
    """Read what the other stages wrote; write one PNG a picture, the page and the model card."""
    import torch

    from striate import (
        card,
        checkpoint,
        evaluation,
        figures,
        files,
        images,
        models,
        records,
        report,
        results,
        stored,
    )  # fmt: skip

    trained = checkpoint.load(Path("models"), torch.device("cpu"))
    classes = trained.classes
    train = stored.load(Path("data"), "train", torch.device("cpu"))
    test = images.load_split(Path("data"), "test", torch.device("cpu"))
    manifest = images.load_manifest(Path("data"))
    checkpoint.check_fits(trained, manifest)
    logits = results.read_logits(Path("predictions"), (len(test.labels), len(classes)))
    confusion = evaluation.confusion_matrix(torch.from_numpy(logits), test.labels)
    calibration = evaluation.calibration(torch.from_numpy(logits), test.labels)
    history = results.read_history(Path("metrics/history.csv"))
    train_indices = torch.from_numpy(report.spread(train.labels.numpy(), report.SAMPLES))
    train_samples = (
        images.displayed(train.images[train_indices].read(), manifest["peak"]),
        train.labels[train_indices].numpy(),
    )
    shown, labels = images.displayed(test.images, manifest["peak"]), test.labels.numpy()
    test_indices = report.spread(labels, report.PREDICTIONS)
    test_samples = shown[test_indices], labels[test_indices], logits[test_indices]
    maps = models.feature_maps(trained.model, trained.normalization(test.images[:1]))
    drawn = {
        "samples": figures.samples(*train_samples, classes),
        "curves": figures.learning_curves(history),
        "predictions": figures.predictions(*test_samples, classes),
        "mistakes": figures.confident_mistakes(shown, labels, logits, classes, report.MISTAKES),
        "confusion": figures.confusion_matrix(confusion, classes),
        "calibration": figures.calibration(calibration),
        "feature_maps": figures.feature_maps(
            shown[0], {name: value[0].numpy() for name, value in maps.items()}, classes[labels[0]]
        ),
    }
    for name, weight in models.filters(trained.model).items():
        drawn[f"filters_{name}"] = figures.filters(weight.numpy(), name)
    pictures = {name: figures.png(figure) for name, figure in drawn.items()}
    for name, content in pictures.items():
        files.write(Path("reports/figures", f"{name}.png"), content)
    pictures["curves_stacked"] = figures.png(figures.learning_curves(history, stacked=True))
    flat = params.flatten(settings.model_dump())
    scores = {
        name: results.read_metrics(Path(f"metrics/{name}.json")) for name in ("train", "test")
    }
    hashes = records.training_identity(flat, Path()) | records.evaluation_identity(flat, Path())
    page = report.page(
        settings, manifest, scores, hashes, pictures, confusion, calibration,
        {
            "samples": report.samples(*train_samples, classes),
            "predictions": report.predictions(*test_samples, classes),
            "mistakes": report.mistakes(shown, labels, logits, classes),
        },
    )  # fmt: skip
    files.write(Path("reports/index.html"), page.encode())
    written = card.card(
        settings, manifest, scores, trained.description, hashes,
        torch.from_numpy(logits), test.labels,
    )  # fmt: skip
    files.write(Path("reports/model_card.md"), written.encode())
    print(
        f"reports/index.html, reports/model_card.md, and {len(drawn)} pictures in reports/figures/"
    )


if __name__ == "__main__":
    with stage():
        loaded = params.load()
        portable.use(loaded.training, Path("data"))
        with waiting("drawing pictures and the report"):
            visualize(loaded)
        record_later()
