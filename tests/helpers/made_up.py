"""Results of an experiment that was never run, for tests of figures, page and model card."""

import numpy as np
import torch
from paths import ROOT

from striate.config import params
from striate.config.recipes import arguments
from striate.evaluation import metrics
from striate.evaluation.predictions import SHOWN_MISTAKES, Mistakes
from striate.evaluation.scores import surest_mistakes
from striate.reporting.results import Results

# Validation 0.24, 0.25, 0.26; test 0.3, 0.3, 0.6.
SEEDS = [
    {"seed": seed, "val_accuracy": 0.24 + seed / 100, "test_accuracy": accuracy}
    for seed, accuracy in enumerate([0.3, 0.3, 0.6])
]
TRAIN = {"train_accuracy": 0.5, "epochs": 2, "kept_epoch": 2, "parameters": 1234}


def made_up_results(classes, train=None, confidence=None, source=None, seeds=(), **changes):
    """Results of 40 test images of 3 classes.

    Args:
        classes: three names.
        train: further metrics of metrics/train.json.
        confidence: temperature and energy of the checkpoint.
        source: who publishes the data.
        seeds: rows of several seeds.
        changes: params, such as `data__name`.
    """
    random = np.random.RandomState(0)
    logits, labels = random.randn(40, 3).astype(np.float32), random.randint(0, 3, 40)
    images = random.rand(40, 3, 8, 8).astype(np.float32)
    flat = params.flatten(params.load(ROOT / "params.yaml").model_dump())
    flat |= {key.replace("__", "."): value for key, value in changes.items()}
    indices = surest_mistakes(logits, labels)[0][:SHOWN_MISTAKES]
    count = len(indices)
    evidence = random.randn(count, 8, 8).astype(np.float32)
    wrong = Mistakes(indices, evidence, random.randint(0, 40, (count, 3)))
    part = {"count": 40, "per_class": [10, 12, 18], "sha256": {"images.npy": "0" * 64}}
    return Results(
        params=flat,
        arguments=arguments(flat),
        hashes={"striate.checkpoint": "0123.dir"},
        manifest={
            "name": flat["data.name"],
            "shape": [1, 8, 8],
            "peak": 16,
            "classes": classes,
            "frame": {"background": "dark", "extent": 0.9},
            "train": part,
            "test": part | {"sha256": {"images.npy": "f" * 64}},
        },
        source=source,
        description={"confidence": confidence},
        train=TRAIN | (train or {}),
        test=metrics.measure(
            metrics.predictions_of(torch.from_numpy(logits), torch.from_numpy(labels))
        ),
        seeds=list(seeds),
        history={"epoch": [1, 2], "train_loss": [1.0, 0.5]},
        train_images=images,
        train_labels=labels,
        images=images,
        labels=labels,
        logits=logits,
        filters={
            name: random.randn(4, 1, 3, 3).astype(np.float32) for name in ("layer1", "layer2")
        },
        feature_maps={"layer1": images[0], "layer2": images[1]},
        attention={},
        mistakes=wrong,
        similar_images=images[wrong.neighbours],
        similar_labels=labels[wrong.neighbours],
        shifted={},
        shifted_examples=np.empty((0, 0, 3, 8, 8), np.float32),
    )
