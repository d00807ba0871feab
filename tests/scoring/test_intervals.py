"""Jackknife intervals against classical ones, and the groups of images that leave together."""

import numpy as np
import pytest
from scipy import stats

from mixar.scoring.intervals import interval, jackknife, jackknife_groups, spread, standard_error


def test_the_interval_of_a_mean_equals_the_classical_one():
    x = np.random.default_rng(0).normal(3, 2, 40)
    groups = jackknife_groups(np.arange(40), 40)

    found = interval(x.mean(), jackknife(lambda keep: x[keep].mean(), groups)[:, 0])

    reach = stats.t.ppf(0.975, 39) * x.std(ddof=1) / np.sqrt(40)
    assert found.value == x.mean()
    assert (found.low, found.high) == pytest.approx((x.mean() - reach, x.mean() + reach))


def test_with_groups_it_is_the_classical_interval_of_the_group_means():
    x = np.random.default_rng(1).normal(size=60)
    groups = jackknife_groups(np.arange(60), 6)

    error = standard_error(jackknife(lambda keep: x[keep].mean(), groups))[0]

    means = [x[groups == g].mean() for g in range(6)]
    assert error == pytest.approx(np.std(means, ddof=1) / np.sqrt(6))


def test_the_value_is_the_plain_estimate_even_where_the_replicates_are_biased():
    found = interval(5.0, np.array([7.0, 8.0, 9.0]))

    assert found.value == 5.0
    assert found.high - 5.0 == pytest.approx(5.0 - found.low)


def test_an_interval_is_cut_where_the_quantity_ends():
    found = interval(0.1, np.array([0.0, 0.1, 0.2]), bounds=(0, 1))

    assert found.low == 0 and found.high < 1


def test_groups_have_equal_sizes_and_every_class_is_spread_over_them():
    labels = np.repeat(np.arange(5), 20)

    groups = jackknife_groups(np.arange(100), 10, labels)

    assert np.bincount(groups).tolist() == [10] * 10
    for label in range(5):
        assert np.bincount(groups[labels == label], minlength=10).tolist() == [2] * 10


def test_groups_follow_the_index_and_not_the_order_of_rows():
    index, shuffled = np.arange(30) * 3, np.random.default_rng(0).permutation(30)

    groups, same = jackknife_groups(index, 7), jackknife_groups(index[shuffled], 7)

    assert np.array_equal(groups[shuffled], same)
    assert not np.array_equal(groups, index // 3 % 7), "groups must not follow the order in which images were drawn"


def test_fewer_images_than_groups_are_refused():
    with pytest.raises(ValueError, match="scoring.jackknife_groups"):
        jackknife_groups(np.arange(3), 4)


def test_spread_over_seeds_is_mean_and_sample_deviation_and_one_seed_has_none():
    assert spread([1.0, 3.0]) == (2.0, pytest.approx(np.sqrt(2)))
    assert spread([1.5]) == (1.5, None)
