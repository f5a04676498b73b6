"""Values in, a model card out: the page that goes with a network wherever it is published.

In the layout of M. Mitchell et al., "Model Cards for Model Reporting", arXiv:1810.03993, and of the
Hugging Face Hub, which reads the front matter.
"""

from __future__ import annotations

import re
from shlex import quote
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from striate.config.params import Params, flatten
from striate.config.recipes import arguments
from striate.data.splits import held_out_count
from striate.datasets.registry import DATASETS
from striate.evaluation import scores as metrics
from striate.models import model_json
from striate.reporting.report import class_rows, epochs, interval, percent

DRAWS = 1000  # resamples of the confusion matrix


def card(
    settings: Params,
    manifest: dict[str, Any],
    scores: dict[str, dict[str, float]],
    description: dict[str, Any],
    hashes: dict[str, str],
    logits: np.ndarray,
    labels: np.ndarray,
) -> str:
    """The card of one experiment, in Markdown.

    Args:
        settings: all of params.yaml.
        manifest: of the data.
        scores: what metrics/train.json and metrics/test.json hold, as `train` and `test`.
        description: of the checkpoint.
        hashes: by name, of what this network is made from and consists of.
        logits: of the test images, (N, classes).
        labels: their classes, (N,).
    """
    train, test = scores["train"], scores["test"]
    name, model = settings.data.name, settings.model
    confusion = metrics.confusion_matrix(logits, labels)
    classes = [escaped(name) for name in manifest["classes"]]
    n, hits = int(test["n"]), int(np.trace(confusion))
    environment = Environment(
        loader=PackageLoader("striate.reporting"), undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  it is no HTML
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    entry = DATASETS.get(name)
    validated = held_out_count(manifest["train"]["count"], settings.data.val_size)
    return environment.get_template("model_card.md.j2").render(
        front=yaml.safe_dump(front_matter(name, model.arch, test), sort_keys=False).strip(),
        name=name, settings=settings, train=train, test=test, manifest=manifest,
        classes=classes, entry=entry, validated=validated,
        learnt=manifest["train"]["count"] - validated, epochs=epochs(train["epochs"]),
        validation_interval=interval(round(train.get("val_accuracy", 0) * validated), validated),
        accuracy=percent(test["accuracy"]), accuracy_interval=interval(hits, n),
        loss_interval="{:.4f} to {:.4f}".format(*loss_interval(logits, labels)),
        f1_interval="{:.4f} to {:.4f}".format(*f1_interval(confusion)),
        rows=[row | {"name": escaped(row["name"])} for row in
              class_rows(metrics.per_class_scores(confusion), confusion, manifest["classes"])],
        confidence=description["confidence"], false_alarms=model_json.FALSE_ALARMS,
        least=model_json.LEAST_IMAGES,
        trusted=trusted(description["confidence"], logits, labels), hashes=hashes,
        arguments=" ".join(map(quote, arguments(flatten(settings.model_dump())))), percent=percent,
    )  # fmt: skip


def front_matter(name: str, arch: str, test: dict[str, float]) -> dict[str, Any]:
    """What the Hugging Face Hub reads of a card."""
    measured = [
        {"type": "accuracy", "value": test["accuracy"]},
        {"type": "f1", "name": "macro F1", "value": test["macro_f1"]},
        {"type": "loss", "name": "cross-entropy in nats", "value": test["loss"]},
    ]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": name, "type": name, "split": "test"},
        "metrics": measured,
    }
    return {
        "license": "unknown",
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["striate", arch],
        "datasets": [name],
        "metrics": ["accuracy", "f1"],
        "model-index": [{"name": f"striate-{name}", "results": [result]}],
    }


def trusted(
    confidence: dict[str, float] | None, logits: np.ndarray, labels: np.ndarray
) -> dict[str, str]:
    """What the calibration and the flag, which validation images gave, do on the test images."""
    if confidence is None:
        return {}
    probabilities = metrics.softmax(logits.astype(np.float64) / confidence["temperature"])
    flagged = metrics.energy(logits) > confidence["energy"]
    return {
        "ece": percent(metrics.expected_calibration_error(probabilities, labels)),
        "flagged": percent(float(flagged.mean())),
    }


def loss_interval(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean cross-entropy, by the central limit theorem."""
    losses = metrics.losses(logits, labels)
    mean = float(losses.mean())
    reach = metrics.Z * float(losses.std()) / len(losses) ** 0.5
    return max(mean - reach, 0.0), mean + reach


def f1_interval(confusion: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the macro F1, from resamples of the test images by a fixed seed."""
    total = int(confusion.sum())
    draws = np.random.RandomState(0).multinomial(total, confusion.ravel() / total, DRAWS)
    drawn = draws.reshape(-1, *confusion.shape)
    hits = np.diagonal(drawn, axis1=1, axis2=2)
    f1 = 2 * hits / np.maximum(drawn.sum(1) + drawn.sum(2), 1)
    low, high = np.quantile(f1.mean(1), [0.025, 0.975])
    return float(low), float(high)


def escaped(text: str) -> str:
    """A name as Markdown shows it, in a table, too."""
    return re.sub(r"([\\`*_{}\[\]<>()#+|!~])", r"\\\1", " ".join(text.split()))
