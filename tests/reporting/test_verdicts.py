"""The rule behind every verdict: seeds, images, margin, and what would decide an undecided comparison."""

import math
from dataclasses import replace

import pytest
from scipy import stats

from mixar.reporting.summary import Result
from mixar.reporting.verdicts import MARGIN, combined, compare


def side(*values: float, half: float | None = 1.0, replicates: tuple[float, ...] = (), first: int = 0) -> Result:
    return Result(values=dict(enumerate(values, first)), half_width=half, replicates=replicates)


def fixed(value: float, half: float = 0.1) -> Result:
    return replace(side(value, half=half), is_trained=False)


def test_a_difference_beyond_its_intervals_decides_by_its_sign():
    assert compare(side(10, 11, 12), side(20, 21, 22)).verdict == "held"
    assert compare(side(20, 21, 22), side(10, 11, 12)).verdict == "did not hold"


def test_the_interval_over_seeds_is_that_of_a_paired_t_test():
    ours, theirs = (10.0, 12.0, 11.5, 9.0), (14.0, 15.5, 15.0, 14.5)

    found = compare(side(*ours), side(*theirs))

    low, high = stats.ttest_rel(ours, theirs).confidence_interval()
    assert found.mean == pytest.approx((low + high) / 2) and found.over_seeds == pytest.approx((high - low) / 2)


def test_arms_without_common_seeds_are_compared_by_welchs_t():
    ours, theirs = (10.0, 12.0, 11.5), (14.0, 18.5, 15.0, 14.5)

    found = compare(side(*ours), side(*theirs, first=7))

    low, high = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert found.mean == pytest.approx((low + high) / 2) and found.over_seeds == pytest.approx((high - low) / 2)


def test_the_seeds_that_both_arms_have_are_paired():
    found = compare(side(10, 20, 30, 99, 98), side(11, 22, 33))

    assert found.by_seed == (-1, -2, -3) and found.mean == -2


def test_a_fixed_network_has_no_spread_over_seeds():
    ours = (1.0, 2.0, 4.0)

    found = compare(side(*ours), fixed(9.0))

    low, high = stats.ttest_1samp(ours, 9.0).confidence_interval()
    assert found.over_seeds == pytest.approx((high - low) / 2) and found.verdict == "held"


def test_two_fixed_networks_decide_nothing():
    found = compare(fixed(1.0), fixed(9.0))

    assert found.verdict == "undecided" and "neither arm is trained" in found.reason


@pytest.mark.parametrize(
    ("ours", "theirs", "missing"), [((1, 2), (9, 8, 9), 1), ((1, 2, 3), (9,), 2), ((9, 8), (1, 2), 1), ((1,), (9,), 2)]
)
def test_fewer_than_three_training_seeds_an_arm_decide_nothing(ours, theirs, missing):
    found = compare(side(*ours, half=0.01), side(*theirs, half=0.01))

    assert found.verdict == "undecided" and found.reason.endswith(f"at least {missing} more")
    assert compare(side(1, 2, half=0.1), fixed(9)).reason.endswith("at least 1 more")


def test_a_difference_that_retraining_alone_explains_decides_nothing_however_small_the_intervals():
    just_below, just_above = (100 * (1 - MARGIN * factor) for factor in (0.99, 1.01))
    quiet = {"half": 1e-6}

    found = compare(side(*[just_below] * 3, **quiet), side(100, 100, 100, **quiet))

    assert found.verdict == "undecided" and "below 1.3 %" in found.reason
    assert compare(side(*[just_above] * 3, **quiet), side(100, 100, 100, **quiet)).verdict == "held"


def test_both_intervals_count_together():
    ours, theirs = (79.0, 80.0, 81.0), (84.0, 84.0, 84.0)  # over seeds ± 2.48
    quiet, loud = ({"half": half} for half in (0.0, 2.4))  # over images ± 3.39: 4.2 together

    assert compare(side(*ours, **quiet), side(*theirs, **quiet)).verdict == "held"
    found = compare(side(*ours, **loud), side(*theirs, **loud))
    assert found.reach == pytest.approx(math.hypot(found.over_seeds, math.hypot(2.4, 2.4)))
    assert (
        found.verdict == "undecided" and found.reason == "1 further seed per arm would decide a difference of this size"
    )


def test_an_interval_over_images_that_is_too_wide_asks_for_images_not_seeds():
    found = compare(side(10, 11, 12, half=8), side(20, 21, 22, half=8))

    assert found.verdict == "undecided" and "score more images" in found.reason


def test_the_number_of_further_seeds_is_the_smallest_that_would_decide():
    found = compare(side(90, 110, 70, half=0), side(120, 100, 110, half=0))
    differences = (-30, 10, -40)
    sd, mean = stats.tstd(differences), 20.0

    needed = next(n for n in range(3, 100) if stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n) < mean)
    assert found.reason.startswith(f"{needed - 3} further seeds per arm")
    assert "not even" in compare(side(90, 190, 20, half=0), side(98, 97, 99, half=0)).reason


def test_a_claim_of_closeness_allows_the_other_arm_a_share_more():
    ours, theirs = side(104, 104, 104, half=0.1), side(103, 103, 103, half=0.1)

    assert compare(ours, theirs).verdict == "undecided"  # within the margin
    assert compare(ours, theirs, 1.05).verdict == "held"
    assert compare(side(110, 110, 110, half=0.1), theirs, 1.05).verdict == "did not hold"


def test_without_an_interval_over_images_the_one_over_seeds_decides():
    assert compare(side(10, 11, 12, half=None), side(20, 21, 22, half=None)).verdict == "held"


def test_the_combined_interval_is_the_root_of_the_squares():
    assert combined(side(1, half=3.0), side(1, half=4.0)) == pytest.approx(5.0)


def test_what_both_sides_share_cancels_in_the_interval():
    shared = (100.0, 130.0, 70.0, 120.0)
    ours, theirs = (side(90.0, half=50.0, replicates=tuple(v * x for v in shared)) for x in (1.0, 1.1))
    apart = side(99.0, half=50.0, replicates=tuple(reversed(shared)))

    assert combined(ours, side(100.0, half=50.0, replicates=tuple(v + 10 for v in shared))) == pytest.approx(
        0, abs=1e-9
    )
    assert combined(ours, theirs) < combined(ours, apart) / 5
    assert combined(ours, side(100.0, half=50.0)) == pytest.approx(math.hypot(50, 50))


def test_the_paired_interval_is_students_t_times_the_jackknifes_standard_error():
    ours, theirs = side(3.0, replicates=(1.0, 2.0, 6.0)), side(1.0, replicates=(1.0, 1.0, 2.0))

    spread = math.sqrt(2 / 3 * sum((x - 5 / 3) ** 2 for x in (0, 1, 4)))
    assert combined(ours, theirs) == pytest.approx(4.302653 * spread, rel=1e-5)
