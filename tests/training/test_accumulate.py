"""One optimizer step in parts: neither processes nor micro-batches change what is computed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from two_processes import CPU, exit_codes_of_two, one_of_several, trained

from mixar.study.sections import GeneratorTraining, MarTraining
from mixar.training.accumulate import cuts_of
from mixar.training.distributed import Context

ALONE = Context(0, 1, CPU)
BASIC = {"epochs": 1, "batch_size": 8, "learning_rate": 1.0}
GROUPED = [{}, {"mask_group": 4}, {"mask_group": 2, "equal_mask_rates": True}]


@pytest.fixture(scope="module", params=GROUPED, ids=str)
def whole(request):
    """A kind of groups, and the training of one process that takes a group at a time."""
    return request.param, trained(ALONE, None, **request.param)


def assert_same_training(found, expected):
    for name in expected.keys() - {"sums"}:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_micro_batches_change_no_number(whole, micro_batch):
    groups, expected = whole

    assert_same_training(trained(ALONE, micro_batch, **groups), expected)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_change_no_number_and_sum_gradients_once_a_step(tmp_path, count):
    trainings = {
        f"{number} {micro_batch}": {**groups, "micro_batch": micro_batch}
        for number, groups in enumerate(GROUPED)
        for micro_batch in (8 // count, 1)
        if number == 0 or micro_batch == 1
    }
    trainings["0 one draw at a time"] = {"micro_batch": 4 // count, "sequential_draws": True}

    assert exit_codes_of_two(one_of_several, tmp_path, count, count, trainings) == [0] * count

    for name in trainings:
        found, groups = load_file(tmp_path / f"{name}.safetensors"), GROUPED[int(name[0])]
        assert_same_training(found, trained(ALONE, None, **groups))
        assert found["sums"] == 3, name


def test_groups_change_the_numbers():
    losses = {float(trained(ALONE, 2, **groups)["loss"]) for groups in (*GROUPED, {"mask_group": 2})}

    assert len(losses) == 4


def test_a_micro_batch_knows_its_group_and_its_rows_in_it():
    settings = MarTraining(**BASIC, mask_group=4)

    cuts = list(cuts_of(settings.model_copy(update={"micro_batch": 2}), 8, slice(4, 8)))

    assert [(cut.images, cut.number, cut.group_number, cut.group.size) for cut in cuts] == [
        (slice(4, 6), 2, 1, 4),
        (slice(6, 8), 3, 1, 4),
    ]
    assert [cut.group.part for cut in cuts] == [slice(0, 2), slice(2, 4)]


def test_other_networks_draw_for_each_micro_batch_and_the_last_may_be_smaller():
    cuts = list(cuts_of(GeneratorTraining(**BASIC, micro_batch=3), 8, slice(0, 8)))

    assert [(cut.images, cut.group_number, cut.group.size) for cut in cuts] == [
        (slice(0, 3), 0, 3),
        (slice(3, 6), 1, 3),
        (slice(6, 8), 2, 2),
    ]
