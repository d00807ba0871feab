"""One optimizer step: a batch in parts that fit the device, whose gradients add up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixar.study import sections
from mixar.study.digests import seed_of
from mixar.training.optim import step_if_finite

# (model, indices [n], rng, progress in [0, 1]) -> {"loss": scalar, ...}; further scalars join the loss curve
Step = Callable[[nn.Module, Tensor, torch.Generator, float], dict[str, Any]]


def optimizer_step(
    wrapped: nn.Module,
    step: Step,
    rows: Tensor,
    optimizer: torch.optim.Optimizer,
    s: sections.Training,
    lr: float,
    key: tuple[int, int, int],
    progress: float,
) -> dict[str, Tensor]:
    """One optimizer step over `rows`, in parts of s.micro_batch items; returns detached scalars.

    "finite" among them: whether the gradient was, and the weights have moved.

    key: seed, step and rank, from which each part's randomness follows.
    """
    device = next(wrapped.parameters()).device
    parts = rows.split(s.micro_batch or len(rows))
    totals: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        torch.manual_seed(seed_of(*key, number, "dropout"))  # dropout draws from the global state
        rng = torch.Generator(device).manual_seed(seed_of(*key, number))
        with torch.autocast(device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
            scalars = step(wrapped, part, rng, progress)
        weight = len(part) / len(rows)
        (scalars["loss"] * weight).backward()
        for k, v in scalars.items():
            totals[k] = totals.get(k, 0.0) + torch.as_tensor(v).detach() * weight
    totals["grad_norm"] = nn.utils.clip_grad_norm_(wrapped.parameters(), s.clip_norm).detach()
    return totals | {"finite": step_if_finite(optimizer, totals["grad_norm"], lr)}
