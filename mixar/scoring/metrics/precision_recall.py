"""Improved precision and recall: shares of images inside the other set's balls. Kynkäänniemi et al. 2019, arXiv
1904.06991.

The ball of an image reaches to its k-th neighbour in its own set. Symbols: n images, F features, k neighbours,
G jackknife groups.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.metric_prc import (
    KEY_METRIC_PRECISION,
    KEY_METRIC_RECALL,
    calc_cdist_part,
    prc_features_to_metric,
)

from mixar.scoring.features import FeatureSet
from mixar.scoring.intervals import mean_changes
from mixar.study.sections import Scoring

BLOCK = 1000  # images a side of a matrix of distances; a block takes BLOCK * n floats
SPARE = 8  # neighbours kept beyond the k-th, for when a group takes some of them away


def precision(sample: FeatureSet, reference: FeatureSet, scoring: Scoring, block: int = BLOCK) -> float:
    """Share of the drawn images inside a ball of the reference."""
    return _precision_recall(sample, reference, scoring.neighbours, block)[KEY_METRIC_PRECISION]


def precision_jackknife(sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """Exact, [G]: the balls are the reference's and stay."""
    x, y = sample.features, reference.features
    reach = radii(y, scoring.neighbours)
    inside = torch.cat([(distances(part, y) <= reach).any(dim=1) for part in x.split(BLOCK)]).numpy()
    return inside.mean() + mean_changes(inside.astype(float), groups)


def recall(sample: FeatureSet, reference: FeatureSet, scoring: Scoring, block: int = BLOCK) -> float:
    """Share of the reference inside a ball of the drawn images."""
    return _precision_recall(sample, reference, scoring.neighbours, block)[KEY_METRIC_RECALL]


def recall_jackknife(
    sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray, block: int = BLOCK
) -> np.ndarray:
    """Exact, [G]: a ball leaves with its group, and grows where a neighbour leaves that its radius counted.

    (Unless one group holds more than SPARE of an image's nearest neighbours: then its ball grows too little.)
    The interval is about twice as wide as it need be: where balls overlap, leaving a group out overstates what images
    do.
    """
    x, y, k = sample.features, reference.features, scoring.neighbours
    group = torch.from_numpy(groups)
    member = torch.nn.functional.one_hot(group).float()  # [n, G]
    nearest = [distances(part, x).topk(min(k + 1 + SPARE, len(x)), largest=False) for part in x.split(block)]
    distance, neighbour = (torch.cat(parts) for parts in zip(*nearest, strict=True))
    own, owner = distance[:, k], group[neighbour]
    grown = [(owner[:, j], _radius_without(distance, owner, owner[:, j], k)) for j in range(k + 1)]
    covered = torch.zeros(len(y), member.shape[1])  # images that each leave-out still covers
    for rows in torch.arange(len(y)).split(block):
        reach = distances(y[rows], x)
        by_group = ((reach <= own).float() @ member) > 0
        stays = (by_group.sum(1, keepdim=True) - by_group.int()) > 0
        for leaving, radius in grown:
            counts = leaving != group  # an image does not outlive its own group
            target = torch.nn.functional.one_hot(leaving, member.shape[1]).float() * counts.unsqueeze(1)
            stays |= ((reach <= radius).float() @ target) > 0
        covered[rows] = stays.float()
    return covered.double().mean(dim=0).numpy()


def _radius_without(distance: Tensor, owner: Tensor, leaving: Tensor, k: int) -> Tensor:
    """The k-th neighbour's distance [n] where group `leaving` [n] is gone. distance, owner: [n, nearest first]."""
    stays = owner != leaving.unsqueeze(1)
    place = (stays.cumsum(dim=1) > k).float().argmax(dim=1)  # 0 where too few neighbours are known
    place = torch.where(stays.sum(dim=1) > k, place, distance.shape[1] - 1)
    return distance.gather(1, place.unsqueeze(1)).squeeze(1)


def radii(y: Tensor, k: int) -> Tensor:
    """The distance of each of y to its k-th neighbour among the others, [len(y)]."""
    return torch.cat([distances(part, y).kthvalue(k + 1).values for part in y.split(BLOCK)])


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances [len(x), len(y)], as torch-fidelity computes them."""
    return calc_cdist_part(x, y, BLOCK)


@lru_cache(maxsize=1)  # precision and recall come from the same distances
def _precision_recall(sample: FeatureSet, reference: FeatureSet, neighbours: int, block: int) -> dict[str, float]:
    # Order of the arguments: drawn, then real. The beta that MAR's fork is based on has them swapped.
    return prc_features_to_metric(
        sample.features,
        reference.features,
        **known(prc_neighborhood=neighbours, prc_batch_size=block, save_cpu_ram=True, verbose=False),
    )


def known(**options) -> dict:
    """The same options; torch-fidelity silently ignores unknown ones. Raises ValueError for those."""
    if unknown := sorted(set(options) - set(DEFAULTS)):
        raise ValueError(f"torch-fidelity has no option {', '.join(unknown)}, and would ignore it")
    return options
