"""Which tokens are missing: generation orders, mask rates and masks (Eq. 3, 4 and 8).

Symbols: m mask [B, L] bool, True where a token is missing; B batch, L positions. An order lists the positions of one
image; its first entries are the missing ones, so entries at its end are generated first.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

MASK_RATE = NormalDist(1.0, 0.25)  # MAR: truncated to [rate_min, 1], the left half of a bell


class Group(NamedTuple):
    """Images that share a mask rate and whose random numbers are made together; `part` of them is at hand."""

    size: int
    part: slice


def sample_orders(batch: int, length: int, rng: torch.Generator) -> Tensor:
    """Uniform random permutations of the positions, one per image: int64 [batch, length] on the generator's device."""
    return torch.rand(batch, length, generator=rng, device=rng.device).argsort(dim=1)


def skeleton_orders(batch: int, length: int, rng: torch.Generator) -> Tensor:
    """Random permutations that draw the dark fields of a checkerboard first: int64 [batch, length].

    length: of a square grid. The dark fields are the larger half, whatever the side.
    """
    side = torch.arange(math.isqrt(length), device=rng.device)
    dark = ((side[:, None] + side) % 2 == 0).flatten()
    return (torch.rand(batch, length, generator=rng, device=rng.device) + dark).argsort(dim=1)


def sample_mask_rate(rate_min: float, rng: torch.Generator) -> float:
    """One mask rate in [rate_min, 1], for a whole batch. MAR, §3.1's p(r)."""
    return mask_rate_at(torch.rand((), generator=rng, device=rng.device, dtype=torch.float64).item(), rate_min)


def mask_rate_at(quantile: float, rate_min: float) -> float:
    """The quantile function of the mask rate. Both arguments in [0, 1]."""
    low, high = MASK_RATE.cdf(rate_min), MASK_RATE.cdf(1.0)
    rate = MASK_RATE.inv_cdf(low + quantile * (high - low))
    return min(max(rate, rate_min), 1.0)  # rounding may step outside by 1e-16, and a count is a ceiling of it


def mask_first(orders: Tensor, count: int) -> Tensor:
    """The mask m [B, L] that hides the first `count` entries of each order. Eq. 8."""
    m = torch.zeros_like(orders, dtype=torch.bool)
    return m.scatter_(1, orders[:, :count], True)


def split_positions(m: Tensor, missing: int | None = None) -> tuple[Tensor, Tensor]:
    """Positions of visible [B, V] and of masked tokens [B, L - V], ascending. Rows must miss equally many.

    missing: how many; None reads it off m and checks every row, which waits for the device.
    """
    if missing is None:
        fewest, missing = torch.stack(m.sum(dim=1).aminmax()).tolist()  # one wait for the device, not two
        assert fewest == missing, f"rows miss between {fewest} and {missing} tokens; all must miss equally many"
    order = m.to(torch.uint8).argsort(dim=1, stable=True)
    return order.split([m.shape[1] - missing, missing], dim=1)


def masked_counts(length: int, num_iterations: int) -> list[int]:
    """Tokens still missing after each iteration of the sampling loop (Eq. 4): a falling cosine. MAR, released code.

    At least one token is kept for every later iteration as long as there are any; with more iterations than tokens the
    count stays at 1 and an iteration may have nothing to draw. The last count is 0.
    """
    counts, missing = [], length
    for k in range(num_iterations - 1):
        wanted = math.floor(length * math.cos(math.pi / 2 * (k + 1) / num_iterations))
        missing = max(1, min(missing - 1, wanted))
        counts.append(missing)
    return [*counts, 0]


def skeleton_counts(length: int, num_iterations: int, skeleton_iterations: int) -> list[int]:
    """The same for `skeleton_orders`: dark fields in the first iterations, light ones in the rest, a cosine each."""
    light = length // 2
    dark = [light + left for left in masked_counts(length - light, skeleton_iterations)]
    return dark + masked_counts(light, num_iterations - skeleton_iterations)
