"""The masked autoregressive transformer by laws; test_released_parity.py compares it with MAR's released code."""

from functools import partial

import pytest
import torch
from toy_models import (
    BITS,
    CHANNELS,
    CLASSES,
    EVERY_VARIANT,
    LENGTH,
    SMALL,
    STRATEGIES,
    assert_near,
    randomise,
    toy_batch,
    toy_mar,
    toy_study,
)

from mixar.model.decode import sample_latents
from mixar.model.guidance import DCSelfAttention
from mixar.model.layers import Block, take
from mixar.model.mar import MAR
from mixar.model.masking import split_positions
from mixar.study.sections import Sampler

STEPS = 200  # of overfitting


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_latents_at_masked_positions_do_not_matter(strategy):
    model, batch = randomise(toy_mar(strategy)), toy_batch()
    z = model.condition(**batch)
    batch["x"] = batch["x"].masked_fill(batch["m"][..., None], 7.0)
    assert torch.equal(model.condition(**batch), z)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("num_masked", [0, 1, LENGTH])
def test_any_number_of_positions_may_be_missing(strategy, num_masked):
    z = toy_mar(strategy).condition(**toy_batch(num_masked=num_masked))
    assert z.shape == (2, LENGTH, 32) and z.isfinite().all()


class OwnBlock(Block):
    """A block that computes all rows."""

    def forward(self, h):
        return super().forward(h)


class OwnEnd(DCSelfAttention):
    """DC-SA that removes its prefix itself."""

    def leave(self, h, stage):
        return super().leave(h, stage)


def with_own_block(strategy):
    model = toy_mar(strategy)
    model.decoder_blocks[-1] = OwnBlock(SMALL, "decoder")
    return model


@pytest.mark.parametrize(
    "build",
    [*(partial(toy_mar, name, **options) for name, options in EVERY_VARIANT), partial(with_own_block, "dc_sa"),
     lambda: MAR(SMALL, OwnEnd(SMALL.width, LENGTH, BITS), LENGTH, CHANNELS, CLASSES).eval()],
)  # fmt: skip
def test_positions_that_are_read_have_the_values_and_gradients_of_all(build):
    model, batch = randomise(build()), toy_batch(3)
    rows = torch.tensor([[0, 9], [3, 4], [15, 2]])
    weight = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0))
    some, all_rows = model.condition(**batch, rows=rows), take(model.condition(**batch), rows)

    assert_near(some, all_rows)
    gradients = [
        torch.autograd.grad((z * weight).sum(), model.parameters(), materialize_grads=True) for z in (some, all_rows)
    ]
    for name, found, expected in zip(dict(model.named_parameters()), *gradients, strict=True):
        assert "diffloss" in name or expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=name)


def test_the_last_block_computes_queries_and_mlp_for_masked_positions_alone():
    model, sizes = toy_mar("dc_sa"), []
    model.decoder_blocks[-1].mlp.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape[1]))

    model(**toy_batch(num_masked=11), rng=torch.Generator().manual_seed(0))

    assert sizes == [11]


def test_a_dropped_class_is_ignored():
    model, batch = randomise(toy_mar()), toy_batch(size=2)
    z = model.condition(**batch)
    batch["c"] = (batch["c"] + 1) % 4
    kept, dropped = (model.condition(**batch) - z).abs().amax((1, 2))
    assert kept > 0 and dropped == 0


def test_images_do_not_influence_each_other():
    model, batch = randomise(toy_mar("dc_mix")), toy_batch(size=3)
    alone = model.condition(**{k: v[1:2] for k, v in batch.items()})
    torch.testing.assert_close(model.condition(**batch)[1:2], alone, rtol=1e-5, atol=1e-5)


def test_positions_split_into_visible_and_masked_in_ascending_order():
    m = torch.tensor([[True, False, True, False], [False, False, True, True]])
    visible, masked = split_positions(m)
    assert visible.tolist() == [[1, 3], [0, 1]] and masked.tolist() == [[0, 2], [2, 3]]


def test_rows_that_miss_unequal_numbers_of_tokens_are_refused():
    with pytest.raises(AssertionError, match="between 1 and 2"):
        split_positions(torch.tensor([[True, False, False], [True, True, False]]))


def test_the_same_generator_state_gives_the_same_loss():
    model, batch = randomise(toy_mar("dc_mix")), toy_batch()
    losses = [model(**batch, rng=torch.Generator().manual_seed(seed), head_batch_multiplier=3) for seed in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bfloat16_autocast_stays_near_float32(strategy):
    model, batch = toy_mar(strategy), toy_batch()
    z = model.condition(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert_near(model.condition(**batch), z, 0.05)
        loss = model(**batch, rng=torch.Generator().manual_seed(0), head_batch_multiplier=2)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_network_cast_to_bfloat16_stays_near_float32_and_draws_float32_latents(strategy):
    model, batch = toy_mar(strategy), toy_batch()
    z = model.condition(**batch)
    model.to(torch.bfloat16)
    assert_near(model.condition(**batch).float(), z, 0.05)
    sampler, rng = Sampler(num_iterations=3, head_steps=4, cfg=2.0), torch.Generator().manual_seed(0)
    x = sample_latents(model, batch["q"], batch["c"], sampler, rng)
    assert x.dtype == torch.float32 and x.isfinite().all()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_eight_images_can_be_overfitted_and_are_drawn_again(strategy):
    """Without guidance the class tells the images apart; with it only the tokens do, for all are of one class."""
    model, batch = toy_mar(strategy, model=SMALL.model_copy(update={"head_width": 64})).train(), toy_batch(size=8)
    model.class_emb = torch.nn.Embedding(8, SMALL.width)
    batch["drop"] = torch.zeros(8, dtype=torch.bool)
    batch["c"] = torch.arange(8) if strategy == "none" else torch.zeros(8, dtype=torch.int64)
    rng, optimizer = torch.Generator().manual_seed(0), torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(STEPS):
        orders = torch.rand(8, LENGTH, generator=rng).argsort(1)
        batch["m"] = torch.zeros(8, LENGTH, dtype=torch.bool).scatter_(1, orders[:, : 12 + step % 5], True)
        model(**batch, rng=rng, head_batch_multiplier=8).backward()
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / STEPS)
        optimizer.step()
        optimizer.zero_grad()

    sampler = Sampler(num_iterations=4, head_steps=50, cfg=1.0, temperature=0.0, clip=4.0)
    drawn = sample_latents(model.eval(), batch["q"], batch["c"], sampler, torch.Generator().manual_seed(1))

    error = (drawn - batch["x"]).square().mean().sqrt() / batch["x"].std()
    others = (drawn - batch["x"].roll(1, dims=0)).square().mean().sqrt() / batch["x"].std()
    assert error < 0.5 < 1.2 < others  # a model that saw nothing would be as far from its image as from another


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("strategy", "options"), EVERY_VARIANT)
def test_checkpointed_blocks_run_twice_and_change_no_bit_of_loss_and_gradients(strategy, options, autocast):
    dropout = SMALL.model_copy(update={"dropout": 0.1})
    model, batch = randomise(toy_mar(strategy, model=dropout, **options)).train(), toy_batch(4)
    found, calls = [], []
    model.encoder_blocks[1].mlp.fc1.register_forward_hook(lambda *_: calls.append(model.checkpoint_blocks))

    for model.checkpoint_blocks in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**batch, rng=torch.Generator().manual_seed(0), head_batch_multiplier=2)
        found.append([loss, *torch.autograd.grad(loss, model.parameters()), torch.rand(3)])

    assert calls == [False, True, True]
    assert all(torch.equal(plain, again) for plain, again in zip(*found, strict=True))


@pytest.mark.parametrize(("autocast", "allowed"), [(False, 1e-5), (True, 0.02)])
@pytest.mark.parametrize(("strategy", "options"), EVERY_VARIANT)
def test_one_noise_draw_at_a_time_gives_the_same_loss_and_gradients(strategy, options, autocast, allowed):
    dropout = SMALL.model_copy(update={"dropout": 0.1})
    model, batch = randomise(toy_mar(strategy, model=dropout, **options)).train(), toy_batch(4)
    found, rows = [], []
    model.diffloss.net.input_proj.register_forward_hook(lambda _m, _in, out: rows.append(len(out)))

    for model.diffloss.sequential_draws in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**batch, rng=torch.Generator().manual_seed(0), head_batch_multiplier=3)
        found.append([loss, *torch.autograd.grad(0.5 * loss, model.parameters())])

    assert rows == [3 * 44, 44, 44, 44]
    for at_once, in_turn in zip(*found, strict=True):
        assert_near(in_turn, at_once, allowed)


def test_memory_is_saved_where_the_hardware_of_a_run_says_so():
    saving = {"checkpoint_blocks": True, "sequential_draws": True}
    study = toy_study(hardware={"runs": {"dc_ca": saving}})
    models = {run: MAR.from_study(study, run) for run in study.runs}

    assert [run for run, model in models.items() if model.checkpoint_blocks] == ["dc_ca"]
    assert [run for run, model in models.items() if model.diffloss.sequential_draws] == ["dc_ca"]
