"""The small files in metrics/."""

import json

import pytest

from striate.data import json_csv
from striate.errors import UserError


def test_metrics_beyond_the_required_ones_may_be_missing(tmp_path):
    path = tmp_path / "test.json"
    values = {"accuracy": 0.5, "n": 4, "another": 1}
    path.write_text(json.dumps(values))
    assert json_csv.read_metrics(path) == values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n": 4}, "accuracy is missing"),
        ({"accuracy": 0.5}, "n is missing"),
        ({"accuracy": 0.5, "n": 4, "ece": None}, "ece is None"),
        ({"accuracy": 0.5, "n": 4, "ece": "low"}, "ece is 'low'"),
        ({"accuracy": True, "n": 4}, "accuracy is True"),
        ({"accuracy": 0.5, "n": 4, "ece": [0.1]}, r"ece is \[0.1\]"),
    ],
)
def test_what_is_no_number_is_refused_by_name(tmp_path, values, said):
    path = tmp_path / "test.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"test.json: {said}; it must be a number"):
        json_csv.read_metrics(path)
