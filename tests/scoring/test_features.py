"""Sets of features: parts merged in any order, and what is refused."""

import numpy as np
import pytest
import torch
from toy_features import features

from mixar.scoring.features import FeatureSet, merge


def test_parts_merge_to_the_same_set_in_every_order():
    whole = features(30)
    parts = [
        (whole.index[s], whole.labels[s], whole.features[s], whole.logits[s])
        for s in (slice(0, 7), slice(7, 20), slice(20, 30))
    ]

    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        merged = merge([parts[i] for i in order])

        assert np.array_equal(merged.index, whole.index) and np.array_equal(merged.labels, whole.labels)
        assert torch.equal(merged.features, whole.features) and torch.equal(merged.logits, whole.logits)


def test_a_subset_keeps_the_order_in_which_splits_are_cut():
    whole = features(40)
    keep = np.arange(40) % 4 != 0

    part = whole.take(keep)

    assert part.index[part.walk].tolist() == [i for i in whole.walk if keep[i]]


def test_features_that_are_not_finite_are_named_by_their_image():
    values = torch.zeros(3, 2)
    values[1, 0] = float("nan")

    with pytest.raises(ValueError, match="image 11"):
        FeatureSet(np.array([10, 11, 12]), np.zeros(3), values, torch.zeros(3, 2))


def test_an_index_that_occurs_twice_is_refused():
    one = (np.array([3]), np.array([0]), torch.zeros(1, 2), torch.zeros(1, 2))

    with pytest.raises(ValueError, match="index 3 occurs twice"):
        merge([one, one])


def test_parts_of_two_networks_are_refused():
    wide, narrow = ((np.array([i]), np.array([0]), torch.zeros(1, w), torch.zeros(1, 2)) for i, w in ((0, 4), (1, 2)))

    with pytest.raises(ValueError, match="different widths"):
        merge([wide, narrow])
