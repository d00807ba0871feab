"""Inception Score: how sure and how varied the predicted classes of images are. Salimans et al. 2016, arXiv 1606.03498.

Symbols: n images, V classes, S splits, G jackknife groups.
"""

from __future__ import annotations

import numpy as np
import torch
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

from mixar.scoring.features import FeatureSet
from mixar.study.sections import Scoring

BLOCK = 1000  # images whose probabilities are in memory as float64


def inception_score(sample: FeatureSet, _reference: FeatureSet, scoring: Scoring) -> float:
    """Mean over `is_splits` splits of exp(mean KL of class probabilities to their average); 1 to V."""
    logits = sample.logits[torch.from_numpy(sample.walk)]
    return isc_features_to_metric(logits, splits=scoring.is_splits, shuffle=False)[KEY_METRIC_ISC_MEAN]


def inception_score_jackknife(
    sample: FeatureSet, _reference: FeatureSet, scoring: Scoring, groups: np.ndarray
) -> np.ndarray:
    """The score with each group left out, [G]: exact, except that every image stays in its split."""
    n, count = len(sample), groups.max() + 1
    split = np.empty(n, np.int64)
    edges = [i * n // scoring.is_splits for i in range(scoring.is_splits + 1)]
    split[sample.walk] = np.repeat(np.arange(scoring.is_splits), np.diff(edges))
    cell = torch.from_numpy(split * count + groups)
    images, entropy = torch.zeros(scoring.is_splits * count), torch.zeros(scoring.is_splits * count).double()
    summed = torch.zeros(scoring.is_splits * count, sample.logits.shape[1]).double()
    for rows in torch.arange(n).split(BLOCK):
        log_p = sample.logits[rows].double().log_softmax(dim=1)
        images.index_add_(0, cell[rows], torch.ones(len(rows)))
        entropy.index_add_(0, cell[rows], (log_p.exp() * log_p).sum(dim=1))
        summed.index_add_(0, cell[rows], log_p.exp())
    images, entropy = images.view(-1, count), entropy.view(-1, count)
    summed = summed.view(len(images), count, -1)
    left = images.sum(1, keepdim=True) - images  # [S, G]
    mean = (summed.sum(1, keepdim=True) - summed) / left.unsqueeze(2)
    gain = (entropy.sum(1, keepdim=True) - entropy) / left - torch.special.xlogy(mean, mean).sum(dim=2)
    return gain.exp().nanmean(dim=0).numpy()  # a split that a group empties is left out
