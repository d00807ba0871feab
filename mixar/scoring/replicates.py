"""Each score with one group of images left out at a time, for its interval, without computing it anew each time.

Symbols: n images, F features, G jackknife groups (intervals.jackknife_groups). A function here takes (sample,
reference, scoring, groups) and returns [G]; its mean may differ a little from the score, for the spread over the groups
is what counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_prc import calc_cdist_part

from mixar.scoring.intervals import jackknife
from mixar.scoring.metrics import BLOCK, METRICS, SEED, FeatureSet, kid_subsets, line_sizes, metric_of
from mixar.scoring.statistics import frechet, influence, limit_weights
from mixar.study.sections import Scoring

LINEAR_FROM = 512  # features from which a Fréchet distance is not computed anew for every group
IMAGES_FOR_FIRST_ORDER = 4  # images a feature that the first order needs
KERNEL_IMAGES = 5_000  # of each side behind the kernel distance's interval
SPARE = 8  # neighbours kept beyond the k-th, for when a group takes some of them away


def fd(sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """Exact for narrow networks and few images, else to first order: the mean influence of what stays."""
    if sample.features.shape[1] < LINEAR_FROM:
        return jackknife(lambda keep: [METRICS["fd"](sample.take(keep), reference, scoring)], groups)[:, 0]
    if not _is_large(sample):
        other, root = reference.moments, reference.root
        return jackknife(lambda keep: [frechet(sample.take(keep).moments, other, root)], groups)[:, 0]
    value, added = influence(sample.features, sample.moments, reference.moments, reference.root)
    return value + without(added, groups)


def fd_of_pairs(made: FeatureSet, originals: FeatureSet, scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """As `fd`, where image and reference image leave together, unless given moments stand for the reference."""
    if originals.moments_given is not None:
        return fd(made, originals, scoring, groups)
    if not _is_large(made):
        return jackknife(lambda keep: [METRICS["fd"](made.take(keep), originals.take(keep), scoring)], groups)[:, 0]
    value, added = influence(made.features, made.moments, originals.moments, originals.root)
    _, added_by_originals = influence(originals.features, originals.moments, made.moments)
    return value + without(added + added_by_originals, groups)


def fd_infinity(sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """Exact for narrow networks, else to first order: an image counts once in every set of the line that it is in.

    Its weights there are those of the line's limit, so images of the smallest sets count most, and some negatively.
    """
    if sample.features.shape[1] < LINEAR_FROM:
        return jackknife(lambda keep: [METRICS["fd_infinity"](sample.take(keep), reference, scoring)], groups)[:, 0]
    sizes = line_sizes(sample)
    counts = np.zeros(len(sample))
    for size, weight in zip(sizes, limit_weights(sizes), strict=True):
        counts[sample.walk[:size]] += weight * len(sample) / size
    _, added = influence(sample.features, sample.moments, reference.moments, reference.root)
    return METRICS["fd_infinity"](sample, reference, scoring) + without(counts * added, groups)


def _is_large(sample: FeatureSet) -> bool:
    images, width = sample.features.shape
    return width >= LINEAR_FROM and images >= IMAGES_FOR_FIRST_ORDER * width


def without(influences: np.ndarray, groups: np.ndarray, count: int = 0) -> np.ndarray:
    """How a mean changes where each group is left out: [n], [n] -> [G]. count: at least so many groups."""
    sizes, sums = np.bincount(groups, minlength=count), np.bincount(groups, weights=influences, minlength=count)
    return (influences.sum() - sums) / (len(groups) - sizes) - influences.mean()


def inception_score(sample: FeatureSet, _reference, scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """Exact; every image stays in its split."""
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
    left = images.sum(1, keepdim=True) - images  # [splits, G]
    mean = (summed.sum(1, keepdim=True) - summed) / left.unsqueeze(2)
    gain = (entropy.sum(1, keepdim=True) - entropy) / left - torch.special.xlogy(mean, mean).sum(dim=2)
    return gain.exp().nanmean(dim=0).numpy()  # a split that a group empties is left out


def kid(sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """Spread of the images and of the random subsets that the score is a mean over, which are independent.

    The images' from every pair of them, for the subsets' noise would pass for theirs. The subsets' by leaving out a
    group of subsets with each group of images. All runs have the same subsets, so in the difference of two runs what
    these have in common cancels, too.
    """
    subsets = kid_subsets(sample, reference, scoring.kid_subsets, scoring.kid_subset_size)
    group = np.arange(len(subsets)) % (groups.max() + 1)
    return _kid_of_pairs(sample, reference, groups) + without(subsets, group, groups.max() + 1)


def _kid_of_pairs(sample: FeatureSet, reference: FeatureSet, groups: np.ndarray) -> np.ndarray:
    """Unbiased, over all pairs; of more than KERNEL_IMAGES a part, whose spread is scaled by the root of its share."""
    rows, others = (np.random.default_rng(SEED).permutation(len(s))[:KERNEL_IMAGES] for s in (sample, reference))
    rows = rows[np.argsort(groups[rows], kind="stable")]
    x, sizes = sample.features[torch.from_numpy(rows)], np.bincount(groups[rows], minlength=groups.max() + 1)
    parts, y = x.split(sizes.tolist()), reference.features[torch.from_numpy(others)]
    pairs = [[_kernel_sum(a, b) if i <= j else 0.0 for j, b in enumerate(parts)] for i, a in enumerate(parts)]
    within = np.array(pairs) + np.triu(pairs, 1).T
    own = np.array([_diagonal(a).sum().item() for a in parts])
    cross, left = np.array([_kernel_sum(a, y) for a in parts]), len(x) - sizes
    pairs = within.sum() - 2 * within.sum(axis=1) + np.diag(within) - (own.sum() - own)
    found = pairs / (left * (left - 1)) - 2 * (cross.sum() - cross) / (left * len(y))
    found += (_kernel_sum(y, y) - _diagonal(y).sum().item()) / (len(y) * (len(y) - 1))
    return found.mean() + (found - found.mean()) * np.sqrt(len(x) / len(sample))


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    blocks = (((block @ y.T) / x.shape[1] + 1).pow(3) for block in x.split(BLOCK))
    return sum(block.sum(dtype=torch.float64).item() for block in blocks)


def _diagonal(x: Tensor) -> Tensor:
    return (x.square().sum(1) / x.shape[1] + 1).double().pow(3)


def precision(sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """Exact: the balls are the reference's and stay."""
    x, y = sample.features, reference.features
    radii = torch.cat([_distances(part, y).kthvalue(scoring.neighbours + 1).values for part in y.split(BLOCK)])
    inside = torch.cat([(_distances(part, y) <= radii).any(dim=1) for part in x.split(BLOCK)]).numpy()
    return inside.mean() + without(inside.astype(float), groups)


def recall(sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray) -> np.ndarray:
    """Exact: a ball leaves with its group, and grows where a neighbour leaves that its radius counted.

    (Unless one group holds more than SPARE of an image's nearest neighbours: then its ball grows too little.)
    Its interval is about twice as wide as need be: where balls overlap, leaving a group out overstates what images do.
    """
    x, y, k = sample.features, reference.features, scoring.neighbours
    group = torch.from_numpy(groups)
    member = torch.nn.functional.one_hot(group).float()  # [n, G]
    nearest = [_distances(part, x).topk(min(k + 1 + SPARE, len(x)), largest=False) for part in x.split(BLOCK)]
    distance, owner = (torch.cat(parts) for parts in zip(*nearest, strict=True))
    radii, owner = distance[:, k], group[owner]
    grown = [(owner[:, j], _radius_without(distance, owner, owner[:, j], k)) for j in range(k + 1)]
    covered = torch.zeros(len(y), member.shape[1])  # images that each leave-out still covers
    for rows in torch.arange(len(y)).split(BLOCK):
        reach = _distances(y[rows], x)
        by_group = ((reach <= radii).float() @ member) > 0
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


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return calc_cdist_part(x, y, BLOCK)


Replicates = Callable[[FeatureSet, FeatureSet, Scoring, np.ndarray], np.ndarray]
REPLICATES: dict[str, Replicates] = {
    "fd": fd,
    "fd_infinity": fd_infinity,
    "is": inception_score,
    "kid": kid,
    "precision": precision,
    "recall": recall,
}


def replicates_of(
    name: str, sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray
) -> np.ndarray:
    """The metric of a name with each group left out, [G]: the short way of REPLICATES, else computed anew."""
    if name in REPLICATES:
        return REPLICATES[name](sample, reference, scoring, groups)
    metric = metric_of(name, scoring)
    return jackknife(lambda keep: [float(metric(sample.take(keep), reference, scoring))], groups)[:, 0]
