"""Replays of MAR: the transformer, its loss and sampling, the diffusion head alone, and the schedules."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from copy import deepcopy

import torch
from replay import EXACT, LOOP, NETWORK, ROUNDING, STEEP, Check, Stored, gradient_checks, in_double, stacked
from torch import Tensor

from mixar import released
from mixar.model.decode import Draws, sample_latents, steps_of
from mixar.model.diffusion import Diffusion
from mixar.model.head import DiffusionHead
from mixar.model.layers import NORM_EPS, put, take
from mixar.model.mar import MAR
from mixar.model.masking import mask_first, mask_rate_at, split_positions
from mixar.model.patches import patchify, unpatchify
from mixar.study.sections import Sampler, Training
from mixar.training.optim import learning_rate

TEMPERATURE_OF_STEPS = 0.95  # of `step/*`

# --- the transformer


def build(stored: Stored) -> MAR:
    c = stored.config["mar"]
    assert stored.config["norm_eps"] == NORM_EPS, "every MAR release has the same LayerNorm eps"
    return released.load(
        "mar",
        stored.weights("sd/"),
        width=c["encoder_embed_dim"],
        encoder_depth=c["encoder_depth"],
        heads=c["encoder_num_heads"],
        decoder_width=c["decoder_embed_dim"],
        decoder_depth=c["decoder_depth"],
        decoder_heads=c["decoder_num_heads"],
        mlp_ratio=c["mlp_ratio"],
        buffer_size=c["buffer_size"],
        dropout=c["proj_dropout"],
        head_depth=c["diffloss_d"],
        head_width=c["diffloss_w"],
        num_tokens=side_of(stored) ** 2,
        channels=c["vae_embed_dim"] * c["patch_size"] ** 2,
        num_classes=c["class_num"],
    )


def side_of(stored: Stored) -> int:
    """Tokens a side."""
    c = stored.config["mar"]
    return c["img_size"] // c["vae_stride"] // c["patch_size"]


def latents_of(stored: Stored) -> Tensor:
    return patchify(stored["in/imgs"], stored.config["mar"]["patch_size"])


def batch_of(stored: Stored, drop: Tensor) -> dict[str, Tensor]:
    """Arguments x, q, m, c, drop of MAR.condition; MAR ignores q."""
    m = stored["in/mask"].bool()
    return {"x": latents_of(stored), "q": torch.zeros_like(m).long(), "m": m, "c": stored["in/labels"], "drop": drop}


def forward(stored: Stored) -> Iterator[Check]:
    model, x, orders = build(stored), latents_of(stored), stored["draw/orders"]
    count = math.ceil(orders.shape[1] * stored["draw/mask_rate"].item())
    yield Check("in/mask", mask_first(orders, count), EXACT)
    yield Check("forward/out/tokens", x, EXACT)
    assert torch.equal(unpatchify(x, side_of(stored), stored.config["mar"]["patch_size"]), stored["in/imgs"])
    batch = batch_of(stored, drop=torch.zeros(len(x), dtype=torch.bool))
    visible, _ = split_positions(batch["m"])
    with torch.no_grad():
        encoded = model.encode(batch["x"], batch["q"], batch["c"], batch["drop"], visible, {})
        yield Check("forward/out/encoder", encoded)
        yield Check("forward/out/z", model.condition(**batch))


def loss(stored: Stored) -> Iterator[Check]:
    model, settings = build(stored), stored.config["mar"]
    t, noise, repeats = stored["loss/draw/t"], stored["loss/draw/noise"], settings["diffusion_batch_mul"]
    for mode in ("train", "eval"):
        drop = (stored["loss/draw/label_drop_u"] < settings["label_drop_prob"]) & (mode == "train")
        batch = batch_of(stored, drop)
        kept = batch["m"].flatten().repeat(repeats)  # ours evaluates masked positions only
        scalar = model(**batch, head_batch_multiplier=repeats, t=t[kept], noise=noise[kept])
        yield Check(f"loss/out/{mode}/loss", scalar)
        z, x = (h.flatten(0, 1) for h in (model.condition(**batch), batch["x"]))
        yield from _terms(
            model.diffloss, z.repeat(repeats, 1), x.repeat(repeats, 1), t, noise, f"loss/out/{mode}/terms"
        )
        yield Check(f"loss/out/{mode}/terms/loss", model.diffloss.loss(z, x, t=t, noise=noise, repeats=repeats))
        if mode == "train":
            names, parameters = zip(*model.named_parameters(), strict=True)
            released = [name.removeprefix("guidance.") for name in names]
            gradients = dict(zip(released, torch.autograd.grad(scalar, parameters), strict=True))
            yield from gradient_checks(stored, "loss/out/train/", gradients)


def _terms(head: DiffusionHead, z: Tensor, x: Tensor, t: Tensor, noise: Tensor, where: str) -> Iterator[Check]:
    output = head.net(head.diffusion.add_noise(x, t, noise), t, z)
    mse, bound = head.diffusion.loss_terms(output, x, t, noise)
    yield Check(f"{where}/mse", mse)
    yield Check(f"{where}/vb", bound, STEEP)


@torch.no_grad()
def sampling(stored: Stored) -> Iterator[Check]:
    model, patch = build(stored), stored.config["mar"]["patch_size"]
    for run in stored.config["runs"]:
        yield from _iterations(stored, model, run)
        sampler, labels, orders = _sampler(stored, run), _labels(stored, run), stored["sample/draw/orders"]
        drawing = [k for k, (before, left, _) in enumerate(_counts(stored, sampler)) if left < before]
        heads = [tuple(stored[f"sample/{run}/draw/iter{k}/{what}"] for what in ("init", "steps")) for k in drawing]
        key, allowed = f"sample/{run}/out/tokens_image", loop_tolerance(model.diffloss, sampler.head_steps)
        exact = [(init.double(), steps.double()) for init, steps in heads]
        for network, noises, tolerance in ((model, heads, allowed), (deepcopy(model).double(), exact, LOOP)):
            x = sample_latents(network, torch.zeros_like(orders), labels, sampler, None, Draws(orders, noises))
            yield Check(key, unpatchify(x, side_of(stored), patch), tolerance)


def _iterations(stored: Stored, model: MAR, run: str) -> Iterator[Check]:
    """Each iteration on its own, from the stored latents of those before it."""
    sampler, labels, orders = _sampler(stored, run), _labels(stored, run), stored["sample/draw/orders"]
    x, branches = torch.zeros(*orders.shape, model.channels), 1 if sampler.cfg == 1 else 2
    heads = [(model.diffloss, loop_tolerance(model.diffloss, sampler.head_steps))]
    heads.append((deepcopy(model.diffloss).double(), LOOP))
    scale = stored[f"sample/{run}/out/tokens_image"].abs().max().item()  # an iteration may draw a single small token
    for k, (before, left, cfg) in enumerate(_counts(stored, sampler)):
        inputs, outputs = f"sample/{run}/draw/iter{k}", f"sample/{run}/out/iter{k}"
        if before == left and f"{outputs}/z" not in stored:
            continue
        rows = orders[:, left:before].sort(dim=1).values
        drop = torch.arange(branches * len(x)) >= (0 if labels is None else len(x))
        c = torch.zeros(len(x), dtype=torch.long) if labels is None else labels
        again = [h.repeat(branches, *[1] * (h.dim() - 1)) for h in (x, orders * 0, mask_first(orders, before), c)]
        z = take(model.condition(*again, drop), rows.repeat(branches, 1)).flatten(0, 1)
        yield Check(f"{outputs}/z", z)
        yield Check(f"{outputs}/cfg", torch.tensor(cfg))
        for head, allowed in heads:
            dtype, keys = head.net.cond_embed.weight.dtype, (f"{outputs}/z", f"{inputs}/init", f"{inputs}/steps")
            given, *draws = (stored[key].to(dtype) for key in keys)
            yield Check(f"{outputs}/latent", drawn_rows(head, given, sampler, cfg, draws), allowed, scale)
        new = stored[f"{outputs}/latent"][: rows.numel()]
        x = put(x, rows, new.unflatten(0, rows.shape))


def _sampler(stored: Stored, run: str) -> Sampler:
    settings = stored.config["runs"][run]
    return Sampler(
        num_iterations=settings["num_iter"],
        head_steps=int(stored.config["mar"]["num_sampling_steps"]),
        **{key: settings[key] for key in ("cfg", "cfg_schedule", "temperature")},
    )


def _labels(stored: Stored, run: str) -> Tensor | None:
    return stored["sample/in/labels"] if stored.config["runs"][run]["labels"] else None


def _counts(stored: Stored, sampler: Sampler) -> Iterator[tuple[int, int, float]]:
    """Missing before and after each iteration and its guidance weight, with iterations that have nothing to draw."""
    length = stored["sample/draw/orders"].shape[1]
    steps = [(step.missing, step.left, step.cfg) for step in steps_of(length, sampler)]
    idle = [(1, 1, steps[-1][2])] * (sampler.num_iterations - len(steps))
    return iter([*steps[:-1], *idle, steps[-1]])


# --- the head


def both_halves(head: DiffusionHead, x: Tensor, t: Tensor, z: Tensor, cfg: float) -> Tensor:
    """The guided output as the release sees it: the second half, which it throws away, keeps its own variance."""
    half = len(x) // 2
    first = head._guided(x[:half], head.net.time_embed(t) + head.net.cond_embed(z), cfg)
    second = head.net(x[:half], t[half:], z[half:])
    second[:, : head.channels] = first[:, : head.channels]
    return torch.cat([first, second])


def drawn_rows(head: DiffusionHead, z: Tensor, sampler: Sampler, cfg: float, draws: tuple[Tensor, Tensor]) -> Tensor:
    """The head's own loop; under guidance followed by the release's second half, which nobody sees."""
    kept = head.sample(z, sampler.head_steps, cfg=cfg, temperature=sampler.temperature, draws=draws)
    if cfg == 1:
        return kept
    process, (initial, noises) = head.diffusion.respaced(sampler.head_steps), draws
    x = initial.repeat(2, 1)
    for noise, index in zip(noises, reversed(range(sampler.head_steps)), strict=True):
        t = torch.full((len(x),), process.timesteps[index])
        x = process.step(both_halves(head, x, t, z, cfg), x, index, noise, sampler.temperature)
    return torch.cat([kept, x[len(kept) :]])


def loop_tolerance(head: DiffusionHead, steps: int) -> float:
    """Allowed error of a loop in float32 on any processor: its first step magnifies the rounding of the head.

    With 10 steps by 3,500, so that two kinds of CPU are 1.4e-3 apart. Whole loops are replayed in double precision too,
    where rounding is the stored run's alone, and held to LOOP.
    """
    return max(LOOP, ROUNDING * head.diffusion.respaced(steps).at(steps - 1).mean_noise)


def build_head(stored: Stored, weights: str) -> DiffusionHead:
    c = stored.config
    head = DiffusionHead(c["target_channels"], c["z_channels"], c["width"], c["depth"])
    head.diffusion = Diffusion(c["n_timesteps_train"])
    head.load_state_dict(stored.weights(f"{weights}/"))
    return head.requires_grad_(False).eval()


def head_training(stored: Stored) -> Iterator[Check]:
    head = build_head(stored, "sd_train")
    x, z, t, mask = (stored[f"train/in/{name}"] for name in ("target", "z", "t", "mask"))
    noise = stored["train/draw/noise"]
    x_t = head.diffusion.add_noise(x, t, noise)
    yield Check("train/out/x_t", x_t)
    yield Check("train/out/model_output", head.net(x_t, t, z))
    yield from _terms(head, z, x, t, noise, "train/out")
    rows = head.loss(z, x, t=t, noise=noise)
    yield Check("train/out/loss", rows)
    yield Check("train/out/masked_mean", (rows * mask).sum() / mask.sum())


def head_steps(stored: Stored) -> Iterator[Check]:
    """One reverse step for every index; the guided calls are named by their weight."""
    head = build_head(stored, "sd_train")
    process = head.diffusion.respaced(int(stored.config["respacing"]))
    x, z, index = (stored[f"step/in/{name}"] for name in ("x", "c", "t_index"))
    t, noise = torch.tensor(process.timesteps)[index], stored["step/draw/noise"]
    for cfg in sorted({match[1] for key in stored.keys("step/cfg") if (match := re.match(r"step/cfg([^/]+)/", key))}):
        output = head.net(x, t, z) if float(cfg) == 1 else both_halves(head, x, t, z, float(cfg))
        if float(cfg) != 1:
            yield Check(f"step/out/model_output_cfg{cfg}", output)
        c, where = process.at(index), f"step/cfg{cfg}/out"
        for name, scale in (("mean", 0.0), ("sample", TEMPERATURE_OF_STEPS)):
            rows = zip(output.split(1), x.split(1), index.tolist(), noise.split(1), strict=True)
            yield Check(f"{where}/{name}", torch.cat([process.step(*row, scale) for row in rows]))
        yield Check(f"{where}/log_variance", c.log_variance_mid + c.log_variance_half * output[:, head.channels :])
        yield Check(f"{where}/pred_xstart", predicted_x(process, index, x, output))


def predicted_x(process: Diffusion, index: Tensor, x: Tensor, output: Tensor) -> Tensor:
    """The latents that the predicted noise implies, by the textbook formula."""
    tables = process.sqrt_recip_alphas_cumprod, process.sqrt_recipm1_alphas_cumprod
    recip, recipm1 = (torch.tensor(table, dtype=torch.float32)[index][:, None] for table in tables)
    return recip * x - recipm1 * output[:, : x.shape[1]]


def head_sampling(stored: Stored) -> Iterator[Check]:
    head, steps = build_head(stored, "sd_sample"), int(stored.config["respacing"])
    for key in [key for key in stored.keys("sample/out/") if key.count("/") == 2]:
        cfg, temperature = map(float, re.fullmatch(r"sample/out/cfg(.+)_temp(.+)", key).groups())
        z = stored["sample/in/z_cond"]
        z = z if cfg == 1 else torch.cat([z, stored["sample/in/z_uncond"]])
        draws = stored["sample/draw/init"], stored["sample/draw/steps_cfg1" if cfg == 1 else "sample/draw/steps_cfg"]
        sampler = Sampler(head_steps=steps, temperature=temperature)
        yield Check(key, drawn_rows(head, z, sampler, cfg, draws), loop_tolerance(head, steps))
        exact = [noise.double() for noise in draws]
        yield Check(key, drawn_rows(deepcopy(head).double(), z.double(), sampler, cfg, exact), LOOP)
        yield from _steps_of_a_loop(stored, head, z, cfg, temperature, draws, key)


def _steps_of_a_loop(
    stored: Stored, head: DiffusionHead, z: Tensor, cfg: float, temperature: float, draws: tuple, key: str
) -> Iterator[Check]:
    """Each step from the stored one before it, on its own scale; the first ones magnify the network's tolerance."""
    process, (x, noises) = head.diffusion.respaced(int(stored.config["respacing"])), draws
    condition, found = head.net.cond_embed(z), {"trajectory": [], "pred_xstart": []}
    allowed: dict[str, list[float]] = {name: [] for name in found}
    for s, index in enumerate(reversed(range(len(process.timesteps)))):
        time = head.net.time_embed(torch.tensor([process.timesteps[index]]))
        output = head._guided(x, time + condition, cfg)
        found["pred_xstart"].append(predicted_x(process, torch.full((len(x),), index), x, output))
        found["trajectory"].append(process.step(output, x, index, noises[s, : len(x)], temperature))
        factors = {
            "pred_xstart": process.sqrt_recipm1_alphas_cumprod[index],
            "trajectory": process.at(index).mean_noise,
        }
        for name, factor in factors.items():
            magnified = factor * output[:, : head.channels].abs().max() / stored[f"{key}/{name}"][s].abs().max()
            allowed[name].append(NETWORK * max(1.0, magnified.item()))
        x = stored[f"{key}/trajectory"][s]
    for name in found:
        yield Check(f"{key}/{name}", stacked(found[name]), allowed[name])


# --- schedules


def diffusion_tables(stored: Stored) -> Iterator[Check]:
    full = Diffusion(stored.config["steps"])
    for key in stored.tensors:
        length, table = key.split("/")[:2]
        if length != "full" and not length.isdigit():
            continue
        process = full if length == "full" else full.respaced(int(length))
        if table == "timestep_map":
            yield Check(key, torch.tensor(process.timesteps), EXACT)
        else:
            yield in_double(key, getattr(process, table))


def mask_rates(stored: Stored) -> Iterator[Check]:
    low = stored.config["mask_ratio_min"]
    yield Check("mask_ratio/min", torch.tensor(low, dtype=torch.float64), EXACT)
    rates = [mask_rate_at(quantile, low) for quantile in stored["mask_ratio/quantile"].tolist()]
    yield in_double("mask_ratio/value", rates)


def learning_rates(stored: Stored) -> Iterator[Check]:
    warmup, total, peak, floor = stored["lr/args_warmup_total_lr_min"].tolist()
    for schedule in ("constant", "cosine"):
        rates = {"learning_rate": peak, "schedule": schedule, "final_rate": floor / peak}
        s = Training(epochs=int(total), warmup_epochs=warmup, batch_size=256, **rates)
        found = [learning_rate(s, epoch) for epoch in stored["lr/epoch"].tolist()]
        yield in_double(f"lr/{schedule}", found)


MAR_REPLAYS = [forward, loss, sampling]
HEAD_REPLAYS = [head_training, head_steps, head_sampling]
SCHEDULE_REPLAYS = [diffusion_tables, mask_rates, learning_rates]
