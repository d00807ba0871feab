"""Stored features score what torch-fidelity 0.4.0 and EDM2's formula gave them; replay_scores.py says how."""

import numpy as np
import pytest
import torch
from replay_scores import SPLITS, STORED

from mixar.scoring.catalogue import METRICS
from mixar.scoring.features import FeatureSet
from mixar.scoring.metrics.frechet import frechet
from mixar.scoring.statistics import Sums
from mixar.scoring.values import value_of
from mixar.study.sections import Extractor, Scoring


@pytest.fixture(scope="module")
def stored():
    with np.load(STORED, allow_pickle=False) as content:
        return dict(content)


@pytest.fixture(scope="module")
def sets(stored):
    """Drawn and real features, by image index."""

    def as_set(features, logits):
        keys = np.arange(len(features))
        return FeatureSet(keys, keys, torch.from_numpy(features), torch.from_numpy(logits))

    return as_set(stored["drawn"], stored["logits"]), as_set(stored["real"], stored["logits"][: len(stored["real"])])


def scoring(**changes):
    base = {"protocol": "emoji-gfd", "extractor": Extractor(network="subgroup-cnn", weights="x"), "kid_subsets": 10,
            "kid_subset_size": 50}  # fmt: skip
    return Scoring(**(base | changes))


@pytest.mark.parametrize("metric", ["fd", "kid", "precision", "recall"])
def test_scores_are_torch_fidelitys(stored, sets, metric):
    assert value_of(METRICS[metric], *sets, scoring()) == pytest.approx(float(stored[f"value/{metric}"]), rel=1e-6)


@pytest.mark.parametrize("splits", SPLITS)
def test_inception_scores_are_torch_fidelitys_for_every_number_of_splits(stored, sets, splits):
    value = value_of(METRICS["is"], *sets, scoring(is_splits=splits))

    assert value == pytest.approx(float(stored[f"value/is_{splits}"]), rel=1e-9)


def test_the_distance_by_a_factor_is_edm2s(stored, sets):
    found = frechet(*(Sums.of(s.features).moments for s in sets))

    assert found == pytest.approx(float(stored["value/fd_edm2"]), rel=1e-9)


def test_the_stored_arrays_are_in_class_order_and_lose_most_of_their_score_unshuffled(stored):
    assert stored["value/is_10_unshuffled"] < 1.4 < 2.1 < stored["value/is_10"]
    assert stored["value/is_10"] < stored["value/is_5"] < stored["value/is_2"] < stored["value/is_1"]
