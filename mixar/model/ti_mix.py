"""Training-Inference Mixture: ground-truth tokens give way to generated ones during a run (Eq. 10-12).

A schedule is a function (progress in [0, 1], settings) -> λ in [0, 1], settings being the study's `ti_mix` section. For
one of your own, name it there: `ti_mix: {schedule: "my_module:my_schedule"}`.

Symbols: q tokens [B, L] int64, q_hat the same with generated tokens at missing positions, m mask [B, L] bool, True
where a token is missing, c class [B] int64; B batch, L positions.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from mixar.model.layers import put, take
from mixar.model.masking import Group, split_positions
from mixar.process.failures import finite
from mixar.study import choices
from mixar.study.sections import TiMix


class TokenGenerator(Protocol):
    """What `draw_tokens` needs of tokens.generator.BitTransformer."""

    mask_value: int

    def split(self, q: Tensor) -> Tensor: ...

    def join(self, t: Tensor) -> Tensor: ...

    def __call__(self, t: Tensor, c: Tensor) -> Tensor: ...


def guidance_rate(ti_mix: TiMix, progress: float) -> float:
    """λ, the probability that a missing position keeps its ground-truth token, at `progress` in [0, 1] of the run."""
    if not 0 <= progress <= 1:
        raise ValueError(f"ti_mix: progress {progress} is outside [0, 1]; give the finished share of the run")
    found = choices.SCHEDULES.load_function(ti_mix.schedule)(progress, ti_mix)
    try:
        rate = float(found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"ti_mix.schedule {ti_mix.schedule!r}: gave {found!r}, not a number") from error
    if not 0 <= rate <= 1:
        raise ValueError(f"ti_mix.schedule {ti_mix.schedule!r}: gave λ = {rate} at progress {progress}; it must be in "
                         "[0, 1]")  # fmt: skip
    return rate


@torch.no_grad()
def draw_tokens(
    generator: TokenGenerator,
    q: Tensor,
    m: Tensor,
    c: Tensor,
    temperature: float,
    rng: torch.Generator,
    group: Group | None = None,
    missing: int | None = None,
) -> Tensor:
    """q_hat [B, L]: missing positions drawn from the generator, which sees the visible tokens. Eq. 10-11.

    One forward pass, and each missing position is drawn on its own. generator: a frozen tokens.generator.BitTransformer
    in eval mode. temperature divides its logits. group: whose random numbers are made together; None: of these images.
    missing: tokens that every row misses; None reads it off m. Raises FloatingPointError where logits are not finite.
    """
    t = generator.split(q)
    t = torch.where(m[..., None], generator.mask_value, t)
    logits = finite(generator(t, c).float() / temperature, "the generator's logits")
    _, masked = split_positions(m, missing)
    probabilities = torch.softmax(take(logits.flatten(2), masked).unflatten(2, logits.shape[2:]), dim=-1)
    size, part = group or Group(len(q), slice(None))
    times = probabilities.new_empty(size, *probabilities.shape[1:]).exponential_(generator=rng)[part]
    # The first of exponential times with these rates: torch.multinomial's own draw, made for a group and without waits.
    drawn = (probabilities / times).argmax(dim=-1)
    return generator.join(put(t, masked, drawn.to(t.dtype)))


def mix_tokens(
    q: Tensor, q_hat: Tensor, m: Tensor, rate: float, rng: torch.Generator, group: Group | None = None
) -> Tensor:
    """Each missing position keeps q with probability `rate` and takes q_hat otherwise; visible ones keep q. Eq. 12.

    group: whose random numbers are made together; None: of these images.
    Differs from the paper: its first case repeats the symbol being defined; the text makes it the ground-truth token.
    """
    size, part = group or Group(len(q), slice(None))
    rho = torch.rand(size, *q.shape[1:], generator=rng, device=q.device)[part]
    return torch.where(m & (rho >= rate), q_hat, q)


# Schedules


def constant(progress: float, ti_mix: TiMix) -> float:
    """`start` to the end."""
    return _between(1.0, ti_mix)


def linear(progress: float, ti_mix: TiMix) -> float:
    """A straight line from `start` to `end`."""
    return _between(1.0 - progress, ti_mix)


def cosine(progress: float, ti_mix: TiMix) -> float:
    """Half a cosine from `start` to `end`."""
    return _between((1 + math.cos(math.pi * progress)) / 2, ti_mix)


def step(progress: float, ti_mix: TiMix) -> float:
    """`start`, and `end` from `step_at` on."""
    return _between(1.0 if progress < ti_mix.step_at else 0.0, ti_mix)


def _between(left: float, ti_mix: TiMix) -> float:
    """left: share of the way from `end` to `start`."""
    return left * ti_mix.start + (1 - left) * ti_mix.end
