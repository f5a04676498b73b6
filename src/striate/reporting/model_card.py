"""The model card: a page in Markdown that goes with the network wherever it is published.

In the layout of M. Mitchell et al., "Model Cards for Model Reporting", arXiv:1810.03993, and of the
Hugging Face Hub, which reads the front matter.
"""

from __future__ import annotations

import re
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import yaml

from striate.data.json_csv import MISSING
from striate.evaluation import scores
from striate.evaluation.metrics import METRICS, others
from striate.models import defaults, model_json
from striate.reporting.html import environment
from striate.reporting.numbers import epochs, interval, percent
from striate.reporting.report import class_rows, seeds_sentence
from striate.reporting.results import Results

DRAWS = 1000  # resamples of the confusion matrix


def card(results: Results) -> str:
    """The card of one experiment, in Markdown."""
    train, test, params = results.train, results.test, results.params
    confusion, confidence = results.confusion, results.description["confidence"]
    validated = results.validation_count
    front = front_matter(params["data.name"], params["model.arch"], test)
    begun_with = weights_sentence(params["training.init_from"], results.description)
    return (
        environment(escape=False)
        .get_template("model_card.md.j2")
        .render(
            front=yaml.safe_dump(front, sort_keys=False).strip(),
            kind=results.config.kind,
            params=params,
            layers=results.layers,
            train=train,
            test=test,
            manifest=results.manifest,
            source=results.source,
            begun_with=begun_with,
            classes=[escaped(name) for name in results.classes],
            validated=validated,
            train_count=results.train_count,
            epochs=epochs(train["epochs"]),
            validation_interval=interval(
                round(train.get("val_accuracy", 0) * validated), validated
            ),
            spread=seeds_sentence(results) if results.means else "",
            metrics=metric_rows(results),
            rows=[
                row | {"name": escaped(row["name"])}
                for row in class_rows(
                    confusion, results.classes, results.manifest["train"]["per_class"]
                )
            ],
            confidence=confidence,
            false_alarms=model_json.FALSE_ALARMS,
            least=model_json.LEAST_IMAGES,
            on_test=on_test(confidence, results.logits, results.labels),
            hashes=results.hashes,
            arguments=" ".join(map(quote, results.arguments)),
            percent=percent,
        )
    )


def weights_sentence(init_from: str, description: dict[str, Any]) -> str:
    """The weights that training began with, and their licence; nothing for random ones.

    Args:
        init_from: `training.init_from`.
        description: of the checkpoint.
    """
    if Path(init_from) == defaults.RANDOM:
        return ""
    said = f"Training began with the weights in {escaped(init_from)}"
    note = description.get(model_json.BEGUN_WITH)
    if note is None:
        return f"{said}, whose licence applies to these, too."
    arch, source = escaped(note["arch"]), note["source"]
    source = f"<{source}>" if source.startswith("https://") else f"the file {escaped(source)}"
    licence = note.get("license")
    stated = f"is {escaped(licence)}, as timm states" if licence else "is not known here"
    return (
        f"{said}, which come from those of {arch}, {source}. Their licence {stated}, and applies to"
        " these weights, too."
    )


def _from_to(bounds: tuple[float, float]) -> str:
    return "{:.4f} to {:.4f}".format(*bounds)


def metric_rows(results: Results) -> list[tuple[str, str, str]]:
    """The table of metrics: name, value, and 95 % interval (– where none is known)."""
    confusion = results.confusion
    known = {  # by key: the full name, and the interval
        "accuracy": (
            "accuracy (Wilson)",
            interval(int(np.trace(confusion)), len(results.labels)),
        ),
        "loss": (
            "cross-entropy in nats (normal)",
            _from_to(loss_interval(results.logits, results.labels)),
        ),
        "macro_f1": ("macro F1 (bootstrap)", _from_to(f1_interval(confusion))),
        "ece": ("expected calibration error", MISSING),
    }
    if "balanced_accuracy" in results.test:
        low, high = (f"{100 * bound:.2f}" for bound in mean_recall_interval(confusion))
        known["balanced_accuracy"] = "balanced accuracy (bootstrap)", f"{low} to {high}%"
    if "top5_accuracy" in results.test:
        hits = round(results.test["top5_accuracy"] * len(results.labels))
        known["top5_accuracy"] = "top-5 accuracy (Wilson)", interval(hits, len(results.labels))
    rows = []
    for metric in [METRICS["accuracy"], *others(results.test)]:
        name, bounds = known.get(metric.key, (metric.label, MISSING))
        rows.append((name, metric.shown(results.test), bounds))
    return rows


def front_matter(name: str, arch: str, test: dict[str, float]) -> dict[str, Any]:
    """The front matter, which the Hugging Face Hub reads."""
    types = {
        "accuracy": {"type": "accuracy"},
        "macro_f1": {"type": "f1", "name": "macro F1"},
        "loss": {"type": "loss", "name": "cross-entropy in nats"},
    }
    measured = [entry | {"value": test[key]} for key, entry in types.items() if key in test]
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


def on_test(
    confidence: dict[str, float] | None, logits: np.ndarray, labels: np.ndarray
) -> dict[str, str]:
    """How the temperature and the out-of-distribution flag do on the test set.

    Both were fitted on the validation set; without them, nothing.
    """
    if confidence is None:
        return {}
    probabilities = scores.softmax(logits.astype(np.float64) / confidence["temperature"])
    flagged = scores.energy(logits) > confidence["energy"]
    return {
        "ece": percent(scores.expected_calibration_error(probabilities, labels)),
        "flagged": percent(float(flagged.mean())),
    }


def loss_interval(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean cross-entropy, by the central limit theorem."""
    losses = scores.losses(logits, labels)
    mean = float(losses.mean())
    reach = scores.Z * float(losses.std()) / len(losses) ** 0.5
    return max(mean - reach, 0.0), mean + reach


def f1_interval(confusion: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the macro F1: bootstrap over test images, with a fixed seed."""
    drawn = _resampled(confusion)
    hits = np.diagonal(drawn, axis1=1, axis2=2)
    f1 = 2 * hits / np.maximum(drawn.sum(1) + drawn.sum(2), 1)
    return _middle(f1.mean(1))


def mean_recall_interval(confusion: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the balanced accuracy, likewise."""
    return _middle(scores.mean_recall(_resampled(confusion)))


def _resampled(confusion: np.ndarray) -> np.ndarray:
    """Confusion matrices of test images drawn with replacement, (DRAWS, classes, classes)."""
    total = int(confusion.sum())
    draws = np.random.RandomState(0).multinomial(total, confusion.ravel() / total, DRAWS)
    return draws.reshape(-1, *confusion.shape)


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def escaped(text: str) -> str:
    """A name for Markdown, also for a cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>()#+|!~])", r"\\\1", " ".join(text.split()))
