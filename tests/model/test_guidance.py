"""Guidance strategies: what turns each back into MAR, what each owns, and how one of your own is plugged in."""

import pytest
import torch
from toy_models import (
    BITS,
    EVERY_VARIANT,
    LENGTH,
    SMALL,
    STRATEGIES,
    randomise,
    toy_batch,
    toy_mar,
    toy_pair,
    toy_study,
)

from mixar.model.guidance import DROPPED, build_guidance, load_strategy, token_bits
from mixar.model.layers import CrossBlock
from mixar.model.mar import MAR


def loss_of(model, batch):
    return model(**batch, rng=torch.Generator().manual_seed(3), head_batch_multiplier=2)


def test_dc_mix_with_a_constant_embedding_equals_mar_bit_for_bit():
    plain, mixed = toy_pair("dc_mix")
    mixed.guidance.embed.weight.data.zero_()
    mixed.guidance.embed.bias.data = plain.guidance.mask_token.data.flatten()
    batch = toy_batch()
    assert torch.equal(plain.condition(**batch), mixed.condition(**batch))
    assert torch.equal(loss_of(plain, batch), loss_of(mixed, batch))


def test_dc_ca_with_zero_output_projections_equals_mar_bit_for_bit():
    plain, crossed = toy_pair("dc_ca")
    for block in (*crossed.encoder_blocks, *crossed.decoder_blocks):
        block.cross.o.weight.data.zero_()
    batch = toy_batch()
    assert torch.equal(plain.condition(**batch), crossed.condition(**batch))
    assert torch.equal(loss_of(plain, batch), loss_of(crossed, batch))


@pytest.mark.parametrize("stage", ["decoder", "encoder", "both"])
def test_dc_sa_does_not_depend_on_the_order_of_its_prefix(stage):
    model, batch = randomise(toy_mar("dc_sa", stage=stage)), toy_batch()
    z = model.condition(**batch)
    shuffle = torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))
    batch["q"] = batch["q"][:, shuffle]
    moved = model.condition(**batch)
    for table in model.guidance.positions.values():
        table.data = table.data[:, shuffle]
    torch.testing.assert_close(model.condition(**batch), z, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(moved, z, atol=1e-4), "tokens moved without their positions must make a difference"


@pytest.mark.parametrize("strategy", ["dc_mix", "dc_sa", "dc_ca"])
def test_the_tokens_make_a_difference_and_unguided_mar_ignores_them(strategy):
    plain, guided = toy_pair(strategy)
    batch, other = toy_batch(), toy_batch()
    other["q"] = (other["q"] + 1) % 2**BITS
    assert torch.equal(plain.condition(**batch), plain.condition(**other))
    assert not torch.allclose(guided.condition(**batch), guided.condition(**other), atol=1e-4)


def test_dc_mix_sees_tokens_of_masked_positions_only():
    model, batch = randomise(toy_mar("dc_mix")), toy_batch()
    z = model.condition(**batch)
    batch["q"] = torch.where(batch["m"], batch["q"], (batch["q"] + 1) % 2**BITS)
    assert torch.equal(model.condition(**batch), z)


@pytest.mark.parametrize(("strategy", "options"), EVERY_VARIANT)
def test_every_parameter_receives_a_gradient(strategy, options):
    model = randomise(toy_mar(strategy, **options)).train()
    loss_of(model, toy_batch(size=4)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


def test_only_strategies_that_use_a_mask_token_own_one():
    owners = {name for name in STRATEGIES if hasattr(toy_mar(name).guidance, "mask_token")}
    assert owners == {"none", "dc_sa", "dc_ca"}


@pytest.mark.parametrize("strategy", ["dc_mix", "dc_sa", "dc_ca"])
def test_tokens_are_dropped_with_the_class_only_if_asked(strategy):
    batch, other = toy_batch(size=2), toy_batch(size=2)
    other["q"] = (other["q"] + 1) % 2**BITS
    for drops in (False, True):
        model = randomise(toy_mar(strategy, drop_tokens_in_null=drops))
        with_class, without = (model.condition(**batch) - model.condition(**other)).abs().amax((1, 2))
        assert with_class > 1e-4
        assert (without < 1e-6) == drops


@pytest.mark.parametrize("strategy", ["dc_sa", "dc_ca"])
def test_a_cache_for_the_same_tokens_does_not_change_the_condition(strategy):
    model, cache = randomise(toy_mar(strategy)), {}
    first, second = toy_batch(), toy_batch(num_masked=4)
    model.condition(**first, cache=cache)
    assert torch.equal(model.condition(**second, cache=cache), model.condition(**second))


def test_bits_are_signed_with_the_lowest_first():
    bits = token_bits(torch.tensor([[6, DROPPED]]), 4)
    assert bits.tolist() == [[[-1, 1, 1, -1], [0, 0, 0, 0]]]


def test_an_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="'middle' is unknown; choose from encoder, decoder, both"):
        toy_mar("dc_sa", stage="middle")


def own_study(where, **options):
    run = {"label": "Mine", "model": "small", "guidance": {"strategy": where, "options": options}}
    return toy_study(runs={"mine": run})


def test_your_own_strategy_is_one_class_and_one_line_of_the_study():
    study = own_study("toy_strategies:Doubled", factor=3.0)
    model = MAR.from_study(study, "mine")
    assert model.guidance.factor == 3.0
    q, m = torch.zeros(2, 16, dtype=torch.long), torch.ones(2, 16, dtype=torch.bool)
    loss = model(torch.randn(2, 16, 3), q, m, q[:, 0], m[:, 0], torch.Generator().manual_seed(0))
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no_such_module:Doubled", "No module named 'no_such_module'"),
        ("toy_strategies:Tripled", "toy_strategies has no Tripled"),
        ("toy_strategies:learned", "expected 'module:Class'"),
        ("toy_strategies", "expected 'module:Class'"),
    ],
)
def test_a_strategy_that_cannot_be_loaded_says_why(where, message):
    with pytest.raises(ValueError, match=message):
        load_strategy(where)


def test_an_option_that_a_strategy_does_not_take_is_named():
    with pytest.raises(ValueError, match=r"runs.mine.guidance.options: toy_strategies:Doubled .*'speed'"):
        build_guidance(own_study("toy_strategies:Doubled", speed=1), "mine")


def test_a_wrong_option_is_answered_with_the_valid_ones():
    run = {"label": "run", "model": "small", "guidance": {"strategy": "dc_sa", "options": {"stag": "both"}}}
    with pytest.raises(ValueError, match="'stag'; did you mean 'stage'\\? it takes stage, drop_tokens_in_null"):
        build_guidance(toy_study(runs={"run": run}), "run")
    run["guidance"]["options"] = {"drop_tokens_in_null": "no"}
    with pytest.raises(ValueError, match="drop_tokens_in_null: expected true or false, found 'no'"):
        build_guidance(toy_study(runs={"run": run}), "run")


def test_dc_ca_has_a_cross_attention_after_every_block():
    model = toy_mar("dc_ca")
    assert all(isinstance(b, CrossBlock) for b in (*model.encoder_blocks, *model.decoder_blocks))


@pytest.mark.parametrize(
    "strategy, options", [("dc_ca", {}), ("dc_sa", {"stage": "encoder"}), ("dc_sa", {"stage": "both"})]
)
def test_tokens_that_join_the_encoder_need_halves_of_one_width(strategy, options):
    model = SMALL.model_dump() | {"decoder_width": 48}
    run = {"label": "run", "model": "small", "guidance": {"strategy": strategy, "options": options}}
    with pytest.raises(ValueError, match="models.small.decoder_width: 48 differs from width 32, and .*leave"):
        build_guidance(toy_study(model, runs={"run": run}), "run")


@pytest.mark.parametrize("strategy", ["none", "dc_mix", "dc_sa"])
def test_a_decoder_may_have_its_own_width_and_heads(strategy):
    model = SMALL.model_dump() | {"decoder_width": 48, "decoder_heads": 3}
    mar = MAR.from_study(toy_study(model), strategy)
    assert mar.encoder_blocks[0].attn.heads == 4 and mar.decoder_blocks[0].attn.heads == 3
    assert mar.condition(**toy_batch() | {"q": toy_batch()["q"] % 16}).shape == (2, LENGTH, 48)
