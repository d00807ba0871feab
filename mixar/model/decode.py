"""Drawing latents: the masked autoregressive loop with classifier-free guidance (Eq. 4; MAR, released code).

Symbols: x latents [B, L, C]; q discrete tokens [B, L]; m mask [B, L] bool, True = missing; c class [B]; z head
condition [B, L, D]; orders [B, L] permutations of the positions, whose last entries are drawn first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixar.model.layers import put, wide
from mixar.model.mar import MAR
from mixar.model.masking import mask_first, masked_counts, sample_orders
from mixar.study.sections import Sampler


class Draws(NamedTuple):
    """Stored randomness to replay: orders [B, L], and per iteration (first noise [n, C], noises of the head steps)."""

    orders: Tensor
    heads: Sequence[tuple[Tensor, Tensor]]


class Step(NamedTuple):
    """One iteration: tokens missing before and after it, and its guidance weight."""

    missing: int
    left: int
    cfg: float


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
        orders = sample_orders(size, length, rng)
    else:
        orders = draws.orders
    x = wide(q.new_zeros(size, length, model.channels, dtype=model.fake_latent.dtype))
    classes, drop = _branches(q, c, sampler)
    cache: dict[str, Any] = {}
    for index, step in enumerate(steps_of(length, sampler)):
        rows = orders[:, step.left : step.missing].sort(dim=1).values
        m = mask_first(orders, step.missing)
        z = model.condition(x, q, m, classes, drop, cache, step.missing, rows)
        noise = None if draws is None else draws.heads[index]
        new = model.diffloss.sample(
            z.flatten(0, 1), sampler.head_steps, rng, step.cfg, sampler.temperature, sampler.clip, noise
        )
        x = put(x, rows, new.unflatten(0, rows.shape).to(x.dtype))
        if progress is not None:
            progress(rows.shape[1])
    return x


def steps_of(length: int, sampler: Sampler) -> Iterator[Step]:
    """The iterations that draw something: with more iterations than tokens some have nothing left to do."""
    missing = length
    for left in masked_counts(length, sampler.num_iterations):
        if left < missing:
            yield Step(missing, left, _cfg(length, left, sampler))
        missing = left


def _cfg(length: int, left: int, sampler: Sampler) -> float:
    """This iteration's guidance weight. MAR's linear ramp counts what is left after it, at least 1: it never ends."""
    if sampler.cfg_schedule == "constant":
        return sampler.cfg
    return 1 + (sampler.cfg - 1) * (length - max(left, 1)) / length


def _branches(q: Tensor, c: Tensor | None, sampler: Sampler) -> tuple[Tensor, Tensor]:
    """Classes, and whether they are dropped; with guidance of all images, then of all again without their class."""
    drop = torch.full((len(q),), c is None, device=q.device)
    c = torch.zeros_like(q[:, 0]) if c is None else c
    if sampler.cfg == 1:
        return c, drop
    return c.repeat(2), torch.cat([drop, torch.ones_like(drop)])
