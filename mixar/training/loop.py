"""One training loop for every network of a study.

A step's randomness is a function of (seed, step, group), dropout's of the micro-batch, too. So a resumed run needs no
random state and equals an uninterrupted one bit for bit on the same machine.
"""

from __future__ import annotations

import copy
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mixar.process.failures import naming
from mixar.study import sections
from mixar.study.digests import seed_of
from mixar.training import checkpoints
from mixar.training.accumulate import Load, Part, Step, optimizer_step, parts_of
from mixar.training.ahead import Ahead
from mixar.training.batches import order_of
from mixar.training.checkpoints import writing
from mixar.training.distributed import Context
from mixar.training.optim import average_decay, build_optimizer, learning_rate, update_average
from mixar.training.state import State
from mixar.training.stopping import signals_as_wishes


class Watcher(Protocol):
    """Who is told what happens while a network trains; only the main process calls it."""

    def rows(self, rows: list[dict[str, float]]) -> None:
        """Closed rows of the loss curve, in order."""

    def checkpoint(self, done: int, epoch: float, average: nn.Module) -> None:
        """The averaged network after `done` steps: at every checkpoint and at the end."""

    def event(self, kind: str, step: int, text: str) -> None:
        """What is no step: first started or resumed; skipped, rolled back (to `step`), not saved; stopped, finished."""


class Unwatched:
    """A watcher that does nothing."""

    def rows(self, rows: list[dict[str, float]]) -> None: ...

    def checkpoint(self, done: int, epoch: float, average: nn.Module) -> None: ...

    def event(self, kind: str, step: int, text: str) -> None: ...


UNWATCHED = Unwatched()
STEPS_AHEAD = 2  # whose batches are loaded while a step runs
MOST_SKIPPED = 10  # steps in a row without a finite gradient; one more, and the training goes back
SECONDS_BETWEEN_QUESTIONS, MOST_STEPS_BETWEEN_QUESTIONS = 2.0, 50


@dataclass
class Curve:
    """Loss-curve rows, each the mean over the finite steps since the last row, and over all processes.

    A step that is not finite counts as skipped. A row ends no earlier than with a finite step.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)  # steps of the open row
    skipped_in_a_row: int = 0  # up to the last step that was read
    culprits: list[int] = field(default_factory=list)  # ranks whose loss was not finite at the last skipped step

    @staticmethod
    def every(step: int) -> int:
        """Steps of a row that ends at `step`. It depends on nothing else: a longer training has the same rows first."""
        return 1 if step <= 1000 else 10 if step <= 10_000 else 50

    def add(self, row: dict[str, Any], context: Context) -> list[dict[str, float]]:
        """Take a step's numbers, of which tensors stay on their device. Returns the row that ends with it, if any."""
        self.pending.append(row)
        if row["step"] % self.every(row["step"]):
            return []
        self.read(context)
        if not any(step["finite"] for step in self.pending):
            return []
        self.rows.append(_mean(self.pending))
        self.pending = []
        return self.rows[-1:]

    def read(self, context: Context) -> None:
        """Fetch the open row's numbers: the host waits for the device once. All processes call it after a step."""
        unread = [row for row in self.pending if isinstance(row["finite"], Tensor)]
        if not unread:
            return
        names = [name for name, value in unread[0].items() if isinstance(value, Tensor)]
        # float64: no number changes
        own = torch.stack([torch.stack([row[n].to(context.device, torch.float64) for n in names]) for row in unread])
        for row, values in zip(unread, context.mean(own).tolist(), strict=True):
            row.update(zip(names, values, strict=True))
            self.skipped_in_a_row = 0 if row["finite"] else self.skipped_in_a_row + 1
        if self.skipped_in_a_row:
            is_bad = torch.zeros(context.world_size, device=context.device, dtype=torch.float64)
            is_bad[context.rank] = ~own[-1, names.index("loss")].isfinite()
            self.culprits = context.mean(is_bad).nonzero()[:, 0].tolist()

    def ended(self) -> list[dict[str, float]]:
        """The rows of a training that ends here: the open one is closed. The curve itself can go on."""
        is_open = any(step["finite"] for step in self.pending)
        return self.rows + ([_mean(self.pending)] if is_open else [])


def _mean(steps: list[dict[str, float]]) -> dict[str, float]:
    finite = [step for step in steps if step["finite"]]
    means = {k: sum(step[k] for step in finite) / len(finite) for k in finite[0] if k != "finite"}
    return {**means, "step": steps[-1]["step"], "epoch": steps[-1]["epoch"], "skipped": len(steps) - len(finite)}


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
    begin: Path | None = None,
    restart_steps: int = 0,
    until: int | None = None,
    watcher: Watcher = UNWATCHED,
    are_states_kept: bool = False,
    load: Load | None = None,
    resume_changed: str = "",
) -> Fit:
    """Train `model` for s.epochs over `num_items` items and return the averaged weights.

    until: end after this epoch; schedules are still those of s.epochs.

    folder: where checkpoints live; a state found there is resumed. announce(done, total, note) shows progress:
    first what was done before, then each step.
    steps_before: training steps behind the model's weights, infinite if unknown. The average's warm-up counts them.
    begin: where the folder holds no checkpoint, model, average and the optimizer's moments come from the state in this
    file.
    restart_steps: over so many first steps the learning rate rises from 0, for weights that come without moments.
    are_states_kept: the full state at the end outlives the training, in the folder's `kept`.
    resume_changed: the command that continues this training under other settings, for the message of one that stops.

    load: makes a step's batch from its indices, ahead of it and in a thread; without it the step gets the indices.

    A step whose gradient is not finite changes nothing and is counted. After more than MOST_SKIPPED in a row, or any at
    the end, the training goes back to its last checkpoint and draws other noise; where that does not help, it raises
    FloatingPointError. Raises ValueError for settings that do not fit, and OSError where the state at the end is to be
    kept and cannot be written. On SIGTERM and Ctrl-C the state is saved and the process ends.
    """
    steps, per_epoch = total_steps(s, num_items), num_items // s.batch_size
    end = steps if until is None else until * per_epoch
    share = context.split(s.batch_size)
    now = Now(model, copy.deepcopy(model).eval(), build_optimizer(model, s))
    wrapped = context.wrap(model.train())
    if not now.resume(folder, context, end) and begin is not None:
        # read here and not held: it is as large as the training's own state
        checkpoints.read_state(begin, context.device).restore(model, now.average, now.optimizer, str(begin))
    if not context.is_main:
        watcher = UNWATCHED
    watcher.event("resumed" if now.done else "started", now.done, f"after {now.done}/{steps} steps")
    if context.is_main and not now.done and (slow := slow_average(s, steps, steps_before)):
        print(f"{name}: {slow}", flush=True)
    announce(now.done, end, "")
    went_back_to = None

    def not_written(done: int, reason: str) -> None:
        lost = f"the checkpoint after {done} steps could not be written ({reason})"
        text = f"{lost}. The training continues, and the one before remains"
        watcher.event("not saved", done, text)
        print(f"{name}: {text}", flush=True)

    order = lru_cache(maxsize=2)(partial(order_of, seed, num_items))

    def parts(index: int) -> list[Part]:
        epoch, batch = divmod(index, per_epoch)
        rows = order(epoch)[batch * s.batch_size : (batch + 1) * s.batch_size]
        return parts_of(rows, share, s, (now.noise(seed), index), context.device, load)

    wishes, start = Wishes(context, checkpoint_minutes, now.done), time.monotonic()
    with (
        signals_as_wishes() as signalled,
        writing(folder, not_written) as writer,
        Ahead(parts, end, depth=STEPS_AHEAD if load else 0) as ahead,
    ):
        while now.done < end:
            index = now.done
            lr = learning_rate(s, index / per_epoch, index / restart_steps if restart_steps else 1.0)
            with naming(f"{name} step {index + 1}"):
                scalars = optimizer_step(wrapped, step, ahead.take(index), now.optimizer, s, lr, index / steps)
            update_average(now.average, model, average_decay(s, steps_before + index), scalars["finite"])
            now.done += 1
            row = {"step": now.done, "epoch": now.done / per_epoch, "learning_rate": lr, **scalars}
            closed = now.curve.add({**row, "seconds": time.monotonic() - start}, context)
            start = time.monotonic()
            if closed:
                watcher.rows(closed)
                _tell_of_skipped(closed[0], name, watcher)
            announce(now.done, end, f"loss {now.curve.rows[-1]['loss'] if now.curve.rows else float('nan'):.4f}")
            if now.done == end:
                now.curve.read(context)
            if now.curve.skipped_in_a_row > (MOST_SKIPPED if now.done < end else 0):
                writer.wait()
                went_back_to = now.go_back(folder, context, name, went_back_to, watcher, resume_changed)
                ahead.forget()
                continue
            is_time, is_end = wishes.ask(now.done, signalled() > 0) if now.done < end else (False, False)
            if not (is_time or is_end):
                continue
            now.curve.read(context)
            is_good = not now.curve.skipped_in_a_row  # weights that give no finite loss are none to go back to
            if is_good:
                wishes.saved()
                if context.is_main:
                    writer.write(now.state())
                    if not is_end:  # a node that is taken away leaves no time
                        watcher.checkpoint(now.done, now.done / per_epoch, now.average)
            if is_end:
                if context.is_main:
                    is_saved = writer.wait() and is_good
                    watcher.event("stopped", now.done, f"told to end after {now.done}/{end} steps")
                    print(_how_to_resume(name, now.done, end, folder, is_saved), flush=True)
                context.barrier()  # a launcher may kill the process that writes once another one has ended
                raise SystemExit(128 + (signalled() or signal.SIGTERM))
        if context.is_main:
            writer.write(now.state(), is_kept=are_states_kept)
            if are_states_kept and not writer.wait():
                raise OSError(
                    f"{name}: the state after {now.done} steps is to be kept in {folder} and could not be written. "
                    "Free some space and run this again; it continues from the checkpoint before"
                )
            if end == steps:  # at a milestone the open row goes on
                watcher.rows(now.curve.ended()[len(now.curve.rows) :])
            watcher.checkpoint(now.done, now.done / per_epoch, now.average)
            watcher.event("finished" if end == steps else "milestone", now.done, f"after {now.done}/{steps} steps")
    return now.fit()


@dataclass
class Now:
    """A training as it is after `done` steps."""

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    curve: Curve = field(default_factory=Curve)
    done: int = 0
    rollbacks: int = 0
    earlier_seconds: float = 0.0  # of earlier attempts
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.began

    def noise(self, seed: int) -> int:
        """The seed of this training's draws."""
        return seed_of(seed, "rollback", self.rollbacks) if self.rollbacks else seed

    def state(self) -> State:
        """What a checkpoint holds; its tensors change with the next step."""
        networks = self.model.state_dict(), self.average.state_dict(), self.optimizer.state_dict()
        return State(*networks, self.curve.rows, self.curve.pending, self.done, self.seconds, self.rollbacks)

    def fit(self) -> Fit:
        return Fit(self.average.state_dict(), self.curve.ended(), self.done, self.seconds)

    def resume(self, folder: Path, context: Context, at_most: int) -> bool:
        """Take up the newest checkpoint that is whole, the same in all processes; False if there is none."""
        found = checkpoints.newest(folder, at_most) if context.is_main else None
        done = context.told(-1 if found is None else found)
        if done < 0:
            return False
        path = checkpoints.states(folder)[done]
        state = checkpoints.read_state(path, context.device)
        state.restore(self.model, self.average, self.optimizer, str(path))
        self.curve = Curve(state.curve, state.pending)
        self.done, self.rollbacks = state.done, state.rollbacks
        self.earlier_seconds = max(state.seconds, self.earlier_seconds)
        return True

    def go_back(
        self,
        folder: Path,
        context: Context,
        name: str,
        went_back_to: int | None,
        watcher: Watcher,
        resume_changed: str,
    ) -> int:
        """Resume from the last checkpoint with other draws; returns its steps.

        Raises FloatingPointError if there is none, or the training has gone back to it before.
        """
        skipped, last, seconds = self.curve.skipped_in_a_row, self.done, self.seconds
        whose = " and ".join(str(rank) for rank in self.curve.culprits) or "none"
        found = (
            f"{skipped} steps in a row, up to step {last}, had no finite gradient (processes with a loss that is not "
            f"finite: {whose}, of 0 to {context.world_size - 1})"
        )
        remedy = "Lower learning_rate, or use precision: float32"
        if not self.resume(folder, context, last):
            watcher.event("stopped", last, found)
            raise FloatingPointError(f"{name}: {found}, before the first checkpoint. {remedy}")
        if self.done == went_back_to:
            watcher.event("stopped", last, found)
            raise FloatingPointError(
                f"{name}: {found}, also with other draws since step {self.done}. The checkpoint after step {self.done} "
                f"is kept in {folder}. {remedy}{f', and continue from it: {resume_changed}' if resume_changed else ''}"
            )
        self.earlier_seconds, self.began = seconds, time.monotonic()
        self.rollbacks += 1
        text = f"{found}; back to the checkpoint after step {self.done}, with other draws"
        watcher.event("rolled back", self.done, text)
        if context.is_main:
            print(f"{name}: {text}", flush=True)
        return self.done


class Wishes:
    """When all processes save, and end: after the same step, and soon after one of them was told to.

    One process knows by itself. Several ask each other about every SECONDS_BETWEEN_QUESTIONS, through the hosts: no
    device waits. step: after which the first attempt, or this one, begins.
    """

    def __init__(self, context: Context, checkpoint_minutes: float, step: int):
        self.context, self.period = context, 60 * checkpoint_minutes
        self.last_save = self.last_question = time.monotonic()
        self.asked_at = self.next = step

    def ask(self, step: int, is_told: bool) -> tuple[bool, bool]:
        """Whether to save, and to end, after `step`; is_told: this process was told to end."""
        now = time.monotonic()
        is_time = now - self.last_save > self.period
        if self.context.world_size == 1:
            return is_time, is_told
        if self.asked_at <= step < self.next:
            return False, False
        pace = (now - self.last_question) / max(step - self.asked_at, 1)
        is_time, is_told, pace = self.context.asked(is_time, is_told, pace)
        self.asked_at, self.last_question = step, now
        self.next = step + min(max(int(SECONDS_BETWEEN_QUESTIONS / max(pace, 1e-9)), 1), MOST_STEPS_BETWEEN_QUESTIONS)
        return is_time, is_told

    def saved(self) -> None:
        """Begin the next period."""
        self.last_save = time.monotonic()


def _tell_of_skipped(row: dict[str, float], name: str, watcher: Watcher) -> None:
    if count := int(row["skipped"]):
        text = f"{count} steps without a finite gradient were skipped, the last before step {int(row['step'])}"
        watcher.event("skipped", int(row["step"]), text)


def slow_average(s: sections.Training, steps: int, steps_before: float) -> str | None:
    """What to know where a training is short for its ema_decay: in fewer than 5 time constants, else None."""
    if (spans := steps * (1 - s.ema_decay)) >= 5:
        return None
    found = f"ema_decay {s.ema_decay} is slow for {steps} steps: {steps} x (1 - {s.ema_decay}) = {spans:.2g}, below 5"
    decays = [average_decay(s, steps_before + index) for index in range(steps)]
    if steps_before:
        return f"{found}; the averaged weights keep {math.prod(decays):.0%} of those that the training starts from"
    return f"{found}; the average warms up to a decay of {decays[-1]:.3g} and spans about the last tenth of the steps"


def _how_to_resume(name: str, done: int, steps: int, folder: Path, is_written: bool) -> str:
    command = shlex.join(["mixar", *sys.argv[1:]])
    saved = f"saved in {folder}" if is_written else f"not saved; {folder} holds the checkpoint before"
    found = f"{name}: stopped after {done}/{steps} steps, {saved}"
    return f"{found}. To continue, run this again, or the snakemake that ran it: {command}"
