"""Generation orders, mask rates and the sampling loop's schedule."""

import math

import pytest
import torch

from mixar.model.masking import (
    mask_first,
    mask_rate_at,
    masked_counts,
    sample_mask_rate,
    sample_orders,
    skeleton_counts,
    skeleton_orders,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_order_is_a_permutation_and_depends_only_on_the_generator():
    orders = sample_orders(50, 12, generator())

    assert orders.dtype == torch.int64
    assert torch.equal(orders.sort(dim=1).values, torch.arange(12).expand(50, 12))
    assert torch.equal(orders, sample_orders(50, 12, generator()))
    assert not torch.equal(orders, sample_orders(50, 12, generator(1)))


def test_every_position_comes_first_equally_often():
    first = sample_orders(8000, 4, generator())[:, 0]

    shares = first.bincount(minlength=4) / len(first)

    assert (shares - 0.25).abs().max() < 0.02


@pytest.mark.parametrize("side", [1, 3, 4])
def test_a_skeleton_is_every_second_field_and_comes_first_in_a_random_order(side):
    orders, light = skeleton_orders(50, side**2, generator()), side**2 // 2

    first = orders[:, light:]  # entries at the end are drawn first
    assert ((first // side + first % side) % 2 == 0).all()
    assert torch.equal(orders.sort(dim=1).values, torch.arange(side**2).expand(50, -1))
    assert side < 3 or len({tuple(order) for order in first.tolist()}) > 10


def test_a_skeleton_is_whole_before_the_rest_begins():
    counts = skeleton_counts(256, 20, 16)

    assert counts[15] == 128 and counts[-1] == 0 and len(counts) == 20
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 20
    assert skeleton_counts(9, 4, 2)[1] == 4  # nine fields: five dark ones, four light


def test_the_mask_hides_exactly_the_first_entries_of_each_order():
    orders = sample_orders(6, 9, generator())

    for count in range(10):
        m = mask_first(orders, count)
        assert m.dtype == torch.bool and m.sum(dim=1).tolist() == [count] * 6
        assert m.gather(1, orders[:, :count]).all()


def test_a_longer_mask_contains_a_shorter_one():
    orders = sample_orders(6, 9, generator())

    masks = [mask_first(orders, count) for count in range(10)]

    assert all((shorter <= longer).all() for shorter, longer in zip(masks, masks[1:], strict=False))


def test_drawn_mask_rates_have_the_moments_of_the_truncated_normal():
    rng = generator()

    rates = torch.tensor([sample_mask_rate(0.7, rng) for _ in range(4000)])

    assert rates.min() >= 0.7 and rates.max() <= 1
    assert rates.mean().item() == pytest.approx(0.86702, abs=0.005)  # MAR
    assert rates.std().item() == pytest.approx(0.08355, abs=0.003)


@pytest.mark.parametrize("rate_min", [0.0, 0.3, 0.7, 1.0])
def test_mask_rates_never_leave_their_range_and_rise_with_the_quantile(rate_min):
    rates = [mask_rate_at(u, rate_min) for u in torch.linspace(0, 1, 101).tolist()]

    assert rates == sorted(rates)
    assert (rates[0], rates[-1]) == (pytest.approx(rate_min), 1.0)
    assert math.ceil(256 * max(rates)) <= 256


def drawn(length, num_iterations):
    counts = [length, *masked_counts(length, num_iterations)]
    return [before - after for before, after in zip(counts, counts[1:], strict=False)]


def test_tokens_drawn_per_iteration_equal_those_of_mar():
    assert drawn(256, 8) == [5, 15, 24, 31, 39, 45, 48, 49]
    assert drawn(256, 16)[:4] == [2, 3, 7, 8] and drawn(256, 16)[-2:] == [24, 25]
    assert drawn(256, 64)[:4] == [1, 1, 1, 1] and drawn(256, 64)[-4:] == [7, 6, 6, 6]
    assert max(drawn(256, 32)) == 13 and max(drawn(256, 64)) == 7
    assert drawn(256, 256) == [1] * 256


@pytest.mark.parametrize(("length", "num_iterations"), [(1, 1), (16, 1), (16, 5), (16, 16), (4, 9), (256, 100)])
def test_every_token_is_drawn_once_whatever_the_number_of_iterations(length, num_iterations):
    tokens = drawn(length, num_iterations)

    assert len(tokens) == num_iterations
    assert sum(tokens) == length and min(tokens) >= 0
    assert num_iterations > length or min(tokens) >= 1
