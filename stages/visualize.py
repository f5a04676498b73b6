"""Draw the data, the curves, the filters and the predictions."""

from pathlib import Path

from striate import params
from striate.logbook import Logbook, logbook
from striate.stage import stage


def visualize(settings: params.Params, log: Logbook) -> None:
    """Read what the other stages wrote; write one PNG a picture."""
    # Imported while the tracking process loads MLflow beside this one.
    import torch

    from striate import checkpoint, evaluation, figures, images, models, results

    trained = checkpoint.load(Path("models"), torch.device("cpu"))
    classes = trained.classes
    train, test = (
        images.load_split(Path("data"), part, torch.device("cpu")) for part in ("train", "test")
    )
    checkpoint.check_fits(trained, images.load_manifest(Path("data")))
    logits = results.read_logits(Path("predictions"), (len(test.labels), len(classes)))
    confusion = evaluation.confusion_matrix(torch.from_numpy(logits), test.labels)
    shown, labels = images.displayed(test.images, trained.normalization), test.labels.numpy()
    maps = models.feature_maps(trained.model, trained.normalization(test.images[:1]))
    drawn = {
        "samples": figures.samples(
            images.displayed(train.images[:36], trained.normalization), train.labels[:36], classes
        ),
        "curves": figures.learning_curves(results.read_history(Path("metrics/history.csv"))),
        "predictions": figures.predictions(shown, labels, logits, classes),
        "mistakes": figures.confident_mistakes(shown, labels, logits, classes),
        "confusion": figures.confusion_matrix(confusion, classes),
        "feature_maps": figures.feature_maps(
            shown[0], {name: value[0].numpy() for name, value in maps.items()}, classes[labels[0]]
        ),
    }
    for name, weight in models.filters(trained.model).items():
        drawn[f"filters_{name}"] = figures.filters(weight.numpy(), name)
    folder = Path("reports/figures")
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figures.save(figure, folder / f"{name}.png")
    print(f"{len(drawn)} pictures in reports/figures/")
    log.visualized(params.flatten(settings.model_dump()))


if __name__ == "__main__":
    with stage():
        loaded = params.load()
        with logbook() as opened:
            visualize(loaded, opened)
