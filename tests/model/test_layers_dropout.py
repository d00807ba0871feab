"""Dropout and attention of the blocks by laws."""

import pytest
import torch
from torch.nn import functional as F
from toy_models import EVERY_VARIANT, SMALL, randomise, toy_batch, toy_mar, toy_study

from mixar.model.layers import Dropout, attention, set_fast_dropout
from mixar.model.mar import MAR


def fast(rate):
    drop = Dropout(rate).train()
    drop.is_fast = True
    return drop


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_fast_dropout_keeps_and_scales_each_element_independently(rate):
    torch.manual_seed(0)
    found = fast(rate)(torch.ones(400, 1001))

    kept = found != 0
    share, deviation = 1 - rate, (rate * (1 - rate) / found.numel()) ** 0.5
    assert abs(kept.double().mean().item() - share) < 4 * deviation
    assert torch.allclose(found[kept], torch.tensor(1 / share), rtol=1e-3)
    # Each number of four shares its random word with three others, of which none tells anything about it.
    for shift in (1, 2, 3, 4, 1001):
        both = (kept.flatten()[shift:] & kept.flatten()[:-shift]).double().mean().item()
        assert abs(both - share**2) < 4 * deviation


def test_fast_dropout_is_unbiased_and_its_gradient_has_the_same_mask():
    torch.manual_seed(0)
    h = torch.ones(300, 301, requires_grad=True)
    found = fast(0.1)(h)
    found.sum().backward()

    assert torch.equal(h.grad, found.detach())
    assert abs(found.mean().item() - 1) < 4 * (0.1 / 0.9 / h.numel()) ** 0.5


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_fast_dropout_at_its_ends_is_torchs(rate):
    h = torch.randn(5, 7)
    assert torch.equal(fast(rate)(h), F.dropout(h, rate))


def test_attention_with_fast_dropout_has_the_mean_of_attention_without():
    rng = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 5, 8, generator=rng)
    torch.manual_seed(0)
    mean = torch.stack([attention(q, k, v, fast(0.2)) for _ in range(4000)]).mean(dim=0)

    torch.testing.assert_close(mean, F.scaled_dot_product_attention(q, k, v), rtol=0, atol=0.05)


@pytest.mark.parametrize(("strategy", "options"), EVERY_VARIANT)
def test_without_a_rate_fast_dropout_changes_nothing_beyond_rounding(strategy, options):
    model, batch = randomise(toy_mar(strategy, **options)).train(), toy_batch(3)
    plain = model(**batch, rng=torch.Generator().manual_seed(0))

    set_fast_dropout(model, True)

    torch.testing.assert_close(model(**batch, rng=torch.Generator().manual_seed(0)), plain)


def test_fast_dropout_draws_from_the_seeded_state_and_only_while_training():
    model, batch = toy_mar("dc_ca", model=SMALL.model_copy(update={"dropout": 0.3})), toy_batch()
    z = model.condition(**batch)
    set_fast_dropout(model, True)
    torch.testing.assert_close(model.condition(**batch), z)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model.train().condition(**batch))
    assert torch.equal(drawn[0], drawn[1]) and not torch.allclose(drawn[0], drawn[2])


def test_dropout_is_fast_where_the_hardware_of_a_run_says_so():
    study = toy_study(hardware={"runs": {"dc_ca": {"fast_dropout": True}}})

    for run in study.runs:
        modules = [m for m in MAR.from_study(study, run).modules() if isinstance(m, torch.nn.Dropout)]
        assert modules and all(isinstance(m, Dropout) and m.is_fast == (run == "dc_ca") for m in modules)
