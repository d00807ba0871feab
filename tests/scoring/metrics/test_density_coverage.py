"""Density and coverage: their values for equal, far and equally distributed sets, by brute force, and in a table."""

import math

import numpy as np
import pytest
import torch
from toy_scored import NUM_IMAGES, draw, drawings, features, rows_of
from toy_scored import house as house
from toy_scored import pictures as pictures

from mixar.reporting.results import read_rows
from mixar.reporting.summary import summarise
from mixar.reporting.tables import quality_table
from mixar.scoring.catalogue import METRICS
from mixar.scoring.features import FeatureSet
from mixar.scoring.intervals import jackknife, jackknife_groups
from mixar.scoring.metrics.density_coverage import NEIGHBOURS
from mixar.scoring.metrics.precision_recall import BLOCK
from mixar.scoring.values import check_sizes, replicates_of, value_of
from mixar.stages.score import score_samples
from mixar.study.sections import Extractor, Scoring

SCORING = Scoring(protocol="own-gfd", extractor=Extractor(network="subgroup-cnn", weights="x"))
BOTH = [METRICS["density"], METRICS["coverage"]]


def as_set(values) -> FeatureSet:
    keys = np.arange(len(values))
    return FeatureSet(keys, keys % 2, torch.as_tensor(values, dtype=torch.float32), torch.zeros(len(values), 2))


def gaussian(n: int, width: int = 8, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, width)) + shift


def heavy(n: int, seed: int) -> np.ndarray:
    """A skewed distribution with outliers."""
    return np.exp(2 * np.random.default_rng(seed).standard_normal((n, 3)))


def both(sample: FeatureSet, reference: FeatureSet) -> list[float]:
    return [value_of(metric, sample, reference, SCORING) for metric in BOTH]


def test_a_set_against_itself_has_density_and_coverage_one():
    same = as_set(gaussian(200))

    assert both(same, same) == pytest.approx([1, 1], abs=0.02)


def test_far_sets_have_neither_density_nor_coverage():
    assert both(as_set(gaussian(100, shift=50)), as_set(gaussian(120, seed=1))) == [0, 0]


@pytest.mark.parametrize("draw_set", [gaussian, heavy])
@pytest.mark.parametrize(("n", "m"), [(60, 60), (30, 90)])
def test_equal_distributions_have_the_papers_expected_values_whichever_they_are(draw_set, n, m):
    pairs = [(as_set(draw_set(n, seed=2 * i)), as_set(draw_set(m, seed=2 * i + 1))) for i in range(200)]
    found = np.array([both(*pair) for pair in pairs])

    # A ball is missed if all n drawn images rank behind its k neighbours among the m - 1 + n others.
    missed = math.prod((m - 1 - i) / (n + m - 1 - i) for i in range(NEIGHBOURS))
    error = found.std(axis=0, ddof=1) / math.sqrt(len(found))
    assert np.abs(found.mean(axis=0) - [1, 1 - missed]).max() < 4 * error.max()


@pytest.mark.parametrize(("n", "m", "allowed"), [(70, 90, 1e-12), (BLOCK + 70, BLOCK + 90, 1e-3)])
def test_both_equal_the_definition_by_brute_force(n, m, allowed):
    x, y = gaussian(n, seed=2, shift=0.3), gaussian(m)

    between = np.linalg.norm(x[:, None] - y, axis=2)
    reach = np.sort(np.linalg.norm(y[:, None] - y, axis=2), axis=1)[:, NEIGHBOURS]  # place 0 is the image itself
    inside = between < reach

    expected = [inside.sum() / (NEIGHBOURS * len(x)), inside.any(axis=0).mean()]
    assert both(as_set(x), as_set(y)) == pytest.approx(expected, abs=allowed)  # of many pairs some are ties in float32
    assert 0 < expected[1] < 1


def test_neither_depends_on_the_order_of_images_nor_on_where_the_axes_are():
    x, y, rng = gaussian(80, seed=2, shift=0.3), gaussian(90), np.random.default_rng(3)
    turn, _ = np.linalg.qr(rng.standard_normal((8, 8)))

    found = both(as_set(x), as_set(y))

    assert both(as_set(rng.permutation(x)), as_set(rng.permutation(y))) == pytest.approx(found, abs=1e-12)
    assert both(as_set(4 * x @ turn + 7), as_set(4 * y @ turn + 7)) == pytest.approx(found, abs=1e-12)


def test_a_few_images_repeated_keep_their_density_and_lose_coverage():
    reference = gaussian(200)
    collapsed = as_set(np.repeat(reference[:5], 40, axis=0))

    dense, covered = both(collapsed, as_set(reference))

    assert dense > 0.5
    assert covered < 0.2


def test_an_outlier_of_the_reference_with_a_wide_ball_adds_little():
    reference = gaussian(200)
    far = np.concatenate([reference, [[100.0] * 8]])
    halfway = as_set(gaussian(100, seed=1, shift=10))

    dense, covered = both(halfway, as_set(far))

    assert value_of(METRICS["precision"], halfway, as_set(far), SCORING) == 1  # all are inside that one ball
    assert dense <= 1 / NEIGHBOURS
    assert covered == pytest.approx(1 / 201)


@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_leaving_groups_out_equals_computing_again(metric):
    sample, reference = as_set(gaussian(150, seed=2, shift=0.5)), as_set(gaussian(120))
    groups = jackknife_groups(sample.index, 10)

    found = replicates_of(metric, sample, reference, SCORING, groups)

    anew = jackknife(lambda keep: [value_of(metric, sample.take(keep), reference, SCORING)], groups)[:, 0]
    assert np.allclose(found, anew, rtol=0, atol=1e-12)
    assert np.ptp(found) > 0


@pytest.mark.parametrize("metric", BOTH, ids=lambda m: m.name)
def test_a_reference_without_k_neighbours_is_refused(metric):
    sample = as_set(gaussian(50))

    check_sizes([metric], sample, as_set(gaussian(NEIGHBOURS + 1)), SCORING)
    with pytest.raises(ValueError, match=f"metric '{metric.name}' needs at least 6 images, found 5"):
        check_sizes([metric], sample, as_set(gaussian(NEIGHBOURS)), SCORING)


def test_a_study_that_names_them_gets_rows_and_columns_from_their_records_alone(house):
    study, layout = house
    scoring = study.scoring.model_copy(update={"metrics": ("fd", "density", "coverage")})
    study = study.model_copy(update={"scoring": scoring})
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)

    score_samples(study, layout, "mar", 0, "default")

    rows = rows_of(layout.scores("sample", "mar", 0, "default"))
    table = quality_table(summarise(study, read_rows(layout.root)))
    cells = dict(zip(table.columns, next(row for row in table.cells if row[0] == "MAR"), strict=True))
    for name, heading in (("density", "Density ↑"), ("coverage", "Coverage ↑")):
        assert rows[name]["low"] <= rows[name]["value"] <= rows[name]["high"]
        assert cells[heading] == f"{rows[name]['value']:.2f}"
    assert 0 < rows["coverage"]["value"] <= rows["coverage"]["high"] <= 1
