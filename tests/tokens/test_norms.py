"""Normalisation in float32, whatever the precision of the network."""

import pytest
import torch

from mixar.tokens.norms import Norm, wide


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_of_the_result_have_mean_zero_and_deviation_one(dtype):
    h = 5 + 3 * torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))

    found = Norm(64).to(dtype)(h.to(dtype))

    groups = found.float().unflatten(1, (32, 2)).flatten(2)
    assert found.dtype == dtype
    assert groups.mean(2).abs().max() < 0.01
    assert (groups.std(2, unbiased=False) - 1).abs().max() < 0.01


def test_a_bfloat16_norm_is_the_float32_one_rounded_once():
    h = (100 + torch.randn(2, 64, 8, 8, generator=torch.Generator().manual_seed(0))).to(torch.bfloat16)

    found = Norm(64).to(torch.bfloat16)(h)

    assert torch.equal(found, Norm(64)(h.float()).to(torch.bfloat16))


def test_narrow_types_are_widened_to_float32_and_float64_stays():
    types = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

    assert [wide(torch.zeros(1, dtype=t)).dtype for t in types] == [torch.float32] * 3 + [torch.float64]
