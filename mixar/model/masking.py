"""Which tokens are missing: generation orders, mask rates and masks (Eq. 3, 4 and 8).

Symbols: m mask [B, L] bool, True where a token is missing; B batch, L positions. An order lists the positions of one
image; its first entries are the missing ones, so entries at its end are generated first.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

MASK_RATE = NormalDist(1.0, 0.25)  # MAR: truncated to [rate_min, 1], the left half of a bell


def sample_orders(batch: int, length: int, rng: torch.Generator) -> Tensor:
    """Uniform random permutations of the positions, one per image: int64 [batch, length] on the generator's device."""
    return torch.rand(batch, length, generator=rng, device=rng.device).argsort(dim=1)


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
