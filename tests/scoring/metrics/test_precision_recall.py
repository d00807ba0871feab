"""Precision and recall: what they see, by brute force, and how much memory they take."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from toy_features import features, settings

from mixar.scoring.catalogue import METRICS
from mixar.scoring.features import FeatureSet
from mixar.scoring.metrics.precision_recall import BLOCK, known
from mixar.scoring.values import value_of


def test_precision_sees_fidelity_and_recall_sees_coverage():
    reference = features(100)
    collapsed = FeatureSet(np.arange(100), np.zeros(100), reference.features[:5].repeat(20, 1), torch.zeros(100, 2))
    scoring = settings()

    assert value_of(METRICS["precision"], collapsed, reference, scoring) == 1
    assert value_of(METRICS["recall"], collapsed, reference, scoring) < 0.2
    assert value_of(METRICS["precision"], features(100, shift=50), reference, scoring) == 0


@pytest.mark.parametrize(("n", "m"), [(90, 100), (BLOCK + 90, BLOCK + 100)])
def test_both_equal_the_definition_by_brute_force(n, m):
    sample, reference, scoring = features(n, seed=2, shift=0.4), features(m), settings()
    x, y = sample.features.double(), reference.features.double()

    def covered(a, b):
        """The share of a inside a ball of b; place 0 of the sorted distances is the image itself."""
        radii = torch.cdist(b, b).sort(dim=1).values[:, scoring.neighbours]
        return (torch.cdist(a, b) <= radii).any(dim=1).double().mean().item()

    found = [value_of(METRICS[metric], sample, reference, scoring) for metric in ("precision", "recall")]

    assert found == pytest.approx([covered(x, y), covered(y, x)], abs=2 / n)  # of many pairs some are ties in float32
    assert max(found) < 1


def test_options_that_the_library_would_ignore_are_refused():
    shifted = features(60, seed=1), features(60)
    typo = kid_features_to_metric(shifted[0].features, shifted[1].features, kid_subset_sizes=3, kid_subset_size=40,
                                  verbose=False)  # fmt: skip

    assert typo  # the trap: the misspelt key changed nothing and said nothing
    with pytest.raises(ValueError, match="torch-fidelity has no option kid_subset_sizes"):
        known(kid_subset_sizes=3, verbose=False)


MEMORY = """
import resource, numpy as np, torch
from mixar.scoring.features import FeatureSet
from mixar.scoring.metrics import precision_recall
from mixar.study.sections import Extractor, Scoring
scoring = Scoring(protocol="emoji-gfd", extractor=Extractor(network="subgroup-cnn", weights="x"))
n = 5000
x, y = (FeatureSet(np.arange(n), np.arange(n), torch.randn(n, 4), torch.zeros(n, 1)) for _ in range(2))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
precision_recall.precision(x, y, scoring, block=250)
precision_recall.recall_jackknife(x, y, scoring, np.arange(n) % 10, block=250)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10)
"""


def test_the_neighbour_search_never_holds_all_distances(root):
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, cwd=root,
                         env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip

    grown_mib = float(run.stdout)

    whole = 4 * 5000**2 / 2**20  # of one matrix of distances, 95 MiB; at 50,000 images 9.3 GiB
    assert grown_mib < 0.6 * whole, run.stderr
