"""The rule by which two arms are judged: from their values by training seed, and from resampling their images.

Retraining moves a Fréchet distance about three times as much as drawing other images does ("The FID Lottery", arXiv
2606.20536), so an interval over images alone decides nothing. Lower values are better.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from mixar.reporting.summary import Result
from mixar.scoring.intervals import LEVEL, half_width

LEAST_SEEDS = 3  # of an arm that the study trains
MARGIN = 0.013  # as a share of the other arm: below it, retraining alone explains a difference (arXiv 2606.20536)
MOST_SEEDS = 200  # per arm, up to which further seeds are counted
HELD, DID_NOT_HOLD, UNDECIDED = "held", "did not hold", "undecided"


@dataclass(frozen=True)
class Comparison:
    """ours − allowance · theirs, with its 95 % intervals and what follows from them."""

    by_seed: tuple[float, ...]  # paired by seed, or all pairs
    mean: float
    other: float  # allowance · theirs, the mean over seeds
    over_seeds: float | None  # half width; None: fewer than two seeds
    over_images: float | None  # half width; None: an arm has no interval
    verdict: str
    reason: str = ""  # why undecided

    @property
    def reach(self) -> float:
        """Half width of both intervals together, the root of their squares."""
        return math.hypot(self.over_seeds or 0.0, self.over_images or 0.0)


def compare(ours: Result, theirs: Result, allowance: float = 1.0) -> Comparison:
    """Judge ours against `allowance` times theirs. Both need values.

    Held (ours is lower) or not held, where each trained arm has LEAST_SEEDS seeds, one arm at least is trained, and
    the difference exceeds both its interval and MARGIN. Otherwise undecided, with a reason.
    """
    by_seed, spread, counts = _over_seeds(ours, theirs, allowance)
    over_images = combined(ours, theirs, allowance)
    other = allowance * statistics.fmean(theirs.values.values())
    mean = statistics.fmean(by_seed)
    over_seeds = spread.half_width(counts) if spread else None
    found = Comparison(tuple(by_seed), mean, other, over_seeds, over_images, UNDECIDED)
    if reason := _undecided(ours, theirs, found, spread, counts):
        return replace(found, reason=reason)
    return replace(found, verdict=HELD if mean < 0 else DID_NOT_HOLD)


def combined(ours: Result, theirs: Result, allowance: float = 1.0) -> float | None:
    """Half width of the interval over images of ours − allowance · theirs; None where a side has no interval.

    Paired where both sides have replicates of the same groups of images; else sqrt(a² + b²), as of independent sides.
    KID's replicates also leave out groups of its random subsets, the same for all runs: their noise cancels as far as
    the sides share it, and the rest stays in the interval.
    """
    if ours.replicates and len(ours.replicates) == len(theirs.replicates):
        pairs = zip(ours.replicates, theirs.replicates, strict=True)
        return half_width(np.array([a - allowance * b for a, b in pairs]))
    if ours.half_width is None or theirs.half_width is None:
        return None
    return math.hypot(ours.half_width, allowance * theirs.half_width)


def too_few_seeds(*sides: Result) -> bool:
    """Whether an arm that the study trains has fewer seeds than a verdict needs, or no arm is trained."""
    trained = [side for side in sides if side.is_trained]
    return not trained or any(len(side.values) < LEAST_SEEDS for side in trained)


@dataclass(frozen=True)
class _Spread:
    """Spread over seeds: variances of the arms' values, or one variance of paired differences."""

    variances: tuple[float, ...]

    def half_width(self, counts: tuple[int, ...]) -> float:
        """Student's t: of one mean, or of the difference of two by Welch. counts: seeds behind each variance."""
        parts = [variance / count for variance, count in zip(self.variances, counts, strict=True)]
        if not sum(parts):
            return 0.0
        freedom = sum(parts) ** 2 / sum(p**2 / (count - 1) for p, count in zip(parts, counts, strict=True))
        return float(math.sqrt(sum(parts)) * stdtrit(freedom, (1 + LEVEL) / 2))


def _over_seeds(ours: Result, theirs: Result, allowance: float) -> tuple[list[float], _Spread | None, tuple[int, ...]]:
    """Differences, their spread (None from a single seed), and the number of seeds behind each of its variances.

    Seeds that both trained arms have are compared one by one, if they are at least LEAST_SEEDS or all there are;
    otherwise all pairs are, and the spread is that of two independent arms. A fixed network has no spread.
    """
    shared = [seed for seed in ours.values if seed in theirs.values]
    has_pairs = len(shared) >= LEAST_SEEDS or ours.values.keys() == theirs.values.keys()
    if ours.is_trained and theirs.is_trained and has_pairs:
        paired = [ours.values[seed] - allowance * theirs.values[seed] for seed in shared]
        return paired, _Spread((statistics.variance(paired),)) if len(paired) > 1 else None, (len(paired),)
    pairs = [a - allowance * b for a in ours.values.values() for b in theirs.values.values()]
    arms = [(side, factor) for side, factor in ((ours, 1.0), (theirs, allowance)) if side.is_trained]
    counts = tuple(len(side.values) for side, _ in arms)
    if not arms or min(counts) < 2:
        return pairs, None, counts
    return pairs, _Spread(tuple(f**2 * statistics.variance(side.values.values()) for side, f in arms)), counts


def _undecided(ours: Result, theirs: Result, found: Comparison, spread: _Spread | None, counts: tuple[int, ...]) -> str:
    """Why a comparison decides nothing; empty where it decides."""
    if not (ours.is_trained or theirs.is_trained):
        return "neither arm is trained by this study, so no seeds show what a training changes"
    if too_few_seeds(ours, theirs):
        needed = LEAST_SEEDS - min(len(side.values) for side in (ours, theirs) if side.is_trained)
        return f"fewer than {LEAST_SEEDS} training seeds per arm: at least {needed} more"
    if abs(found.mean) <= MARGIN * abs(found.other):
        return f"the difference is below {100 * MARGIN:.1f} %, which retraining alone can make"
    if abs(found.mean) > found.reach:
        return ""
    if abs(found.mean) <= (found.over_images or 0.0):
        return "the interval over images alone reaches as far as the difference: score more images"
    assert spread is not None  # without a spread the intervals over images and both together are one
    more = _further(found, spread, counts)
    if more is None:
        return f"not even {MOST_SEEDS} seeds per arm would decide a difference of this size"
    return f"{more} further {'seed' if more == 1 else 'seeds'} per arm would decide a difference of this size"


def _further(found: Comparison, spread: _Spread, counts: tuple[int, ...]) -> int | None:
    """How many more seeds per arm would make the intervals smaller than the difference, all else equal."""
    for more in range(1, MOST_SEEDS):
        reach = math.hypot(spread.half_width(tuple(count + more for count in counts)), found.over_images or 0.0)
        if abs(found.mean) > reach:
            return more
    return None
