"""The generators of groups: the numbers of a group depend on its seed, step and place alone."""

import pytest
import torch

from mixar.model.masking import Group
from mixar.training.draws import Draws

CPU = torch.device("cpu")


def draws(key=(3, 7), number=0, part=slice(0, 4), equal_rates=False):
    return Draws.of(CPU, key, number, Group(4, part), equal_rates)


def rand(generator, count=4):
    return torch.rand(count, generator=generator)


@pytest.mark.parametrize("other", [{"key": (4, 7)}, {"key": (3, 8)}, {"number": 1}])
def test_seed_step_and_number_of_the_group_each_give_other_numbers(other):
    assert torch.equal(rand(draws()), rand(draws()))
    assert not torch.equal(rand(draws()), rand(draws(**other)))


def test_parts_of_a_group_are_mirrored_as_the_whole_group():
    whole = draws().flips()

    parts = [draws(part=part).flips() for part in (slice(0, 1), slice(1, 4))]

    assert whole.dtype == torch.bool and torch.equal(torch.cat(parts), whole)


def test_about_half_of_the_images_are_mirrored():
    flips = Draws.of_all(CPU, 0, 4000).flips()

    assert 1850 < int(flips.sum()) < 2150  # within 4.7 standard deviations


def test_groups_of_a_step_share_the_mask_rate_only_where_asked():
    own = [rand(draws(number=number).mask_rate, 1) for number in (0, 1)]
    shared = [rand(draws(number=number, equal_rates=True).mask_rate, 1) for number in (0, 1)]
    later = rand(draws((3, 8), equal_rates=True).mask_rate, 1)

    assert not torch.equal(*own) and torch.equal(*shared) and not torch.equal(shared[0], later)
    assert not torch.equal(rand(draws(number=0, equal_rates=True)), rand(draws(number=1, equal_rates=True)))


def test_a_batch_at_hand_is_one_group_and_draws_everything_from_one_generator():
    whole = Draws.of_all(CPU, 5, 6)

    assert whole.group == Group(6, slice(0, 6)) and whole.host is whole and whole.mask_rate is whole
