"""Replays of MaskBit: the tokenizer, the generator with its loss and schedules, and both together."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from replay import EXACT, NETWORK, Check, Stored, gradient_checks, in_double, stacked
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from mixar import released
from mixar.study import sections
from mixar.tokens import generator as g
from mixar.tokens import maskbit
from mixar.training.optim import learning_rate

EMA_DECAY = 0.999
LEARNING_RATE_LEFT = 0.1  # share of it at the end of the cosine

# --- the tokenizer


def build_tokenizer(stored: Stored, prefix: str = "sd/") -> maskbit.MaskBit:
    tok = stored.config["tok"]
    assert tok["quantizer_type"] == "lookup-free" and tok["sample_with_conv"], "no release has anything else"
    return released.load(
        "maskbit-tokenizer",
        stored.weights(prefix),
        channels=tok["hidden_channels"],
        multipliers=tuple(tok["channel_mult"][: tok["num_resolutions"]]),
        num_res_blocks=tok["num_res_blocks"],
        bits=tok["token_size"],
    ).requires_grad_(False)


def tokenizer(stored: Stored) -> Iterator[Check]:
    """Images of any shape: `in/image_NAME` belongs to `out/NAME/`."""
    model = build_tokenizer(stored)
    for key in stored.keys("in/image"):
        name = key.removeprefix("in/image").lstrip("_")
        where, z = f"out/{name}/" if name else "out/", model.encoder(stored[key])
        bits = maskbit.straight_through(z)
        tokens = model.quantize.tokens(z)
        yield Check(f"{where}z", z)
        yield Check(f"{where}indices", tokens, EXACT)
        yield Check(f"{where}decoded", model.decoder(bits))
        if f"{where}z_quantized" in stored:
            yield Check(f"{where}z_quantized", bits)
        if f"{where}decoded_from_indices" in stored:
            yield Check(f"{where}decoded_from_indices", image_of(model, tokens))
        assert torch.equal(model.tokens(stored[key]), tokens.flatten(1))


def image_of(model: maskbit.MaskBit, tokens: Tensor) -> Tensor:
    """The image of tokens [B, h, w] before it is clamped; where h = w also through decode_tokens."""
    image = model.decoder(model.quantize.bits_of(tokens).movedim(-1, 1).contiguous())
    if tokens.shape[1] == tokens.shape[2]:
        assert torch.equal(model.decode_tokens(tokens.flatten(1)), image.clamp(0, 1))
    return image


def quantiser(stored: Stored) -> Iterator[Check]:
    model, z, tok = build_tokenizer(stored), stored["quant/in/z"], stored.config["tok"]
    codebook = model.quantize.codebook
    yield Check("quant/out/indices", model.quantize.tokens(z), EXACT)
    yield Check("quant/out/z_quantized", maskbit.straight_through(z))
    yield Check("quant/out/codebook_entries", model.quantize.bits_of(torch.arange(len(codebook))), EXACT)
    s = sections.TokenizerTraining(
        epochs=1,
        batch_size=1,
        learning_rate=1.0,
        commitment_weight=tok["commitment_cost"],
        entropy_weight=tok["entropy_loss_weight"],
        entropy_temperature=tok["entropy_loss_temperature"],
        entropy_gamma=tok["entropy_gamma"],
    )
    commitment, entropy = maskbit.quantizer_losses(z, codebook, s)
    yield Check("quant/out/train/commitment_loss", commitment)
    yield Check("quant/out/train/entropy_loss", entropy)
    yield Check("quant/out/train/quantizer_loss", commitment + entropy)
    rows = z.movedim(1, -1).flatten(0, -2)
    per_sample, batch = maskbit.entropy_terms(rows, codebook, s.entropy_temperature)
    computed = float(s.entropy_weight != 0)  # the release leaves both at 0 where they have no weight
    yield Check("quant/out/train/per_sample_entropy", computed * per_sample)
    yield Check("quant/out/train/avg_entropy", computed * s.entropy_gamma * batch)


# --- the generator


def build_generator(stored: Stored, prefix: str = "sd/") -> g.BitTransformer:
    gen = stored.config["gen"]
    assert not gen["use_prenorm"], "no release normalises first"
    return released.load(
        "maskbit-generator",
        stored.weights(prefix),
        width=gen["hidden_dim"],
        depth=gen["depth"],
        heads=gen["heads"],
        mlp_width=gen["mlp_dim"],
        splits=gen["codebook_splits"],
        dropout=gen["dropout"],
        bits=int(math.log2(gen["codebook_size"])),
        num_tokens=(gen["img_size"] // gen["input_stride"]) ** 2,
        num_classes=gen["nclass"],
    )


def groups(stored: Stored) -> Iterator[Check]:
    model, q, t = build_generator(stored), stored["in/tokens_full"], stored["in/tokens_split"]
    yield Check("in/tokens_split", model.split(q), EXACT)
    yield Check("in/tokens_full", model.join(t), EXACT)
    masked, m = g.mask_entries(t, model.mask_value, stored["mask/draw/r"], stored["mask/draw/u"])
    yield Check("mask/out/mask", m, EXACT)
    yield Check("mask/out/masked_tokens", masked, EXACT)
    yield Check("out/input_bits", model.input_bits(stored["mask/out/masked_tokens"]), EXACT)


@torch.no_grad()
def logits(stored: Stored) -> Iterator[Check]:
    model, c, t = build_generator(stored), stored["in/labels"], stored["in/tokens_split"]
    masked, everyone = stored["mask/out/masked_tokens"], torch.ones(len(c), dtype=torch.bool)
    yield Check("out/logits_masked", model(masked, c, stored["in/drop"]))
    yield Check("out/logits_unmasked", model(t, c))
    yield Check("out/logits_all_masked", model(torch.full_like(t, model.mask_value), c))
    # Differs from the release, where no argument drops every class: see the test of the difference.
    yield Check("out/logits_drop_none", model(masked, c, everyone))


def generator_loss(stored: Stored) -> Iterator[Check]:
    """The loss is ours for sum_splits 0; the release logs the rest beside it."""
    model, t, m = build_generator(stored), stored["in/tokens_split"], stored["mask/out/mask"]
    smoothing = stored.config["label_smoothing"]
    found = model(stored["mask/out/masked_tokens"], stored["in/labels"], stored["in/drop"])
    loss, masked_loss = g.entry_loss(found, t, smoothing), g.entry_loss(found[m], t[m], smoothing)
    right = (found.argmax(-1) == t).float()
    for flag, factor in ((0, 1), (1, model.splits)):
        where = f"loss/out/sum_splits_{flag}"
        yield Check(f"{where}/mlm_loss", factor * loss)
        yield Check(f"{where}/masked_token_loss", factor * masked_loss)
        yield Check(f"{where}/correct_tokens", right.mean() ** model.splits)
        yield Check(f"{where}/masked_correct_tokens", right[m].mean() ** model.splits)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    yield from gradient_checks(stored, "loss/out/", gradients)


def generator_schedules(stored: Stored) -> Iterator[Check]:
    for key in stored.keys("schedule/"):
        name, _, size = key.removeprefix("schedule/").rpartition("_")
        steps, _, entries = size.partition("x")
        schedule = g.MASK_SCHEDULES["arccos" if entries else name]
        shares = stacked(schedule(torch.tensor((i + 1) / int(steps))) for i in range(int(steps))).clamp(1e-6, 1)
        yield Check(key, (shares * int(entries)).floor(), EXACT) if entries else Check(key, shares)
    warmup, total = stored["lr/warmup_total"].tolist()
    s = {"batch_size": 256, "learning_rate": 1.0, "schedule": "cosine", "final_rate": LEARNING_RATE_LEFT}
    training = sections.Training(epochs=total, warmup_epochs=warmup, **s)  # steps in place of epochs
    factors = [learning_rate(training, step) for step in stored["lr/step"].tolist()]
    yield in_double("lr/factor", factors)
    # Ours averages without a warm-up, as MAR does. timm's average has MaskBit's, but for its first step, which copies.
    ema = ModelEmaV3(nn.Linear(1, 1), EMA_DECAY, update_after_step=-1, use_warmup=True, warmup_gamma=9, warmup_power=1)
    decays = [0.0 if step <= 1 else ema.get_decay(step) for step in stored["ema/step"].tolist()]
    yield in_double("ema/decay", decays)


# --- both together


def sampler_of(stored: Stored, run: str) -> sections.GeneratorSampler:
    settings = stored.config["runs"][run]
    fields = {key: settings[key] for key in sections.GeneratorSampler.model_fields if key in settings}
    return sections.GeneratorSampler(**fields, mask_schedule=settings["mask_schedule_strategy"])


def temperature_at(stored: Stored, run: str, step: int) -> float:
    """The softmax temperature of a step. Annealing it is an option of the release that none of its settings takes."""
    settings = stored.config["runs"][run]
    if not settings["use_sampling_annealing"]:
        return settings["softmax_temperature"]
    return 0.5 + 0.8 * (1 - (step + 1) / settings["num_steps"])


@torch.no_grad()
def sampling_steps(stored: Stored) -> Iterator[Check]:
    """Each step from the stored tokens before it."""
    model, c = build_generator(stored, "sd.gen/"), stored["in/labels"]
    assert model.mask_value == stored.config["mask_token"]
    for run in stored.config["runs"]:
        sampler, where = sampler_of(stored, run), f"{run}/out"
        counts = g.masked_counts(model.splits * (model.pos_emb.shape[1] - 1), sampler.num_steps, sampler.mask_schedule)
        steps = [_step(stored, model, c, run, sampler, step, counts[step]) for step in range(sampler.num_steps)]
        logits, probs, raw, predicted, following = (stacked(parts) for parts in zip(*steps, strict=True))
        yield Check(f"{where}/logits", logits, [NETWORK] * len(steps))
        yield Check(f"{where}/probs", probs, [NETWORK] * len(steps))
        yield Check(f"{where}/sampled_raw", raw, EXACT)
        yield Check(f"{where}/predicted", predicted, EXACT)
        first = torch.full_like(following[:1], model.mask_value)
        yield Check(f"{where}/masked_in", torch.cat([first, following[:-1]]), EXACT)
        yield Check(f"{where}/combined_tokens", model.join(predicted[-1]), EXACT)


def _step(
    stored: Stored,
    model: g.BitTransformer,
    c: Tensor,
    run: str,
    sampler: sections.GeneratorSampler,
    step: int,
    count: int,
) -> tuple[Tensor, ...]:
    t, exponential = stored[f"{run}/out/masked_in"][step], stored[f"{run}/draw/exp"][step]
    drops = [False, True] if sampler.guidance_scale else [False]
    logits = torch.cat([model(t, c, torch.full((len(c),), drop)) for drop in drops])
    scale, temperature = g.guidance_scale(sampler, step), temperature_at(stored, run, step)
    probs = g.token_probs(model, t, c, scale, temperature)
    noise = sampler.randomize_temperature * (1 - (step + 1) / sampler.num_steps) * stored[f"{run}/draw/gumbel"][step]
    raw = (probs / exponential.view_as(probs)).argmax(-1)
    predicted, following = (
        g.fill_and_remask(t, model.mask_value, probs, exponential, noise, masked) for masked in (0, count)
    )
    return logits, probs, raw, predicted, following


@torch.no_grad()
def whole_sampling(stored: Stored) -> Iterator[Check]:
    model, tokenizer = build_generator(stored, "sd.gen/"), build_tokenizer(stored, "sd.tok/")
    side, labels = stored.config["side"], stored["in/labels"].clone()
    for run, settings in stored.config["runs"].items():
        if settings["use_sampling_annealing"]:
            q = stored[f"{run}/out/combined_tokens"].long()
        else:
            draws = list(zip(stored[f"{run}/draw/exp"], stored[f"{run}/draw/gumbel"], strict=True))
            q = g.sample_tokens(model, labels, sampler_of(stored, run), torch.Generator(), draws)
            assert torch.equal(labels, stored["in/labels"]), "the release changes its caller's labels; ours does not"
        yield Check(f"{run}/out/combined_tokens", q, EXACT)
        yield Check(f"{run}/out/image", image_of(tokenizer, q.unflatten(1, (side, side))))


TOKENIZER_REPLAYS = [tokenizer, quantiser]
GENERATOR_REPLAYS = [groups, logits, generator_loss, generator_schedules]
SAMPLING_REPLAYS = [sampling_steps, whole_sampling]
