"""Scores against scikit-learn and against numbers worked out by hand."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn import metrics as reference

from striate.errors import UserError
from striate.evaluation import metrics, scores
from striate.models import calibration, prediction


@pytest.fixture
def predictions():
    random = np.random.RandomState(0)
    labels = random.randint(0, 5, 500)
    logits = random.randn(500, 5).astype(np.float32)
    logits[np.arange(500), labels] += 1.5
    return torch.from_numpy(logits), torch.from_numpy(labels)


def test_scores_are_those_of_scikit_learn(predictions):
    logits, labels = predictions
    truth, guess = labels.numpy(), logits.argmax(1).numpy()
    ours = metrics.measure(metrics.predictions_of(logits, labels))
    assert ours["accuracy"] == reference.accuracy_score(truth, guess)
    assert ours["macro_f1"] == pytest.approx(reference.f1_score(truth, guess, average="macro"))
    assert ours["loss"] == pytest.approx(reference.log_loss(truth, logits.double().softmax(1)))
    assert ours["errors"] == (truth != guess).sum()
    assert ours["n"] == 500
    confusion = scores.confusion_matrix(logits.numpy(), truth)
    assert (confusion == reference.confusion_matrix(truth, guess)).all()
    table = reference.precision_recall_fscore_support(truth, guess)
    for row, precision, recall, f1, support in zip(
        scores.per_class_scores(confusion), *table, strict=True
    ):
        assert row == pytest.approx(
            {"precision": precision, "recall": recall, "f1": f1, "support": support}
        )


def test_metrics_come_in_order_as_plain_numbers_and_older_files_show_a_dash(
    predictions, monkeypatch
):
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))

    @metrics.metric("the smallest label", "d", note="a scalar of NumPy")
    def smallest(predictions):
        return predictions.labels.min()

    values = metrics.measure(metrics.predictions_of(*predictions))
    assert list(values) == ["accuracy", "loss", "macro_f1", "ece", "errors", "n", "smallest"]
    assert {type(value) for value in values.values()} == {int, float}
    entry = metrics.METRICS["smallest"]
    assert metrics.others(values)[-1] is entry
    assert entry.shown(values) == "0"
    assert entry.shown({"accuracy": 0.5}) == "–"


def measured(labels, classes, spread=1.5):
    """Metrics of noisy logits for these labels, and what they are measured on."""
    random = np.random.RandomState(1)
    logits = random.randn(len(labels), classes).astype(np.float32)
    logits[np.arange(len(labels)), labels] += spread
    both = torch.from_numpy(logits), torch.from_numpy(labels)
    return metrics.measure(metrics.predictions_of(*both)), logits


def test_balanced_accuracy_is_that_of_scikit_learn_where_classes_are_unequal():
    labels = np.repeat([0, 1, 2], [300, 40, 7])
    values, logits = measured(labels, 3)
    expected = reference.balanced_accuracy_score(labels, logits.argmax(1))
    assert values["balanced_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert abs(values["balanced_accuracy"] - values["accuracy"]) > 0.01
    assert "top5_accuracy" not in values


@pytest.mark.parametrize(("sizes", "shown"), [([20, 20], False), ([20, 10], False),
                                              ([21, 10], True), ([3, 1], True)])  # fmt: skip
def test_balanced_accuracy_is_measured_from_more_than_twice_as_many_images(sizes, shown):
    values, _ = measured(np.repeat([0, 1], sizes), 2)
    assert ("balanced_accuracy" in values) == shown


def test_a_class_without_images_is_no_part_of_the_mean_recall():
    assert scores.mean_recall(np.array([[3, 1, 0], [0, 1, 1], [0, 0, 0]])) == 0.625


def test_top_5_is_that_of_scikit_learn_from_eleven_classes_on():
    labels = np.arange(600) % 12
    values, logits = measured(labels, 12)
    expected = reference.top_k_accuracy_score(labels, logits, k=5)
    assert values["top5_accuracy"] == pytest.approx(expected, abs=1e-12)
    assert values["accuracy"] < values["top5_accuracy"] < 1
    assert "balanced_accuracy" not in values
    assert "top5_accuracy" in measured(np.arange(110) % 11, 11)[0]
    assert "top5_accuracy" not in measured(np.arange(100) % 10, 10)[0]


def test_of_equal_logits_the_first_five_are_the_likeliest():
    labels = np.array([0, 4, 5, 11])
    same = torch.zeros(4, 12), torch.from_numpy(labels)
    values = metrics.measure(metrics.predictions_of(*same))
    assert (values["accuracy"], values["top5_accuracy"]) == (0.25, 0.5)


def test_metrics_that_mean_nothing_here_are_left_out_of_the_tables_of_one_experiment():
    everywhere = ["loss", "macro_f1", "ece"]
    assert [metric.key for metric in metrics.others({})] == everywhere
    values, _ = measured(np.repeat(np.arange(11), [50, *[5] * 10]), 11)
    shown = [metric.key for metric in metrics.others(values)]
    assert shown == ["loss", "macro_f1", "balanced_accuracy", "top5_accuracy", "ece"]


def test_metrics_are_known_without_torch():
    code = "import sys, striate.evaluation.metrics; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_class_that_is_never_predicted_or_never_there_scores_0():
    rows = scores.per_class_scores(np.array([[2, 0, 0], [1, 0, 0], [0, 0, 0]]))
    assert rows[1] == {"precision": 0, "recall": 0, "f1": 0, "support": 1}
    assert rows[2] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}


def test_calibration_error_of_three_images_by_hand():
    # Confidences 0.9 (right), 0.9 (wrong) and 0.6 (right): gaps |1 - 1.8| and |1 - 0.6|.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    error = scores.expected_calibration_error(probabilities, np.array([0, 1, 1]))
    assert error == pytest.approx((0.8 + 0.4) / 3)


def test_loss_is_divided_once_whatever_the_batches():
    class Lookup(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1)

    pixels = torch.randint(0, 256, (50, 1, 1, 10), dtype=torch.uint8)
    labels = torch.arange(50) % 10
    whole, parts = (
        prediction.predict(Lookup(), pixels, lambda x: x / 255, batch_size=size)
        for size in (50, 48)
    )
    assert torch.equal(whole, parts)
    assert prediction.mean_loss(whole, labels) == prediction.mean_loss(parts, labels)


def test_predict_uses_evaluation_mode_and_leaves_no_gradient():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5)).train()
    pixels = torch.ones(3, 1, 2, 5, dtype=torch.uint8)
    logits = prediction.predict(model, pixels, lambda x: x.float(), batch_size=2)
    assert torch.equal(logits, torch.ones(3, 10))
    assert not logits.requires_grad


def test_augmented_views_weigh_1_together_and_show_what_they_say():
    inputs = torch.rand(2, 3, 5, 6)
    for tta, count in (("none", 1), ("flip", 2), ("translate", 3), ("flip_translate", 6)):
        found = list(prediction.views(inputs, tta))
        assert len(found) == count
        assert sum(weight for _, weight in found) == 1
        assert all(view.shape == inputs.shape for view, _ in found)
        assert torch.equal(found[0][0], inputs)
    views = [view for view, _ in prediction.views(inputs, "flip_translate")]
    assert torch.equal(views[1], inputs.flip(3))
    assert torch.equal(views[2][:, :, 1:, 1:], inputs[:, :, :-1, :-1])
    assert torch.equal(views[4][:, :, :-1, :-1], inputs[:, :, 1:, 1:])
    weights = [weight for _, weight in prediction.views(inputs, "flip_translate")]
    assert weights == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]


def test_test_time_augmentation_is_the_mean_of_the_logits():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    images = torch.randint(0, 256, (7, 1, 4, 4), dtype=torch.uint8)
    arguments = {"normalize": torch.Tensor.float, "batch_size": 3}
    both = prediction.predict(model, images, **arguments, tta="flip")
    plain, mirrored = (
        prediction.predict(model, some, **arguments) for some in (images, images.flip(3))
    )
    torch.testing.assert_close(both, (plain + mirrored) / 2)


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (10, 10), (1, 3), (350, 360), (9971, 10000)])
def test_wilsons_interval_is_that_of_scipy(hits, total):
    expected = stats.binomtest(hits, total).proportion_ci(method="wilson")
    assert scores.wilson(hits, total) == pytest.approx(tuple(expected), abs=1e-6)


def test_of_no_images_nothing_is_known():
    assert scores.wilson(0, 0) == (0, 1)


def test_the_calibration_error_follows_from_the_bins(predictions):
    logits, labels = (values.numpy() for values in predictions)
    probabilities = scores.softmax(logits)
    rows = scores.calibration(probabilities, labels)
    assert sum(row["count"] for row in rows) == 500
    gap = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / 500
    assert gap == pytest.approx(scores.expected_calibration_error(probabilities, labels))
    sureness = [row["confidence"] for row in rows]
    assert sureness == sorted(sureness)


def test_surest_mistakes_come_first_with_their_probability(predictions):
    logits, labels = (values.numpy() for values in predictions)
    where, probability = scores.surest_mistakes(logits, labels)
    assert set(where) == set(np.flatnonzero(logits.argmax(1) != labels))
    softmax = predictions[0].double().softmax(1).max(1).values.numpy()
    assert probability == pytest.approx(softmax[where])
    assert (np.diff(probability) <= 0).all()
    none, empty = scores.surest_mistakes(logits, logits.argmax(1))
    assert len(none) == len(empty) == 0


def test_the_temperature_is_where_the_loss_is_least(predictions):
    logits, labels = predictions
    found = calibration.temperature(logits, labels)
    best = optimize.minimize_scalar(
        lambda power: prediction.mean_loss(logits / 2**power, labels), bounds=(-6, 6),
        method="bounded", options={"xatol": 1e-9},
    )  # fmt: skip
    assert found == pytest.approx(2**best.x, rel=1e-4)
    # Logits that are twice as sure need twice the temperature.
    assert calibration.temperature(2 * logits, labels) == pytest.approx(2 * found, rel=1e-6)


def test_the_temperature_has_bounds_where_everything_is_right_or_nothing_is_known():
    labels = torch.tensor([0, 1])
    assert calibration.temperature(torch.eye(2), labels) == pytest.approx(0.01)
    assert calibration.temperature(-torch.eye(2), labels) == pytest.approx(100)


def test_the_threshold_leaves_one_in_twenty_above(predictions):
    logits, labels = predictions
    found = calibration.confidence(logits, labels)
    above = -torch.logsumexp(logits.double(), 1) > found["energy"]
    assert int(above.sum()) == 25  # of 500
    assert found["temperature"] == calibration.temperature(logits, labels)


def test_a_few_images_calibrate_nothing(predictions):
    logits, labels = predictions
    assert calibration.confidence(logits[:99], labels[:99]) is None
    assert calibration.confidence(logits[:100], labels[:100]) is not None


def test_what_numpy_computes_is_what_pytorch_computes(predictions):
    logits, labels = predictions
    double = logits.double()
    for ours, theirs in (
        (scores.softmax(logits.numpy()), double.softmax(1)),
        (scores.energy(logits.numpy()), calibration.energy(logits)),
        (
            scores.losses(logits.numpy(), labels.numpy()),
            torch.nn.functional.cross_entropy(double, labels, reduction="none"),
        ),
    ):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-12, atol=1e-12)
    huge = np.array([[-1e5, 1e5]])
    assert scores.softmax(huge).tolist() == [[0, 1]]
    assert scores.losses(huge, np.array([0])).tolist() == [2e5]


def test_a_metric_of_an_unknown_direction_or_without_a_value_is_refused(predictions, monkeypatch):
    with pytest.raises(ValueError, match="better is 'hgher'; it must be higher, lower or None"):
        metrics.metric("label", ".2%", "hgher")
    monkeypatch.setattr(metrics, "METRICS", {})
    metrics.metric("label", ".2%", "higher")(lambda found: float("nan"))
    with pytest.raises(UserError, match="metric <lambda> is nan; a metric must be a finite"):
        metrics.measure(metrics.predictions_of(*predictions))
