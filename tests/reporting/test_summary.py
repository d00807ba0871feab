"""Which rows may share a column: what each metric was measured against."""

import pytest
from toy_rows import reported_study, score_rows, summary_of

from mixar.reporting.summary import check_same_ground

A, B, C = "a" * 64, "b" * 64, "c" * 64


def two_results(metric, first, second):
    """One metric of two runs whose rows carry these hashes."""
    study = reported_study()
    rows = score_rows(study, "mar", 0, 200.0, hashes=first) + score_rows(study, "dc_mix", 0, 180.0, hashes=second)
    return summary_of(study, rows).column(metric)


@pytest.mark.parametrize(
    ("metric", "first", "second"),
    [
        ("fd", {"reference": A, "statistics": B}, {"reference": A, "statistics": C}),
        ("fd", {"reference": A}, {"reference": A, "statistics": C}),
        ("fd", {"reference": A}, {"reference": B}),
        ("kid", {"reference": A, "statistics": C}, {"reference": B, "statistics": C}),
    ],
)
def test_a_metric_measured_against_something_else_is_another_ground(metric, first, second):
    with pytest.raises(ValueError, match="cannot mix"):
        check_same_ground(two_results(metric, first, second), "a column")


@pytest.mark.parametrize(
    ("metric", "first", "second"),
    [
        ("fd", {"reference": A, "statistics": C}, {"reference": B, "statistics": C}),
        ("fd", {"reference": A, "statistics": C}, {"statistics": C}),
        ("kid", {"reference": A, "statistics": B}, {"reference": A, "statistics": C}),
        ("is", {"reference": A}, {"reference": B}),
    ],
)
def test_what_a_metric_does_not_use_splits_no_column(metric, first, second):
    check_same_ground(two_results(metric, first, second), "a column")  # raises nothing
