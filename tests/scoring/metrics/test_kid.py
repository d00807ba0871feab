"""The kernel distance: over all pairs, over the library's subsets, and the noise of both."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from toy_features import features, settings, stretched

from mixar.scoring.catalogue import METRICS
from mixar.scoring.features import SEED, FeatureSet
from mixar.scoring.intervals import jackknife, jackknife_groups, standard_error
from mixar.scoring.metrics import kid
from mixar.scoring.values import replicates_of, value_of

SCORING = settings(jackknife_groups=10)


def test_the_kernel_distance_is_near_zero_for_one_distribution_and_grows_with_a_shift():
    reference, scoring = features(400, seed=1), settings(kid_subsets=20, kid_subset_size=100)

    near, far, further = (value_of(METRICS["kid"], features(400, shift=s), reference, scoring) for s in (0, 0.3, 0.6))

    assert abs(near) < 0.05 < far < further


def test_kernel_distances_equal_the_formula_over_all_pairs():
    sample, reference = stretched(120), stretched(100, seed=1, shift=0.4)
    groups = jackknife_groups(sample.index, 10)

    def direct(keep):
        x, y = sample.features[torch.from_numpy(keep)].double(), reference.features.double()
        xx, yy, xy = (((a @ b.T) / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        own = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (xx, yy)]
        return [(sum(own) - 2 * xy.mean()).item()]

    found = kid.kid_of_pairs(sample, reference, groups)

    assert np.allclose(found, jackknife(direct, groups)[:, 0], atol=1e-6)


def test_subsets_of_the_kernel_distance_are_the_librarys_and_leave_in_groups_of_their_own():
    sample, reference = stretched(120), stretched(100, seed=1, shift=0.4)
    groups, scoring = jackknife_groups(sample.index, 10), SCORING.model_copy(update={"kid_subsets": 30})

    subsets = kid.kid_subsets(sample, reference, scoring.kid_subsets, scoring.kid_subset_size)
    found = replicates_of(METRICS["kid"], sample, reference, scoring, groups)

    how = {"kid_subsets": 30, "kid_subset_size": scoring.kid_subset_size, "rng_seed": SEED, "verbose": False}
    by_the_library = kid_features_to_metric(sample.features, reference.features, **how)
    assert value_of(METRICS["kid"], sample, reference, scoring) == by_the_library["kernel_inception_distance_mean"]
    alone = found - kid.kid_of_pairs(sample, reference, groups)
    group_means = subsets.reshape(3, 10).mean(axis=0)
    assert standard_error(alone) == pytest.approx(group_means.std(ddof=1) / np.sqrt(10))


def test_what_two_runs_share_of_the_subsets_noise_cancels_in_their_difference():
    first, reference = stretched(200), stretched(100, seed=1, shift=0.4)
    second = FeatureSet(first.index, first.labels, first.features + 0.01, first.logits)
    groups = jackknife_groups(first.index, 10)

    a, b = (replicates_of(METRICS["kid"], sample, reference, SCORING, groups) for sample in (first, second))

    assert standard_error(a - b) < 0.2 * standard_error(a)


def test_of_many_images_the_kernel_distance_takes_a_part_and_scales_its_spread():
    sample, reference = stretched(4000), stretched(300, seed=1, shift=0.5)
    groups = jackknife_groups(sample.index, 10)
    whole = standard_error(kid.kid_of_pairs(sample, reference, groups))

    part = standard_error(kid.kid_of_pairs(sample, reference, groups, most=1000))

    assert 0.5 * whole < part < 2 * whole
