"""The sampling loop by laws; test_released_parity.py compares it with MAR's released code."""

import math

import pytest
import torch
from toy_models import BITS, CHANNELS, EVERY_VARIANT, LENGTH, STRATEGIES, assert_near, randomise, toy_mar

from mixar.model.decode import head_steps_at, sample_latents, steps_of
from mixar.model.layers import take
from mixar.study.sections import Sampler


def sampler_of(**settings):
    return Sampler(**{"num_iterations": 5, "head_steps": 3, "cfg": 2.0, **settings})


def toy_tokens(size=3):
    rng = torch.Generator().manual_seed(8)
    return torch.randint(2**BITS, (size, LENGTH), generator=rng), torch.arange(size)


def draw(model, q, c, sampler, seed=0):
    return sample_latents(model, q, c, sampler, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("num_iterations", [1, 2, 7, LENGTH, 40])
def test_the_steps_draw_every_token_once_and_skip_what_is_empty(num_iterations):
    steps = list(steps_of(LENGTH, sampler_of(num_iterations=num_iterations)))
    assert steps[0].missing == LENGTH and steps[-1].left == 0
    assert all(a.left == b.missing for a, b in zip(steps, steps[1:], strict=False))
    assert all(step.left < step.missing for step in steps)
    assert len(steps) == min(num_iterations, LENGTH)


def test_a_skeleton_is_drawn_before_what_is_between(monkeypatch):
    model, (q, c), seen = toy_mar("dc_mix").eval(), toy_tokens(), []
    monkeypatch.setattr(model, "condition", lambda *a, f=model.condition: (seen.append(a[7]), f(*a))[1])
    side = math.isqrt(LENGTH)

    latents = draw(model, q, c, sampler_of(num_iterations=5, skeleton_iterations=3))

    dark = [((rows // side + rows % side) % 2 == 0) for rows in seen]
    assert len(seen) == 5 and all(part.all() for part in dark[:3]) and not any(part.any() for part in dark[3:])
    assert latents.isfinite().all()


def test_the_linear_weight_rises_and_never_reaches_its_end():
    weights = [step.cfg for step in steps_of(LENGTH, sampler_of(num_iterations=8, cfg=3.0))]
    assert weights == sorted(weights) and weights[0] > 1
    assert math.isclose(weights[-1], 1 + 2 * (LENGTH - 1) / LENGTH)


def steps_over(**settings):
    sampler = sampler_of(num_iterations=64, head_steps=50, **settings)
    return [head_steps_at(k, sampler) for k in range(64)]


def test_head_steps_fall_as_each_schedule_says():
    linear = steps_over(head_schedule="linear", head_steps_last=5)
    assert linear == [int((63 - k) / 63 * 45) + 5 for k in range(64)]  # DiSA's recipe
    cosine = steps_over(head_schedule="cosine", head_steps_last=5)
    assert (cosine[0], cosine[-1]) == (50, 5) and cosine == sorted(cosine, reverse=True)
    assert cosine[16] > linear[16] and cosine[48] < linear[48]
    assert steps_over(head_schedule="two_stage", head_steps_last=5, head_switch=0.25) == [50] * 16 + [5] * 48
    assert steps_over() == [50] * 64
    assert head_steps_at(0, sampler_of(num_iterations=1, head_schedule="linear", head_steps_last=2)) == 2


@pytest.mark.parametrize(
    "neutral",
    [
        {"cfg_interval": (0.0, 1.0)},
        *({"head_schedule": name, "head_steps_last": 3} for name in ("linear", "cosine", "two_stage")),
    ],
)
@pytest.mark.parametrize(("strategy", "options"), EVERY_VARIANT)
def test_neutral_settings_draw_what_the_reference_sampler_draws_bit_for_bit(strategy, options, neutral):
    model, (q, c) = randomise(toy_mar(strategy, **options)), toy_tokens()

    assert torch.equal(draw(model, q, c, sampler_of(**neutral)), draw(model, q, c, sampler_of()))


@pytest.mark.parametrize(("strategy", "options"), EVERY_VARIANT)
def test_where_the_interval_ends_nothing_is_guided_and_no_unguided_branch_runs(strategy, options):
    model, (q, c) = randomise(toy_mar(strategy, **options)), toy_tokens()
    rows = []
    watch = model.diffloss.net.cond_embed.register_forward_hook(lambda _m, inputs, _out: rows.append(len(inputs[0])))
    sampler = sampler_of(cfg_interval=(0.3, 0.8))
    steps = list(steps_of(LENGTH, sampler))

    never = draw(model, q, c, sampler_of(cfg_interval=(0.0, 1e-9)))
    alone = draw(model, q, c, sampler_of(cfg=1.0))
    rows.clear()
    part = draw(model, q, c, sampler)
    watch.remove()

    assert torch.equal(never, alone)
    assert rows == [3 * (step.missing - step.left) * step.branches for step in steps]
    assert {step.branches for step in steps} == {1, 2} and steps[0].branches == steps[-1].branches == 1
    assert not torch.equal(part, alone) and not torch.equal(part, draw(model, q, c, sampler_of()))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cfg", [1.0, 2.5])
def test_every_strategy_draws_finite_latents_reproducibly(strategy, cfg):
    model, (q, c) = randomise(toy_mar(strategy)), toy_tokens()
    first, again, other = (draw(model, q, c, sampler_of(cfg=cfg), seed) for seed in (0, 0, 1))
    assert first.shape == (3, LENGTH, CHANNELS) and first.isfinite().all()
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_guidance_by_almost_one_approaches_the_single_branch():
    model, (q, c) = randomise(toy_mar("dc_mix")), toy_tokens()
    alone = draw(model, q, c, sampler_of(cfg=1.0))
    nearly = draw(model, q, c, sampler_of(cfg=1.0 + 1e-7, cfg_schedule="constant"))
    torch.testing.assert_close(alone, nearly, rtol=1e-3, atol=1e-3 * alone.abs().max().item())


def test_one_iteration_draws_every_token_at_once():
    model, (q, c) = randomise(toy_mar()), toy_tokens()
    sizes = []
    sample_latents(model, q, c, sampler_of(num_iterations=1), torch.Generator().manual_seed(0), progress=sizes.append)
    assert sizes == [LENGTH]


def test_the_number_of_network_passes_is_the_number_of_steps():
    model, (q, c) = randomise(toy_mar()), toy_tokens()
    passes = []
    model.decoder_norm.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    draw(model, q, c, sampler_of(num_iterations=40, cfg=2.0))
    assert passes == [6] * LENGTH, "with guidance both branches run in one pass of twice the rows"
    passes.clear()
    draw(model, q, c, sampler_of(num_iterations=4, cfg=1.0))
    assert passes == [3] * 4


@pytest.mark.parametrize("cfg", [1.0, 2.5])
@pytest.mark.parametrize(("strategy", "options"), EVERY_VARIANT)
def test_each_iteration_equals_one_without_cache_of_full_halves_and_all_positions(strategy, options, cfg, monkeypatch):
    model, (q, c) = randomise(toy_mar(strategy, **options)), toy_tokens()
    drawn = draw(model, q, c, sampler_of(cfg=cfg))
    condition, calls = model.condition, []

    def plain(x, q, m, c, drop, cache, missing, rows):
        calls.append(len(c) // len(x))
        x, q, m, rows = (h.repeat(calls[-1], *[1] * (h.dim() - 1)) for h in (x, q, m, rows))
        return take(condition(x, q, m, c, drop), rows)

    monkeypatch.setattr(model, "condition", plain)
    assert_near(draw(model, q, c, sampler_of(cfg=cfg)), drawn)
    assert calls == [1 if cfg == 1 else 2] * 5


@pytest.mark.parametrize(("strategy", "options"), EVERY_VARIANT)
def test_what_depends_on_tokens_and_class_alone_is_computed_once_an_image(strategy, options):
    model, (q, c) = randomise(toy_mar(strategy, **options)), toy_tokens()
    rows = {}

    def count(name):
        return lambda _, inputs, __: rows.setdefault(name, []).append(len(inputs[0]))

    model.class_emb.register_forward_hook(count("class_emb"))
    for name, module in model.named_modules():
        if name.endswith(("cross.k", "cross.v")) or name in ("guidance.table", "guidance.embed"):
            module.register_forward_hook(count(name))
    draw(model, q, c, sampler_of())

    halves = 2 if options.get("drop_tokens_in_null") else 1
    stages = 2 if strategy == "dc_ca" or options.get("stage") == "both" else 1
    expected = {name: [3 * halves] * (stages if name == "guidance.table" else 1) for name in rows}
    assert rows == {**expected, "class_emb": [6]}
