"""The Inception Score: its ends, its splits, and leaving groups out."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from toy_features import anew, features, settings, stretched

from mixar.scoring.catalogue import METRICS
from mixar.scoring.features import FeatureSet
from mixar.scoring.intervals import jackknife_groups, standard_error
from mixar.scoring.values import replicates_of, value_of

SCORING = settings(jackknife_groups=10)


def test_uniform_logits_score_one_and_sure_balanced_ones_the_number_of_classes():
    n, sure = 60, 50 * torch.nn.functional.one_hot(torch.arange(60) % 4, 4).float()
    flat = FeatureSet(np.arange(n), np.zeros(n), torch.zeros(n, 2), torch.zeros(n, 4))
    peaked = FeatureSet(np.arange(n), np.zeros(n), torch.zeros(n, 2), sure)

    assert value_of(METRICS["is"], flat, flat, settings(is_splits=1)) == pytest.approx(1)
    assert value_of(METRICS["is"], peaked, peaked, settings(is_splits=1)) == pytest.approx(4, rel=1e-6)


def test_class_sorted_images_score_as_high_as_shuffled_ones():
    n, classes = 400, 8
    labels = np.arange(n) * classes // n  # as MAR writes its files
    sure = 50 * torch.nn.functional.one_hot(torch.from_numpy(labels), classes).float()
    in_order = FeatureSet(np.arange(n), labels, torch.zeros(n, 2), sure)
    scoring = settings(is_splits=8)

    assert value_of(METRICS["is"], in_order, in_order, scoring) > 0.9 * classes
    assert isc_features_to_metric(sure, splits=8, shuffle=False)[KEY_METRIC_ISC_MEAN] == pytest.approx(1)  # the trap


def test_the_score_rises_with_fewer_splits_as_published_ones_do():
    sample = features(200, classes=10, seed=3)

    values = [value_of(METRICS["is"], sample, sample, settings(is_splits=splits)) for splits in (1, 5, 10, 20)]

    assert values == sorted(values, reverse=True) and values[0] > 1.03 * values[-1]


def test_inception_scores_differ_from_those_computed_again_only_by_where_splits_are_cut():
    sample = stretched(600, classes=6)
    groups = jackknife_groups(sample.index, 10)

    found, exact = (
        replicates_of(METRICS["is"], sample, sample, SCORING, groups),
        anew("is", sample, sample, groups, SCORING),
    )

    assert np.allclose(found, exact, atol=0.02 * value_of(METRICS["is"], sample, sample, SCORING))
    assert standard_error(found) == pytest.approx(standard_error(exact), rel=0.25)
