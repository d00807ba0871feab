"""One optimizer step: a batch in micro-batches that fit the device, whose gradients add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixar.device import autocast
from mixar.model.masking import Group
from mixar.study import sections
from mixar.study.digests import seed_of
from mixar.study.micro_batches import images_at_once
from mixar.training.draws import Draws
from mixar.training.optim import step_if_finite

# (model, batch, draws, progress in [0, 1]) -> {"loss": scalar, ...}; further scalars join the loss curve. The batch is
# what a Load returns, else indices [n]
Step = Callable[[nn.Module, Any, Draws, float], dict[str, Any]]
# (indices [n], draws) -> batch; called in a thread before its step
Load = Callable[[Tensor, Draws], Any]


@dataclass(frozen=True)
class Part:
    """A micro-batch that is ready for its step."""

    batch: Any
    draws: Draws
    dropout_seed: int
    weight: float  # share of the process's images


@dataclass(frozen=True)
class Cut:
    """Where a micro-batch is in the batch of all processes: its images, its number, and its group's number."""

    images: slice
    number: int
    group_number: int
    group: Group


def images_of_part(s: sections.Training, batch: int, processes: int) -> int:
    """Images of a forward pass. Raises ValueError where a run's numbers do not divide."""
    if isinstance(s, sections.MarTraining):
        return images_at_once(batch, processes, s.micro_batch, s.mask_group or batch)
    return min(s.micro_batch or batch, batch // processes)


def cuts_of(s: sections.Training, batch: int, share: slice) -> Iterator[Cut]:
    """The micro-batches of one process. share: its images of the batch; all at once without `micro_batch`.

    The groups of a run are those of `mask_group`; in other trainings each micro-batch is a group. Raises ValueError
    where a run's numbers do not divide.
    """
    size = images_of_part(s, batch, batch // (share.stop - share.start))
    group = (s.mask_group or batch) if isinstance(s, sections.MarTraining) else size
    for start in range(share.start, share.stop, size):
        stop, number = min(start + size, share.stop), start // group
        first, last = number * group, min((number + 1) * group, batch)
        yield Cut(slice(start, stop), start // size, number, Group(last - first, slice(start - first, stop - first)))


def parts_of(
    rows: Tensor,
    share: slice,
    s: sections.Training,
    key: tuple[int, int],
    device: torch.device,
    load: Load | None = None,
) -> list[Part]:
    """This process's micro-batches of a step over `rows`, the items of the whole batch. share: its images of them.

    key: seed and step, from which all randomness follows. Dropout draws for each micro-batch.
    """
    equal_rates = isinstance(s, sections.MarTraining) and s.equal_mask_rates and s.mask_group not in (None, len(rows))
    parts = []
    for cut in cuts_of(s, len(rows), share):
        draws = Draws.of(device, key, cut.group_number, cut.group, equal_rates)
        indices = rows[cut.images]
        batch = load(indices, draws) if load is not None else indices
        weight = len(indices) / (share.stop - share.start)
        parts.append(Part(batch, draws, seed_of(*key, 0, cut.number, "dropout"), weight))
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
        with _summed(wrapped, is_last=part is parts[-1]):
            with autocast(device, s.precision):
                scalars = step(wrapped, part.batch, part.draws, progress)
            (scalars["loss"] * part.weight).backward()
        for k, v in scalars.items():
            totals[k] = totals.get(k, 0.0) + torch.as_tensor(v).detach() * part.weight
    totals["grad_norm"] = nn.utils.clip_grad_norm_(wrapped.parameters(), s.clip_norm).detach()
    return totals | {"finite": step_if_finite(optimizer, totals["grad_norm"], lr)}


def _summed(wrapped: nn.Module, is_last: bool) -> AbstractContextManager:
    """Where gradients are added over the processes: once a step, with those of its last micro-batch."""
    return nullcontext() if is_last or not isinstance(wrapped, DistributedDataParallel) else wrapped.no_sync()
