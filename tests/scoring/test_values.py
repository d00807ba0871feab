"""Metrics by their records: which numbers of images they need, and leaving groups out."""

import numpy as np
import pytest
from toy_features import anew, features, settings, stretched
from toy_metrics import mean_shift

from mixar.scoring.catalogue import METRICS, Metric
from mixar.scoring.intervals import jackknife_groups
from mixar.scoring.values import check_sizes, replicates_of

SCORING = settings(jackknife_groups=10)


@pytest.mark.parametrize(
    ("n", "names", "changes", "key"),
    [
        (50, ["kid"], {"kid_subset_size": 60}, "kid_subset_size"),
        (10, ["precision"], {"neighbours": 20}, "neighbours"),
        (10, ["is"], {"is_splits": 12}, "is_splits"),
        (4, ["fd"], {}, "jackknife_groups"),
    ],
)
def test_the_error_about_too_few_images_names_the_setting(n, names, changes, key):
    with pytest.raises(ValueError, match=f"scoring.{key}"):
        check_sizes([METRICS[name] for name in names], features(n), features(100, seed=1), settings(**changes))


def test_references_of_another_width_are_refused():
    with pytest.raises(ValueError, match="one network"):
        check_sizes([METRICS["fd"]], features(50), features(50, width=8), settings())


@pytest.mark.parametrize("metric", ["fd", "precision", "recall"])
def test_leaving_groups_out_equals_computing_again(metric):
    sample, reference = stretched(300), stretched(250, seed=1, shift=0.4)
    groups = jackknife_groups(sample.index, 10)

    found = replicates_of(METRICS[metric], sample, reference, SCORING, groups)

    assert np.allclose(found, anew(metric, sample, reference, groups, SCORING), rtol=0, atol=1e-6)
    assert np.ptp(found) > 0


def test_a_metric_without_a_short_way_is_computed_again_without_each_group():
    sample, reference = stretched(300), stretched(250, seed=1, shift=0.4)
    groups = jackknife_groups(sample.index, 10)

    found = replicates_of(Metric("mine", function="toy_metrics:mean_shift"), sample, reference, SCORING, groups)

    assert np.array_equal(found, [mean_shift(sample.take(groups != g), reference, SCORING) for g in range(10)])
    assert np.ptp(found) > 0
