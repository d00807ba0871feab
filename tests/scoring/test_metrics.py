import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from mixar.scoring.catalogue import METRICS
from mixar.scoring.features import FeatureSet, merge
from mixar.scoring.metrics import precision_recall
from mixar.scoring.metrics.frechet import frechet_distance, line_sizes
from mixar.scoring.metrics.precision_recall import known
from mixar.scoring.values import check_sizes, value_of
from mixar.study.sections import Extractor, Scoring


def settings(**changes) -> Scoring:
    base = {
        "protocol": "emoji-gfd",
        "extractor": Extractor(network="subgroup-cnn", weights="x"),
        "kid_subsets": 5,
        "kid_subset_size": 40,
        "is_splits": 3,
        "jackknife_groups": 5,
    }
    return Scoring(**(base | changes))


def features(n: int, width: int = 6, seed: int = 0, shift: float = 0.0, classes: int = 4) -> FeatureSet:
    rng = torch.Generator().manual_seed(seed)
    values, logits = torch.randn(n, width, generator=rng) + shift, torch.randn(n, classes, generator=rng)
    return FeatureSet(np.arange(n), np.arange(n) % 2, values, logits)


def test_the_distance_of_two_gaussians_equals_its_closed_form():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    a, b = rng.uniform(0.5, 2, 5), rng.uniform(0.5, 2, 5)
    first = {"mu": rng.standard_normal(5), "sigma": rotation @ np.diag(a) @ rotation.T}
    second = {"mu": rng.standard_normal(5), "sigma": rotation @ np.diag(b) @ rotation.T}

    distance = frechet_distance(first, second)

    # Covariances that commute: sum of squared differences of the means and of the standard deviations.
    expected = ((first["mu"] - second["mu"]) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert distance == pytest.approx(expected, rel=1e-10)


def test_the_distance_of_a_set_to_itself_is_zero_also_with_fewer_images_than_features():
    few = features(10, width=32)

    assert value_of(METRICS["fd"], few, few, settings()) == pytest.approx(0, abs=1e-4)


def test_a_shift_of_all_features_adds_its_squared_length():
    one, two = features(50), features(50, shift=0.5)

    assert value_of(METRICS["fd"], one, two, settings()) == pytest.approx(6 * 0.25, rel=1e-4)


def test_moments_of_a_statistics_file_replace_the_reference_images():
    sample, reference = features(50), features(60, seed=1)
    moments = {"mu": np.zeros(6), "sigma": np.eye(6)}

    value = value_of(METRICS["fd"], sample, reference.standing_for(moments), settings())

    own = {k: v.astype(np.float64) for k, v in sample.moments.items()}
    assert value == frechet_distance(own, moments)


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


def test_uniform_logits_score_one_and_sure_balanced_ones_the_number_of_classes():
    n, sure = 60, 50 * torch.nn.functional.one_hot(torch.arange(60) % 4, 4).float()
    flat = FeatureSet(np.arange(n), np.zeros(n), torch.zeros(n, 2), torch.zeros(n, 4))
    peaked = FeatureSet(np.arange(n), np.zeros(n), torch.zeros(n, 2), sure)

    assert value_of(METRICS["is"], flat, flat, settings(is_splits=1)) == pytest.approx(1)
    assert value_of(METRICS["is"], peaked, peaked, settings(is_splits=1)) == pytest.approx(4, rel=1e-6)


def test_a_subset_keeps_the_order_in_which_splits_are_cut():
    whole = features(40)
    keep = np.arange(40) % 4 != 0

    part = whole.take(keep)

    assert part.index[part.walk].tolist() == [i for i in whole.walk if keep[i]]


def test_the_kernel_distance_is_near_zero_for_one_distribution_and_grows_with_a_shift():
    reference, scoring = features(400, seed=1), settings(kid_subsets=20, kid_subset_size=100)

    near, far, further = (value_of(METRICS["kid"], features(400, shift=s), reference, scoring) for s in (0, 0.3, 0.6))

    assert abs(near) < 0.05 < far < further


def test_class_sorted_images_score_as_high_as_shuffled_ones():
    n, classes = 400, 8
    labels = np.arange(n) * classes // n  # as MAR writes its files
    sure = 50 * torch.nn.functional.one_hot(torch.from_numpy(labels), classes).float()
    in_order = FeatureSet(np.arange(n), labels, torch.zeros(n, 2), sure)
    scoring = settings(is_splits=8)

    assert value_of(METRICS["is"], in_order, in_order, scoring) > 0.9 * classes
    assert isc_features_to_metric(sure, splits=8, shuffle=False)[KEY_METRIC_ISC_MEAN] == pytest.approx(1)  # the trap


def test_the_score_rises_with_fewer_splits_as_published_ones_do():
    sample = features(200, classes=10, seed=3)

    values = [value_of(METRICS["is"], sample, sample, settings(is_splits=splits)) for splits in (1, 5, 10, 20)]

    assert values == sorted(values, reverse=True) and values[0] > 1.03 * values[-1]


def test_options_that_the_library_would_ignore_are_refused():
    shifted = features(60, seed=1), features(60)
    typo = kid_features_to_metric(shifted[0].features, shifted[1].features, kid_subset_sizes=3, kid_subset_size=40,
                                  verbose=False)  # fmt: skip

    assert typo  # the trap: the misspelt key changed nothing and said nothing
    with pytest.raises(ValueError, match="torch-fidelity knows no kid_subset_sizes"):
        known(kid_subset_sizes=3, verbose=False)


def test_precision_sees_fidelity_and_recall_sees_coverage():
    reference = features(100)
    collapsed = FeatureSet(np.arange(100), np.zeros(100), reference.features[:5].repeat(20, 1), torch.zeros(100, 2))
    scoring = settings()

    assert value_of(METRICS["precision"], collapsed, reference, scoring) == 1
    assert value_of(METRICS["recall"], collapsed, reference, scoring) < 0.2
    assert value_of(METRICS["precision"], features(100, shift=50), reference, scoring) == 0


def test_precision_and_recall_do_not_depend_on_the_block_that_bounds_memory(monkeypatch):
    sample, reference, scoring = features(90, seed=2, shift=0.4), features(100), settings()
    whole = [value_of(METRICS[m], sample, reference, scoring) for m in ("precision", "recall")]
    precision_recall._precision_recall.cache_clear()
    monkeypatch.setattr(precision_recall, "BLOCK", 32)

    assert [value_of(METRICS[m], sample, reference, scoring) for m in ("precision", "recall")] == whole


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


@pytest.mark.parametrize(
    ("n", "names", "changes", "key"),
    [
        (50, ["kid"], {"kid_subset_size": 60}, "kid_subset_size"),
        (10, ["precision"], {"neighbours": 20}, "neighbours"),
        (10, ["is"], {"is_splits": 12}, "is_splits"),
        (4, ["fd"], {}, "jackknife_groups"),
    ],
)
def test_too_few_images_for_a_metric_name_the_setting(n, names, changes, key):
    with pytest.raises(ValueError, match=f"scoring.{key}"):
        check_sizes([METRICS[name] for name in names], features(n), features(100, seed=1), settings(**changes))


def test_references_of_another_width_are_refused():
    with pytest.raises(ValueError, match="one network"):
        check_sizes([METRICS["fd"]], features(50), features(50, width=8), settings())


@pytest.mark.parametrize(("n", "width", "smallest"), [(1000, 6, 100), (400, 64, 200), (1000, 64, 256), (6, 2, 3)])
def test_the_line_to_infinity_begins_where_the_distance_falls_as_one_over_n(n, width, smallest):
    sizes = line_sizes(features(n, width))

    assert (sizes[0], sizes[-1]) == (smallest, n) and sizes == sorted(set(sizes))


def test_the_limit_of_wide_features_is_not_bent_by_sets_that_are_too_small():
    reference = features(10, 64).standing_for({"mu": np.zeros(64), "sigma": np.eye(64)})
    found = [
        value_of(METRICS["fd_infinity"], features(768, 64, seed, shift=0.1), reference, settings()) for seed in range(8)
    ]

    error = np.std(found, ddof=1) / np.sqrt(8)
    assert np.mean(found) == pytest.approx(0.64, abs=3 * error)
