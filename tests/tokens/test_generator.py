"""The bit transformer: laws of its groups, masking, loss, schedules, sampling and weights."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from mixar.study import sections
from mixar.tokens import generator as g


def tiny(seed=0, splits=2, bits=6, num_tokens=9, dropout=0.0):
    torch.manual_seed(seed)
    settings = sections.Generator(width=16, depth=1, heads=2, mlp_width=32, splits=splits, dropout=dropout)
    return g.BitTransformer(settings, bits, num_tokens, num_classes=3).eval()


def rng_of(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("bits", "splits"), [(6, 1), (6, 2), (6, 3), (14, 2), (20, 2)])
def test_join_undoes_split_for_every_token(bits, splits):
    model, q = tiny(bits=bits, splits=splits), torch.arange(2**bits)[None]
    t = model.split(q)
    assert t.shape == (1, 2**bits, splits) and t.max() < model.mask_value
    assert torch.equal(model.join(t), q)


def test_masked_group_reads_as_zeros_and_leaves_the_other_groups_alone():
    model, q = tiny(), torch.tensor([[37]])
    t = model.split(q)
    t[..., 0] = model.mask_value
    assert model.input_bits(t).tolist() == [[[0, 0, 0, -1, -1, 1]]]


def test_every_norm_has_the_released_eps():
    norms = [module for module in tiny().modules() if isinstance(module, torch.nn.LayerNorm)]

    assert len(norms) == 4
    assert {norm.eps for norm in norms} == {1e-12}


def test_class_reaches_the_logits_only_when_kept():
    model, t = tiny(), torch.full((2, 9, 2), 8)
    kept, dropped = torch.tensor([False, False]), torch.tensor([True, True])
    c = torch.tensor([0, 2])
    assert not torch.allclose(*model(t, c, kept).unbind())
    torch.testing.assert_close(*model(t, c, dropped).unbind())
    assert c.tolist() == [0, 2]


def test_initial_weights_are_small_and_every_bias_zero():
    model = tiny()
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "in_proj" not in name and p.dim() > 1:
            assert 0.01 < p.std() < 0.03, name


def test_released_14_bit_size_has_the_released_parameter_count():
    with torch.device("meta"):
        model = g.BitTransformer(sections.Generator(), bits=14, num_tokens=256, num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == 304_929_024


def test_norms_stay_in_float32_under_bfloat16_autocast():
    model, q = tiny(num_tokens=9), torch.randint(64, (2, 9))
    seen = []
    for module in model.modules():
        if isinstance(module, g.LayerNorm):
            module.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(model.split(q), torch.tensor([0, 1])).dtype == torch.bfloat16
    assert set(seen) == {torch.float32}


def test_share_of_masked_entries_follows_the_arccos_of_the_draw():
    t, u = torch.zeros(3, 4000, 2, dtype=torch.long), torch.rand(3, 4000, 2, generator=rng_of(1))
    _, m = g.mask_entries(t, 8, torch.tensor([0.0, 0.5, 1.0]), u)
    assert m[0].all() and not m[2].any()
    assert m[1].float().mean().item() == pytest.approx(2 / 3, abs=0.03)


def test_training_loss_starts_near_a_uniform_guess_and_repeats_with_its_generator():
    model, q, c = tiny(), torch.randint(64, (4, 9), generator=rng_of(2)), torch.tensor([0, 1, 2, 0])
    settings = sections.GeneratorTraining(epochs=1, batch_size=4, learning_rate=1e-3)
    first, again, other = (g.training_loss(model, q, c, rng_of(seed), settings) for seed in (3, 3, 4))
    assert first.item() == pytest.approx(math.log(8), abs=0.5)
    assert first.equal(again) and not first.equal(other)
    first.backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters())


def test_token_maps_of_three_classes_can_be_learned_and_drawn():
    model, q, c = tiny(), torch.randint(64, (3, 9), generator=rng_of(5)), torch.arange(3)
    settings = sections.GeneratorTraining(epochs=1, batch_size=3, learning_rate=1e-3, label_smoothing=0.0)
    optimizer, rng = torch.optim.Adam(model.parameters(), 1e-2), rng_of(6)
    for _ in range(150):
        optimizer.zero_grad()
        g.training_loss(model, q, c, rng, settings).backward()
        optimizer.step()
    sampler = sections.GeneratorSampler(num_steps=6, guidance_scale=1.0, randomize_temperature=1.0)
    assert torch.equal(g.sample_tokens(model, c, sampler, rng), q)


@pytest.mark.parametrize("schedule", g.MASK_SCHEDULES)
@pytest.mark.parametrize(("entries", "steps"), [(512, 64), (32, 6), (32, 128), (2, 5), (1, 1), (8, 1)])
def test_masked_counts_fall_every_step_and_end_at_zero(schedule, entries, steps):
    counts = g.masked_counts(entries, steps, schedule)
    assert counts[-1] == 0 and len(counts) <= steps
    assert all(after < before for before, after in zip([entries, *counts], counts, strict=False))


def test_linear_schedule_fixes_equal_shares():
    assert g.masked_counts(16, 8, "linear") == [14, 12, 10, 8, 6, 4, 2, 0]


def test_shares_at_whole_numbers_are_rounded_in_float32_as_in_the_release():
    assert g.masked_counts(40, 5, "linear")[:3] == [32, 24, 15]  # 1 - 0.6 in float32 falls short of 0.4


def test_more_steps_than_entries_fixes_one_entry_a_step_and_then_stops():
    # The reference masks everything again here: with one entry left its count becomes 0 and its threshold wraps.
    model, calls = tiny(num_tokens=4), []
    sampler = sections.GeneratorSampler(num_steps=100, mask_schedule="root")
    q = g.sample_tokens(model, torch.tensor([0, 1]), sampler, rng_of(0), progress=lambda *at: calls.append(at))
    assert g.masked_counts(8, 100, "root")[-3:] == [2, 1, 0]
    assert calls[-1][0] == calls[-1][1] <= 8
    assert q.shape == (2, 4) and q.min() >= 0 and q.max() < 64


def test_ties_in_confidence_mask_the_same_number_in_every_row():
    t = torch.full((2, 4, 1), 8)
    uniform = torch.full((2, 4, 1, 8), 1 / 8)
    following = g.fill_and_remask(t, 8, uniform, torch.ones(64), torch.zeros(2, 4, 1), 3)
    assert (following == 8).sum((1, 2)).tolist() == [3, 3]


def test_fixed_entries_stay_and_only_drawn_ones_are_masked_again():
    t = torch.tensor([[[3], [8], [8], [5]]])
    probs = torch.rand(1, 4, 1, 8, generator=rng_of(7)).softmax(-1)
    noise = torch.tensor([[[-99.0], [0.0], [1.0], [-99.0]]])
    following = g.fill_and_remask(t, 8, probs, torch.ones(32), noise, 1)
    assert following[0, :, 0].tolist() == [3, 8, probs[0, 2, 0].argmax().item(), 5]


def test_guidance_grows_as_its_annealing_says():
    def scales(annealing):
        sampler = sections.GeneratorSampler(num_steps=4, guidance_scale=8, guidance_annealing=annealing, scale_pow=2)
        return [g.guidance_scale(sampler, i) for i in range(4)]

    assert scales("none") == [8, 8, 8, 8]
    assert scales("linear") == [0, 2, 4, 6]
    assert scales("cosine") == pytest.approx([8 * (1 - math.cos(math.pi * (i / 4) ** 2)) / 2 for i in range(4)])


def test_guidance_zero_skips_the_pass_without_the_class():
    model, rows = tiny(), []
    model.register_forward_hook(lambda _, __, out: rows.append(len(out)))
    t, c = torch.full((2, 9, 2), 8), torch.tensor([0, 1])
    plain, guided = g.token_probs(model, t, c, 0.0, 1.0), g.token_probs(model, t, c, 1e-9, 1.0)
    assert rows == [2, 4]
    torch.testing.assert_close(plain, guided)


def test_sampling_repeats_with_its_generator_and_ignores_the_global_one():
    model, c, sampler = tiny(), torch.tensor([0, 1]), sections.GeneratorSampler(num_steps=4)
    torch.manual_seed(1)
    first = g.sample_tokens(model, c, sampler, rng_of(8))
    torch.manual_seed(2)
    assert torch.equal(first, g.sample_tokens(model, c, sampler, rng_of(8)))
    assert not torch.equal(first, g.sample_tokens(model, c, sampler, rng_of(9)))


def test_one_step_draws_each_value_as_often_as_its_probability():
    model = tiny(splits=1, bits=2, num_tokens=1)
    model.prediction_layer.bias.data = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    model.prediction_layer.weight.data.zero_()
    sampler = sections.GeneratorSampler(num_steps=1, guidance_scale=0)
    q = g.sample_tokens(model, torch.zeros(4000, dtype=torch.long), sampler, rng_of(10))
    shares = torch.bincount(q.flatten(), minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.03, rtol=0)


# --- weights


def study_of(model_width=16):
    return SimpleNamespace(
        generator=sections.Generator(width=model_width, depth=1, heads=2, mlp_width=32, splits=2),
        discrete=sections.MaskBit(bits=6),
        num_tokens=9,
        data=SimpleNamespace(num_classes=3),
    )


def test_half_precision_weights_load_as_float32_in_eval_mode(tmp_path):
    model, path = tiny(), tmp_path / "generator.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}, path)
    state = torch.get_rng_state()
    loaded = g.load(study_of(), path)
    assert torch.equal(state, torch.get_rng_state())
    assert not loaded.training and all(p.dtype == torch.float32 for p in loaded.parameters())
    t, c = torch.full((1, 9, 2), 8), torch.tensor([1])
    torch.testing.assert_close(loaded(t, c), model(t, c), atol=1e-3, rtol=1e-3)
    assert torch.equal(loaded.bits_to_indices, torch.tensor([1, 2, 4], dtype=torch.int32))


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "generator.safetensors"
    weights = dict(tiny().state_dict())
    weights["extra"] = weights.pop("input_proj.bias")
    save_file(weights, path)
    with pytest.raises(ValueError, match="input_proj.bias") as caught:
        g.load(study_of(), path)
    assert "extra" in str(caught.value) and str(path) in str(caught.value)
