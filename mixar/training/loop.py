"""One training loop for every network of a study.

A step's randomness is a function of (seed, step, part, rank) and nothing else, so a resumed run needs no random state
and equals an uninterrupted one bit for bit on the same machine.
"""

from __future__ import annotations

import copy
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mixar.failures import naming
from mixar.study import sections
from mixar.study.digests import seed_of
from mixar.training import checkpoints
from mixar.training.accumulate import Step, optimizer_step
from mixar.training.distributed import Context
from mixar.training.optim import average_decay, build_optimizer, learning_rate, update_average
from mixar.training.state import State
from mixar.training.stopping import signals_as_wishes


class Watcher(Protocol):
    """Who is told what happens while a network trains; only the main process calls it."""

    def rows(self, rows: list[dict[str, float]]) -> None:
        """Closed rows of the loss curve, in order."""

    def checkpoint(self, done: int, epoch: float, average: nn.Module) -> None:
        """The averaged network after `done` steps: at every checkpoint and milestone."""

    def event(self, kind: str, step: int, text: str) -> None:
        """What is no step: resumed, stopped."""


class Unwatched:
    """A watcher that does nothing."""

    def rows(self, rows: list[dict[str, float]]) -> None: ...

    def checkpoint(self, done: int, epoch: float, average: nn.Module) -> None: ...

    def event(self, kind: str, step: int, text: str) -> None: ...


UNWATCHED = Unwatched()


@dataclass
class Curve:
    """Loss-curve rows, each the mean over the steps since the last row."""

    rows: list[dict[str, float]] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)  # steps of the open row

    @staticmethod
    def every(step: int) -> int:
        """Steps of a row that ends at `step`. It depends on nothing else: a longer training has the same rows first."""
        return 1 if step <= 1000 else 10 if step <= 10_000 else 50

    def add(self, row: dict[str, Any], run: str) -> list[dict[str, float]]:
        """Take a step's numbers. Returns the row that ends with it, if one does."""
        self.pending.append(row)
        if row["step"] % self.every(row["step"]):
            return []
        self.check(run)
        self.rows.append(_mean(self.pending))
        self.pending = []
        return self.rows[-1:]

    def check(self, run: str) -> None:
        """Fetch the open row's numbers. Raises FloatingPointError naming run and step if one is not finite."""
        self.pending = [{k: float(v) for k, v in row.items()} for row in self.pending]
        for row in self.pending:
            if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
                raise FloatingPointError(
                    f"{run}: loss {row['loss']} and gradient norm {row['grad_norm']} at step {int(row['step'])}; "
                    "the run stops at its last checkpoint. Lower learning_rate, or use precision: float32"
                )

    def ended(self, run: str) -> list[dict[str, float]]:
        """The rows of a training that ends here: the open one is closed. The curve itself can go on."""
        self.check(run)
        return self.rows + ([_mean(self.pending)] if self.pending else [])


def _mean(steps: list[dict[str, float]]) -> dict[str, float]:
    means = {k: sum(step[k] for step in steps) / len(steps) for k in steps[0]}
    return {**means, "step": steps[-1]["step"], "epoch": steps[-1]["epoch"]}


@dataclass
class Fit:
    """What a training leaves at its end or a milestone: averaged weights, the loss curve, seconds of all attempts."""

    weights: dict[str, Tensor]
    curve: list[dict[str, float]]
    steps: int
    seconds: float


def total_steps(s: sections.Training, num_items: int) -> int:
    """Optimizer steps of a training; the last incomplete batch of an epoch is left out."""
    if num_items < s.batch_size:
        raise ValueError(f"batch_size: {s.batch_size} exceeds the {num_items} training images; lower it")
    return s.epochs * (num_items // s.batch_size)


def fit(
    model: nn.Module,
    step: Step,
    s: sections.Training,
    *,
    name: str,
    num_items: int,
    seed: int,
    folder: Path,
    context: Context,
    checkpoint_minutes: float,
    announce: Callable[[int, int, str], None],
    steps_before: float = 0,
    begin: State | None = None,
    restart_steps: int = 0,
    milestones: Sequence[int] = (),
    reached: Callable[[int, Fit, State], None] | None = None,
    watcher: Watcher = UNWATCHED,
) -> Fit:
    """Train `model` for s.epochs over `num_items` items and return the averaged weights.

    folder: where checkpoints live; a state found there is resumed. announce(done, total, note) shows progress:
    first what was done before, then each step.
    steps_before: training steps behind the model's weights, infinite if unknown. The average's warm-up counts them.
    begin: where the folder holds no checkpoint, model, average and the optimizer's moments come from this state.
    restart_steps: over so many first steps the learning rate rises from 0, for weights that come without moments.
    reached(epoch, fit, state): called in the main process after each epoch in `milestones`, with what a training of so
    many epochs leaves. Its tensors change with the next step. An interrupted training may call it again, never later
    than the first checkpoint that includes the epoch.
    Raises ValueError for settings that do not fit, FloatingPointError when the loss stops being finite. On SIGTERM and
    Ctrl-C the state is saved and the process ends.
    """
    steps = total_steps(s, num_items)
    share = context.split(s.batch_size)
    optimizer = build_optimizer(model, s)
    average = copy.deepcopy(model).eval()
    wrapped = context.wrap(model.train())
    curve = Curve()
    done, seconds = _resume(folder, context, model, average, optimizer, curve, begin)
    if context.is_main and done:
        watcher.event("resumed", done, f"continues after {done}/{steps} steps")
    if context.is_main and done == 0 and (slow := slow_average(s, steps, steps_before)):
        print(f"{name}: {slow}", flush=True)
    announce(done, steps, "")
    per_epoch = num_items // s.batch_size
    saved = began = time.monotonic()
    order, order_epoch = torch.empty(0, dtype=torch.long), -1
    with signals_as_wishes() as wish:
        for index in range(done, steps):
            epoch, batch = divmod(index, per_epoch)
            if epoch != order_epoch:
                order, order_epoch = _order(seed, epoch, num_items), epoch
            rows = order[batch * s.batch_size : (batch + 1) * s.batch_size][share]
            lr = learning_rate(s, index / per_epoch, index / restart_steps if restart_steps else 1.0)
            start = time.monotonic()
            key = (seed, index, context.rank)
            with naming(f"{name} step {index + 1}"):
                scalars = optimizer_step(wrapped, step, rows, optimizer, s, lr, key, index / steps)
            update_average(average, model, average_decay(s, steps_before + index))
            row = {"step": index + 1, "epoch": (index + 1) / per_epoch, "learning_rate": lr, **scalars}
            closed = curve.add({**row, "seconds": time.monotonic() - start}, name)
            if closed and context.is_main:
                watcher.rows(closed)
            last = curve.rows[-1]["loss"] if curve.rows else float("nan")
            announce(index + 1, steps, f"loss {last:.4f}")
            now = seconds + time.monotonic() - began
            if batch + 1 == per_epoch and epoch + 1 in milestones and context.is_main:
                if reached is not None:
                    state = _state(model, average, optimizer, curve, index + 1, now)
                    reached(epoch + 1, Fit(state.average, curve.ended(name), index + 1, now), state)
                watcher.checkpoint(index + 1, epoch + 1, average)
            is_time = context.is_main and time.monotonic() - saved > 60 * checkpoint_minutes
            if index + 1 < steps and _of_any(context, is_time or wish() > 0):
                curve.check(name)
                saved = time.monotonic()
                _save(folder, context, _state(model, average, optimizer, curve, index + 1, now))
                if context.is_main:
                    watcher.checkpoint(index + 1, (index + 1) / per_epoch, average)
                if _of_any(context, wish() > 0):
                    if context.is_main:
                        watcher.event("stopped", index + 1, f"told to end after {index + 1}/{steps} steps")
                        print(_how_to_resume(name, index + 1, steps, folder), flush=True)
                    raise SystemExit(128 + (wish() or signal.SIGTERM))
    ended = curve.ended(name)
    seconds += time.monotonic() - began
    _save(folder, context, _state(model, average, optimizer, curve, steps, seconds))
    return Fit(average.state_dict(), ended, steps, seconds)


def slow_average(s: sections.Training, steps: int, steps_before: float) -> str | None:
    """What to know where a training is short for its ema_decay: in fewer than 5 time constants, else None."""
    if (spans := steps * (1 - s.ema_decay)) >= 5:
        return None
    found = f"ema_decay {s.ema_decay} is slow for {steps} steps: {steps} x (1 - {s.ema_decay}) = {spans:.2g}, below 5"
    decays = [average_decay(s, steps_before + index) for index in range(steps)]
    if steps_before:
        return f"{found}; the averaged weights keep {math.prod(decays):.0%} of those that the training starts from"
    return f"{found}; the average warms up to a decay of {decays[-1]:.3g} and spans about the last tenth of the steps"


def _order(seed: int, epoch: int, num_items: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(num_items, generator=rng)


def _how_to_resume(name: str, done: int, steps: int, folder: Path) -> str:
    command = shlex.join(["mixar", *sys.argv[1:]])
    found = f"{name}: stopped after {done}/{steps} steps, saved in {folder}"
    return f"{found}. To continue, run this again, or the snakemake that ran it: {command}"


def _of_any(context: Context, mine: bool) -> bool:
    """Whether any process of this training says so: all of them save, and end, after the same step.

    Asked after every step: a node that is taken away gives little notice, and steps of large models take seconds.
    """
    if context.world_size == 1:
        return mine  # on a GPU, reading a tensor would wait for the step
    return bool(context.mean(torch.tensor(float(mine), device=context.device)) > 0)


def _state(model, average, optimizer, curve, done, seconds) -> State:
    networks = model.state_dict(), average.state_dict(), optimizer.state_dict()
    return State(*networks, curve.rows, curve.pending, done, seconds)


def _save(folder: Path, context: Context, state: State) -> None:
    if context.is_main:
        checkpoints.save_state(folder, state)
    context.barrier()


def _resume(folder, context, model, average, optimizer, curve, begin) -> tuple[int, float]:
    state = checkpoints.load_state(folder, context.device)
    if state is None:
        if begin is not None:
            begin.restore(model, average, optimizer, "the state that this training begins from")
        return 0, 0.0
    state.restore(model, average, optimizer, str(folder))
    curve.rows, curve.pending = state.curve, state.pending
    return state.done, state.seconds
