"""Drawing latents: the masked autoregressive loop with classifier-free guidance (Eq. 4; MAR, released code).

Symbols: x latents [B, L, C]; q discrete tokens [B, L]; m mask [B, L] bool, True = missing; c class [B]; z head
condition [B, L, D]; orders [B, L] permutations of the positions, whose last entries are drawn first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixar.model.layers import put, wide
from mixar.model.mar import MAR
from mixar.model.masking import mask_first, masked_counts, sample_orders, skeleton_counts, skeleton_orders
from mixar.study.sections import Sampler


class Draws(NamedTuple):
    """Stored randomness to replay: orders [B, L], and per iteration (first noise [n, C], noises of the head steps)."""

    orders: Tensor
    heads: Sequence[tuple[Tensor, Tensor]]


class Step(NamedTuple):
    """One iteration: tokens missing before and after it, its guidance weight, and its steps of the head.

    A weight of 1 is no guidance: the iteration has no unguided branch.
    """

    missing: int
    left: int
    cfg: float
    head_steps: int

    @property
    def branches(self) -> int:
        return 1 if self.cfg == 1 else 2


@torch.no_grad()
def sample_latents(
    model: MAR,
    q: Tensor,
    c: Tensor | None,
    sampler: Sampler,
    rng: torch.Generator | None,
    draws: Draws | None = None,
    progress: Callable[[int], object] | None = None,
) -> Tensor:
    """Latents x [B, L, C] guided by tokens q for classes c; c None draws without classes.

    rng: on the device of q; unused where `draws` replays stored noise. progress: called with the number of tokens an
    image after each iteration. Put the model in evaluation mode first.
    """
    size, length = q.shape
    if draws is None:
        assert rng is not None, "neither rng nor draws"
        orders = (skeleton_orders if sampler.skeleton_iterations else sample_orders)(size, length, rng)
    else:
        orders = draws.orders
    x = wide(q.new_zeros(size, length, model.channels, dtype=model.fake_latent.dtype))
    # What depends on tokens and classes alone, by the number of branches of an iteration
    caches: dict[int, dict[str, Any]] = {1: {}, 2: {}}
    for index, step in enumerate(steps_of(length, sampler)):
        rows = orders[:, step.left : step.missing].sort(dim=1).values
        m = mask_first(orders, step.missing)
        classes, drop = _branches(q, c, step.branches)
        z = model.condition(x, q, m, classes, drop, caches[step.branches], step.missing, rows)
        noise = None if draws is None else draws.heads[index]
        new = model.diffloss.sample(
            z.flatten(0, 1),
            step.head_steps,
            rng,
            step.cfg,
            sampler.temperature,
            sampler.clip,
            sampler.modulation_every,
            noise,
        )
        x = put(x, rows, new.unflatten(0, rows.shape).to(x.dtype))
        if progress is not None:
            progress(rows.shape[1])
    return x


def steps_of(length: int, sampler: Sampler) -> Iterator[Step]:
    """The iterations that draw something: with more iterations than tokens some have nothing left to do."""
    missing = length
    for k, left in enumerate(_counts(length, sampler)):
        if left < missing:
            yield Step(missing, left, _cfg(length, left, sampler), head_steps_at(k, sampler))
        missing = left


def _counts(length: int, sampler: Sampler) -> list[int]:
    """Tokens missing after each iteration."""
    if sampler.skeleton_iterations:
        return skeleton_counts(length, sampler.num_iterations, sampler.skeleton_iterations)
    return masked_counts(length, sampler.num_iterations)


def head_steps_at(k: int, sampler: Sampler) -> int:
    """Steps of the diffusion head in iteration k, from 0, which fall from the sampler's first to its last number.

    Diffusion step annealing: late tokens have little freedom left and need fewer steps (DiSA, arXiv 2505.20297, whose
    linear schedule truncates to whole steps as here). cosine: half a wave, slow at both ends. two_stage: the first
    number up to the switch, then the last.
    """
    first, last = sampler.head_steps, sampler.head_steps_last
    if sampler.head_schedule == "constant" or last is None:
        return first
    share = k / max(sampler.num_iterations - 1, 1)
    if sampler.head_schedule == "two_stage":
        return first if k < sampler.head_switch * sampler.num_iterations else last
    if sampler.head_schedule == "cosine":
        return last + int((first - last) * (1 + math.cos(math.pi * share)) / 2)
    left = sampler.num_iterations - 1 - k
    return last + left * (first - last) // max(sampler.num_iterations - 1, 1)


def _cfg(length: int, left: int, sampler: Sampler) -> float:
    """This iteration's guidance weight. MAR's linear ramp counts what is left after it, at least 1: it never ends.

    1 outside the interval in which guidance helps (limited-interval guidance, arXiv 2404.07724; of masked models,
    eMIGM, arXiv 2503.07197).
    """
    drawn = (length - max(left, 1)) / length
    low, high = sampler.cfg_interval or (0.0, 1.0)
    if not low <= drawn <= high:
        return 1.0
    return sampler.cfg if sampler.cfg_schedule == "constant" else 1 + (sampler.cfg - 1) * drawn


def _branches(q: Tensor, c: Tensor | None, branches: int) -> tuple[Tensor, Tensor]:
    """Classes, and whether they are dropped; with two branches of all images, then of all again without their class."""
    drop = torch.full((len(q),), c is None, device=q.device)
    c = torch.zeros_like(q[:, 0]) if c is None else c
    if branches == 1:
        return c, drop
    return c.repeat(2), torch.cat([drop, torch.ones_like(drop)])
