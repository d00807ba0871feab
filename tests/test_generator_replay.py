"""Replay of stored runs of the reference generator (MaskBit, commit 5ea3d73): masking, network, loss and sampling."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from mixar import spec
from mixar.tokens import generator as g
from mixar.tokens import maskbit

VECTORS = Path(__file__).parent / "vectors"


def read_vectors(name):
    with safe_open(VECTORS / f"{name}.safetensors", "pt") as f:
        return {key: f.get_tensor(key) for key in f.keys()}, json.loads(f.metadata()["config"])  # noqa: SIM118


def build(gen, weights, prefix):
    """Our model for the constructor arguments of the reference, strictly loaded and in eval mode."""
    settings = spec.Generator(
        width=gen["hidden_dim"], depth=gen["depth"], heads=gen["heads"], mlp_width=gen["mlp_dim"],
        splits=gen["codebook_splits"], dropout=gen["dropout"],
    )  # fmt: skip
    bits, num_tokens = gen["codebook_size"].bit_length() - 1, (gen["img_size"] // gen["input_stride"]) ** 2
    model = g.BitTransformer(settings, bits, num_tokens, gen["nclass"])
    model.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return model.eval()


@pytest.fixture(scope="module")
def stored():
    vectors, config = read_vectors("maskbit_generator")
    return SimpleNamespace(v=vectors, config=config, model=build(config["gen"], vectors, "sd/"))


@pytest.fixture(scope="module")
def sampled():
    vectors, config = read_vectors("maskbit_sampling")
    return SimpleNamespace(v=vectors, config=config, model=build(config["gen"], vectors, "sd.gen/"))


def sampler_of(run):
    renamed = {"mask_schedule": run["mask_schedule_strategy"]}
    return spec.GeneratorSampler(**renamed, **{k: run[k] for k in spec.GeneratorSampler.model_fields if k in run})


def error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_groups_and_bits_are_those_of_the_reference(stored):
    q, t = stored.v["in/tokens_full"], stored.v["in/tokens_split"]
    assert torch.equal(stored.model.split(q), t)
    assert torch.equal(stored.model.join(t), q)
    assert torch.equal(stored.model.input_bits(stored.v["mask/out/masked_tokens"]), stored.v["out/input_bits"])


def test_masked_entries_are_those_of_the_reference(stored):
    r, u = stored.v["mask/draw/r"], stored.v["mask/draw/u"]
    masked, m = g.mask_entries(stored.v["in/tokens_split"], stored.model.mask_value, r, u)
    assert torch.equal(m, stored.v["mask/out/mask"])
    assert torch.equal(masked, stored.v["mask/out/masked_tokens"])


def test_logits_are_those_of_the_reference(stored):
    v, c, drop = stored.v, stored.v["in/labels"], stored.v["in/drop"]
    t, masked = v["in/tokens_split"], v["mask/out/masked_tokens"]
    everything = torch.full_like(t, stored.model.mask_value)
    with torch.no_grad():
        assert error(stored.model(masked, c, drop), v["out/logits_masked"]) < 1e-5
        assert error(stored.model(t, c), v["out/logits_unmasked"]) < 1e-5
        assert error(stored.model(everything, c), v["out/logits_all_masked"]) < 1e-5


def test_no_drop_argument_keeps_classes_where_the_reference_drops_them(stored):
    masked, c, expected = stored.v["mask/out/masked_tokens"], stored.v["in/labels"], stored.v["out/logits_drop_none"]
    with torch.no_grad():
        assert error(stored.model(masked, c, torch.ones(len(c), dtype=torch.bool)), expected) < 1e-5
        kept = stored.model(masked, c)
        assert torch.equal(kept, stored.model(masked, c, torch.zeros(len(c), dtype=torch.bool)))
    assert error(kept, expected) > 1e-2


def test_loss_and_gradients_are_those_of_the_reference(stored):
    v, prefix = stored.v, "loss/out/gradnorm/"
    logits = stored.model(v["mask/out/masked_tokens"], v["in/labels"], v["in/drop"])
    loss = g.entry_loss(logits, v["in/tokens_split"], stored.config["label_smoothing"])
    names, parameters = zip(*stored.model.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    assert error(loss.detach(), v["loss/out/sum_splits_0/mlm_loss"]) < 1e-5
    for key in (k for k in v if k.startswith("loss/out/grad/")):
        assert error(gradients[key.removeprefix("loss/out/grad/")], v[key]) < 5e-5, key
    assert {k.removeprefix(prefix) for k in v if k.startswith(prefix)} == gradients.keys()
    for name, gradient in gradients.items():
        assert error(gradient.norm(), v[prefix + name]) < 5e-5, name


def test_arccos_schedule_is_that_of_the_reference(stored):
    arccos = g.MASK_SCHEDULES["arccos"]
    rates = torch.tensor([arccos((i + 1) / 64) for i in range(64)])
    torch.testing.assert_close(rates.clamp(1e-6, 1), stored.v["schedule/arccos_64"], rtol=1e-5, atol=1e-6)
    for steps in (64, 128, 256):
        lengths = stored.v[f"schedule/mask_len_{steps}x512"].tolist()
        assert [math.floor(arccos((i + 1) / steps) * 512) for i in range(steps)] == lengths
        assert g.masked_counts(512, steps, "arccos")[:-1] == lengths[:-1]


@pytest.mark.parametrize("run", ["cosine", "noguide"])
def test_each_sampling_step_is_that_of_the_reference(sampled, run):
    model, c, sampler = sampled.model, sampled.v["in/labels"], sampler_of(sampled.config["runs"][run])
    v = {k.removeprefix(f"{run}/"): x for k, x in sampled.v.items()}
    counts = g.masked_counts(2 * 16, sampler.num_steps, sampler.mask_schedule)
    for step in range(sampler.num_steps):
        t = v["out/masked_in"][step]
        kept_or_dropped = [False, True] if sampler.guidance_scale else [False]
        with torch.no_grad():
            logits = torch.cat([model(t, c, torch.full((3,), drop)) for drop in kept_or_dropped])
            probs = g.token_probs(model, t, c, g.guidance_scale(sampler, step), sampler.softmax_temperature)
        assert error(logits, v["out/logits"][step]) < 1e-5
        assert error(probs, v["out/probs"][step]) < 1e-5
        exponential = v["draw/exp"][step]
        noise = sampler.randomize_temperature * (1 - (step + 1) / sampler.num_steps) * v["draw/gumbel"][step]
        raw = (probs / exponential.view_as(probs)).argmax(-1)
        assert torch.equal(raw, v["out/sampled_raw"][step])
        predicted = g.fill_and_remask(t, model.mask_value, probs, exponential, noise, 0)
        assert torch.equal(predicted, v["out/predicted"][step])
        if step + 1 < sampler.num_steps:
            following = g.fill_and_remask(t, model.mask_value, probs, exponential, noise, counts[step])
            assert torch.equal(following, v["out/masked_in"][step + 1])


@pytest.mark.parametrize("run", ["cosine", "noguide"])
def test_whole_sampling_gives_the_tokens_and_image_of_the_reference(sampled, run):
    v, tok = sampled.v, sampled.config["tok"]
    draws = list(zip(v[f"{run}/draw/exp"], v[f"{run}/draw/gumbel"], strict=True))
    labels = v["in/labels"].clone()
    q = g.sample_tokens(sampled.model, labels, sampler_of(sampled.config["runs"][run]), torch.Generator(), draws)
    assert torch.equal(q, v[f"{run}/out/combined_tokens"].long())
    assert torch.equal(labels, v["in/labels"])

    settings = spec.MaskBit(
        channels=tok["hidden_channels"], multipliers=tok["channel_mult"], num_res_blocks=tok["num_res_blocks"],
        bits=tok["token_size"],
    )  # fmt: skip
    tokenizer = maskbit.MaskBit(settings)
    tokenizer.load_state_dict({k.removeprefix("sd.tok/"): x for k, x in v.items() if k.startswith("sd.tok/")})
    with torch.no_grad():
        assert error(tokenizer.eval().decode_tokens(q), v[f"{run}/out/image"].clamp(0, 1)) < 1e-5
