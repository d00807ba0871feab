"""From features to the values of rows: every metric of a study with its interval, from sets of features alone.

Symbols: n images, G jackknife groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from mixar.assets.check import resolve
from mixar.scoring.catalogue import METRICS, Metric, metric_of, network_of, shortages
from mixar.scoring.features import FeatureSet, inputs_kept
from mixar.scoring.files import Scored
from mixar.scoring.intervals import interval, jackknife, jackknife_groups, mean_changes
from mixar.scoring.statistics import load_statistics
from mixar.storage.files import file_sha256
from mixar.study import choices
from mixar.study.sections import Scoring


def metrics_of(scoring: Scoring) -> list[Metric]:
    """The metrics that a study names, in its order."""
    return [metric_of(entry) for entry in scoring.metrics]


# One metric


def value_of(metric: Metric, sample: FeatureSet, reference: FeatureSet, scoring: Scoring) -> float:
    """The metric of two sets. Raises ValueError where its function cannot be loaded."""
    return float(_function(metric)(sample, reference, scoring))


def replicates_of(
    metric: Metric, sample: FeatureSet, reference: FeatureSet, scoring: Scoring, groups: np.ndarray
) -> np.ndarray:
    """The metric with each group left out, [G]: by its jackknife, else computed anew for every group.

    Their mean may differ a little from the metric; their spread is what counts.
    """
    if metric.jackknife:
        return choices.load_function(metric.jackknife, metric.name)(sample, reference, scoring, groups)
    function = _function(metric)
    return jackknife(lambda keep: [float(function(sample.take(keep), reference, scoring))], groups)[:, 0]


def _function(metric: Metric) -> Callable[[FeatureSet, FeatureSet, Scoring], float]:
    assert metric.function, f"{metric.name} is not computed from features"
    return choices.load_function(metric.function, "scoring.metrics")


def measured(scoring: Scoring, sample: FeatureSet, against: Iterable[tuple[Metric, FeatureSet]]) -> list[dict]:
    """Each metric against its reference, with an interval over the images of the sample."""
    groups = jackknife_groups(sample.index, scoring.jackknife_groups, sample.labels)
    values = []
    for metric, reference in against:
        what = f"scoring.metrics: {metric.function}"
        with nullcontext() if metric.jackknife else inputs_kept(what, sample, reference):  # ours all have one
            value = value_of(metric, sample, reference, scoring)
            replicates = replicates_of(metric, sample, reference, scoring, groups)
        values.append(_row(metric, value, replicates, len(sample)))
    return values


def _row(metric: Metric, value: float, replicates: np.ndarray, n: int) -> dict[str, Any]:
    found = interval(value, replicates, metric.bounds)._asdict()
    return {"metric": metric.name, **found, "replicates": replicates.tolist(), "n": n, "unit": metric.unit}


def check_sizes(metrics: Iterable[Metric], sample: FeatureSet, reference: FeatureSet, scoring: Scoring) -> None:
    """Raise ValueError where a metric cannot be computed from this many images, or the widths differ."""
    widths = (sample.width, reference.width, len(reference.moments["mu"]))
    if len(set(widths)) > 1:
        raise ValueError(
            f"features: {widths[0]} per image, but the reference has {widths[1]} (its moments: {widths[2]}); "
            "score both with one network"
        )
    for metric, minimum, found in shortages(metrics, scoring, len(sample), len(reference)):
        raise ValueError(
            f"scoring.{minimum.key}: metric {metric.name!r} needs at least {minimum.needed(scoring)} images, found "
            f"{found} ({len(sample)} scored, {len(reference)} in the reference); {minimum.advice} or score more "
            "images"
        )


# All metrics of drawn images


def sample_values(scoring: Scoring, sample: FeatureSet, train: FeatureSet, held_out: FeatureSet | None) -> list[dict]:
    """The study's metrics of drawn images, and the checks that come with them, such as fd_held_out.

    train, held_out: the two references; held_out None leaves out what is measured against it.
    """
    metrics = metrics_of(scoring)
    names = {metric.name for metric in metrics}
    metrics += [metric for metric in METRICS.values() if metric.checks in names]
    splits = {"train": train, "held_out": held_out}
    against = [(metric, found) for metric in metrics if (found := splits[metric.split]) is not None]
    for metric, reference in against:
        check_sizes([metric], sample, reference, scoring)
    return measured(scoring, sample, against)


def further_values(scoring: Scoring, scored: Scored, reference: Scored | None) -> list[dict]:
    """What the networks of scoring.further give, such as fd_dinov2, against given statistics or the reference images.

    reference: None if all of them use statistics.
    Raises ValueError where features are missing, or where the two sides come from different weights.
    """
    values = []
    for name in scoring.further:
        if name not in scored.further:
            raise ValueError(f"scoring.further.{name}: no features of the images; run `features --images` again")
        sample, metrics = scored.further[name], network_of(name).metrics
        against = _given(scoring, name, sample) if is_given(scoring, name) else _of_images(name, scored, reference)
        check_sizes(metrics, sample, against, scoring)
        values += measured(scoring, sample, [(metric, against) for metric in metrics])
    return values


def is_given(scoring: Scoring, name: str) -> bool:
    """Whether given statistics replace the reference images of a further network, as all its metrics allow."""
    return name in scoring.further_statistics and not network_of(name).needs_images


def _given(scoring: Scoring, name: str, sample: FeatureSet) -> FeatureSet:
    """No images, but the mean and covariance of the file in scoring.further_statistics."""
    none, path = sample.take(np.zeros(len(sample), bool)), resolve(scoring.further_statistics[name])
    return none.standing_for(load_statistics(path, network_of(name).statistics, sample.width))


def _of_images(name: str, scored: Scored, reference: Scored | None) -> FeatureSet:
    assert reference is not None, f"scoring.further.{name} has neither statistics nor reference images"
    hashes = [side.further_sha256.get(name) for side in (scored, reference)]
    if hashes[0] != hashes[1]:
        raise ValueError(f"scoring.further.{name}: images and reference have features of {hashes}; run "
                         "`features --images` and `features --reference` again")  # fmt: skip
    return reference.further[name]


def further_hashes(scoring: Scoring, networks: Mapping[str, str]) -> dict[str, str]:
    """Hashes of the further networks for a row: their weights, and the statistics that replace reference images."""
    given = {name: scoring.further_statistics[name] for name in scoring.further if is_given(scoring, name)}
    return {**networks, **{f"statistics_{name}": file_sha256(resolve(file)) for name, file in given.items()}}


# Reconstructions


def reconstruction_values(scoring: Scoring, made: FeatureSet, originals: FeatureSet, psnr: np.ndarray) -> list[dict]:
    """rfd and psnr of reconstructions; original and reconstruction leave the jackknife together."""
    rfd = METRICS["rfd"]
    check_sizes([rfd], made, originals, scoring)
    groups = jackknife_groups(made.index, scoring.jackknife_groups, made.labels)
    replicates, means = replicates_of(rfd, made, originals, scoring, groups), psnr.mean() + mean_changes(psnr, groups)
    distance = value_of(rfd, made, originals, scoring)
    return [_row(rfd, distance, replicates, len(made)), _row(METRICS["psnr"], float(psnr.mean()), means, len(made))]
