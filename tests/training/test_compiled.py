"""Compiled blocks and head: the same numbers, a bounded number of compilations, and a way back."""

import copy

import pytest
import torch
from torch import nn
from toy_models import toy_batch, toy_mar

from mixar.training.compiled import compile_regions, regions_of


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def loss_of(model, num_masked):
    return model(**toy_batch(num_masked=num_masked), rng=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("strategy", ["none", "dc_sa"])
def test_blocks_are_compiled_a_few_times_for_all_numbers_of_masked_tokens(strategy):
    compiled, model = [], toy_mar(strategy).train()
    plain = copy.deepcopy(model)

    def counting(graph, inputs):
        compiled.append(graph)
        return graph.forward

    assert compile_regions(model, lambda: loss_of(model, 9), backend=counting) is None
    assert all(p.grad is None for p in model.parameters())
    for num_masked in (10, 7, 12, 11, 8, 6, 13, 5):
        found, expected = (loss_of(network, num_masked) for network in (model, plain))
        torch.testing.assert_close(found, expected)

    assert 0 < len(compiled) <= 8, "two of each region's code: blocks of both stages, and the head's"
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_where_compiling_fails_blocks_run_as_they_are_and_the_reason_is_given():
    model = toy_mar().train()
    expected = loss_of(copy.deepcopy(model), 9)

    def failing(graph, inputs):
        raise RuntimeError("no compiler here")

    reason = compile_regions(model, lambda: loss_of(model, 9), backend=failing)

    assert "no compiler here" in reason
    assert torch.equal(loss_of(model, 9), expected)


def test_regions_are_the_members_of_lists():
    model = nn.Sequential(nn.Linear(1, 1), nn.ModuleList([nn.Linear(2, 2), nn.ReLU()]))

    assert regions_of(model) == [*model[1]]
