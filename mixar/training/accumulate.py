"""One optimizer step: a batch in parts that fit the device, whose gradients add up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mixar.study import sections
from mixar.study.digests import seed_of
from mixar.training.optim import step_if_finite

# (model, batch, rng, progress in [0, 1]) -> {"loss": scalar, ...}; further scalars join the loss curve. The batch is
# what a Load returns, else indices [n]
Step = Callable[[nn.Module, Any, torch.Generator, float], dict[str, Any]]
# (indices [n], rng on the CPU) -> batch; called in a thread before its step
Load = Callable[[Tensor, torch.Generator], Any]


@dataclass(frozen=True)
class Part:
    """A micro-batch that is ready for its step."""

    batch: Any
    rng: torch.Generator  # on the network's device
    dropout_seed: int
    weight: float  # share of the process's images


def parts_of(
    rows: Tensor, s: sections.Training, key: tuple[int, int, int], device: torch.device, load: Load | None = None
) -> list[Part]:
    """The micro-batches of `rows`. key: seed, step and rank, from which each part's randomness follows.

    On a CPU, loading and step draw from one generator; on other devices from two of the same seed.
    """
    parts = []
    for number, indices in enumerate(rows.split(s.micro_batch or len(rows))):
        rng = host = torch.Generator(device).manual_seed(seed_of(*key, number))
        if load is not None and device.type != "cpu":
            host = torch.Generator().manual_seed(seed_of(*key, number))
        batch = load(indices, host) if load is not None else indices
        parts.append(Part(batch, rng, seed_of(*key, number, "dropout"), len(indices) / len(rows)))
    return parts


def optimizer_step(
    wrapped: nn.Module,
    step: Step,
    parts: Sequence[Part],
    optimizer: torch.optim.Optimizer,
    s: sections.Training,
    lr: float,
    progress: float,
) -> dict[str, Tensor]:
    """One optimizer step over the parts of a batch; returns detached scalars.

    "finite" among them: whether the gradient was, and the weights have moved.
    """
    device = next(wrapped.parameters()).device
    totals: dict[str, Tensor] = {}
    for part in parts:
        torch.manual_seed(part.dropout_seed)  # dropout draws from the global state
        with torch.autocast(device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
            scalars = step(wrapped, part.batch, part.rng, progress)
        (scalars["loss"] * part.weight).backward()
        for k, v in scalars.items():
            totals[k] = totals.get(k, 0.0) + torch.as_tensor(v).detach() * part.weight
    totals["grad_norm"] = nn.utils.clip_grad_norm_(wrapped.parameters(), s.clip_norm).detach()
    return totals | {"finite": step_if_finite(optimizer, totals["grad_norm"], lr)}
