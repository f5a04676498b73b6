"""Draw the figures; write the page that shows them, and the model card."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # until `stage` can put outputs back
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])

from striate.config import params
from striate.console import waiting
from striate.pipeline.stage import stage
from striate.tracking.logger import record_later

if TYPE_CHECKING:
    from striate.reporting.results import Results

DATA, PREDICTIONS, REPORTS = Path("data"), Path("predictions"), Path("reports")


def read_results(settings: params.Params) -> "Results":
    """Read what the other stages wrote."""
    from striate.config.recipes import arguments
    from striate.data import arrays, json_csv, source
    from striate.evaluation import predictions
    from striate.models import model_json
    from striate.reporting import seeds
    from striate.reporting.results import SAMPLES, Results, spread
    from striate.tracking import records

    manifest = arrays.load_manifest(DATA)
    description = model_json.read(Path("models"))
    model_json.check_fits(description, manifest)
    train_pixels, train_labels = arrays.map_split(DATA, "train")
    pixels, labels = arrays.map_split(DATA, "test")
    inside = predictions.read_network(PREDICTIONS)
    mistakes = predictions.read_mistakes(
        PREDICTIONS, (len(labels), *pixels.shape[2:]), len(train_labels)
    )
    shifted, examples = predictions.read_shifted(PREDICTIONS, pixels.shape[1:])
    samples = spread(train_labels, SAMPLES)
    flat = params.flatten(settings.model_dump())
    train, test = (
        json_csv.read_metrics(Path(f"metrics/{name}.json")) for name in ("train", "test")
    )
    return Results(
        params=flat,
        arguments=arguments(flat),
        hashes=records.training_identity(flat, Path()) | records.evaluation_identity(flat, Path()),
        manifest=manifest,
        source=source.read(DATA),
        description=description,
        train=train,
        test=test,
        seeds=seeds.of_results(seeds.read(Path(seeds.FILE)), seeds.row(settings.seed, train, test)),
        history=json_csv.read_history(Path("metrics/history.csv")),
        train_images=arrays.scale_to_unit(train_pixels[samples], manifest["peak"]),
        train_labels=train_labels[samples],
        images=arrays.scale_to_unit(pixels, manifest["peak"]),
        labels=labels,
        logits=predictions.read_logits(PREDICTIONS, (len(labels), len(manifest["classes"]))),
        mistakes=mistakes,
        similar_images=arrays.scale_to_unit(train_pixels[mistakes.neighbours], manifest["peak"]),
        similar_labels=train_labels[mistakes.neighbours],
        shifted=shifted,
        shifted_examples=arrays.scale_to_unit(examples, manifest["peak"]),
        **inside._asdict(),
    )


def visualize(results: "Results") -> None:
    """Write each figure as a PNG, the page and the model card."""
    from striate.data import files
    from striate.reporting import model_card, report
    from striate.reporting.figures import registry

    drawings = [
        drawing for entry in registry.registered() for drawing in registry.drawings(entry, results)
    ]
    for drawing in drawings:
        files.write(REPORTS / "figures" / f"{drawing.name}.png", drawing.png)
    files.write(REPORTS / "index.html", report.page(results, drawings).encode())
    files.write(REPORTS / "model_card.md", model_card.card(results).encode())
    print(
        f"reports/index.html, reports/model_card.md, and {len(drawings)} figures in"
        " reports/figures/"
    )


if __name__ == "__main__":
    with stage():
        with waiting("drawing pictures and the report"):
            visualize(read_results(params.load()))
        record_later()
