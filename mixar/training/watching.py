"""Watching a training while it runs: metrics and TensorBoard events, the held-out loss, preview sheets, alarms.

Nothing here changes a number of the training or ends it: what fails is said once and then left out. The metrics file
itself is the subject of metrics.py.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mixar.device import autocast, peak_memory_gib
from mixar.study.digests import seed_of
from mixar.study.sections import MarTraining
from mixar.training.draws import Draws
from mixar.training.metrics import (
    ALARM,
    ENDS,
    RESUMED,
    RETURNS,
    STARTED,
    STOPPED,
    Header,
    MetricsFile,
    alarm,
    check_owner,
    loss_at,
)
from mixar.training.steps import training_step

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HELD_OUT_BATCH = 64  # images that share a mask rate; part of the held-out loss
MOST_TIME = 0.005  # share of a training that held-out losses may take between milestones, and previews likewise
PREVIEWS = "previews"

Preview = Callable[[nn.Module, Path, str], None]  # (averaged model, file to write, title)


@dataclass(frozen=True)
class Plan:
    """What a training is going to be, for rates and the time left."""

    steps: int
    batch_size: int
    milestones: Collection[int]  # epochs whose held-out loss and preview are always made; the last one, too
    expected: Mapping[int, tuple[float, float]]  # loss bands by epoch
    processes: int
    device: torch.device
    flops_per_image: float | None = None  # of a training step
    peak_flops: float | None = None  # of one GPU, a second


class Watching:
    """A loop.Watcher that writes files into one folder. A metrics file of another run there is a ValueError."""

    def __init__(
        self,
        folder: Path,
        header: Header,
        plan: Plan,
        held_out: Callable[[nn.Module], float] | None = None,
        preview: Preview | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        check_owner(folder, header)
        self.folder, self.header, self.plan, self.clock = folder, header, plan, clock
        self.held_out, self.preview = held_out, preview
        self.name = f"train {header.run} seed {header.seed}"
        self.file: MetricsFile | None = None  # opened when the training begins, and so holds its lease
        self.board: SummaryWriter | None = None
        self.rows_before: list[dict[str, Any]] = []  # of this epoch, as far as alarms need them
        self.spent = {"held-out loss": 0.0, "preview": 0.0}  # seconds
        self.shown = -1  # step of the last ones
        self.failed: set[str] = set()

    def rows(self, rows: list[dict[str, float]]) -> None:
        """Write closed rows of the loss curve."""
        for row in rows:
            line = self._line(row)
            self._append(line)
            self._scalars(line)
            self._compare(line)

    def checkpoint(self, done: int, epoch: float, average: nn.Module) -> None:
        """Held-out loss and preview of the averaged weights; between milestones only within their shares of time."""
        if done == self.shown:
            return
        self.shown, was_training = done, average.training
        average.eval()
        is_milestone = done == self.plan.steps or epoch in self.plan.milestones
        with self._timed("held-out loss", is_milestone) as is_due:
            if self.held_out is not None and is_due:
                line = {"step": done, "epoch": epoch, "held_out_loss": self.held_out(average)}
                self._append(line)
                self._scalars(line)
        with self._timed("preview", is_milestone) as is_due:
            if self.preview is not None and is_due:
                path = self.folder / PREVIEWS / f"step{done:08d}.png"
                self.preview(average, path, f"{self.name}, epoch {epoch:.4g}, step {done}")
                self._picture(path, done)
        average.train(was_training)

    @contextmanager
    def _timed(self, what: str, is_always: bool) -> Iterator[bool]:
        """Count the body's seconds. Yields whether it is due: always, or within its share of the training's time."""
        began = self.clock()
        with self._tolerant(what):
            yield is_always or self.spent[what] <= MOST_TIME * (began - self.began)
        seconds = self.clock() - began
        self.spent[what] += seconds
        self.closed += seconds  # no part of the images/s

    def event(self, kind: str, step: int, text: str) -> None:
        """Write what happened to the training. The first event of an attempt is that it started or resumed."""
        line: dict[str, Any] = {"event": kind, "step": step, "text": text}
        if kind in (STARTED, RESUMED):
            line |= self._begin(step)
        if kind in RETURNS:
            self._return_to(step)
        self._append(line)
        if kind in (STOPPED, *ENDS):
            self.close()

    def close(self) -> None:
        """Write what TensorBoard still holds."""
        with self._tolerant("TensorBoard"):
            if self.board is not None:
                self.board.close()

    def _begin(self, step: int) -> dict[str, Any]:
        """Open the files. Returns where the attempt runs, and its size."""
        self.began = self.clock()
        with self._tolerant("metrics"):
            self.file = MetricsFile(self.folder, self.header)
            self.rows_before = self.file.before.rows if self.file.before else []
        with self._tolerant("TensorBoard"):
            # imported here: other trainings, and their tests, do without it
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.folder), purge_step=step + 1, flush_secs=30)
        host = os.environ.get("SLURMD_NODENAME") or socket.gethostname()  # as `scontrol show node` knows it
        place = {"host": host, "pid": os.getpid(), "device": str(self.plan.device)}
        return {
            **place,
            "steps": self.plan.steps,
            "batch_size": self.plan.batch_size,
            "processes": self.plan.processes,
        }

    def _return_to(self, step: int) -> None:
        """Forget the rows beyond a step, which the training repeats."""
        self.closed, self.step = self.clock(), step
        self.rows_before = [row for row in self.rows_before if row["step"] <= step]

    # What a row becomes

    def _line(self, row: Mapping[str, float]) -> dict[str, Any]:
        now, step = self.clock(), int(row["step"])
        rate = (step - self.step) * self.plan.batch_size / max(now - self.closed, 1e-9)
        self.closed, self.step = now, step
        kept = {key: value for key, value in row.items() if key not in ("step", "seconds")}
        found = {"images_per_second": rate, "mfu": self._mfu(rate), "memory_gib": peak_memory_gib(self.plan.device)}
        short = {key: value if value is None else float(f"{value:.4g}") for key, value in found.items()}
        return {"step": step, **kept, **short}

    def _mfu(self, rate: float) -> float | None:
        """Model FLOPs utilisation: the share of the GPUs' peak that the model's own FLOPs use."""
        if not self.plan.flops_per_image or not self.plan.peak_flops:
            return None
        return rate * self.plan.flops_per_image / (self.plan.peak_flops * self.plan.processes)

    def _compare(self, line: dict[str, Any]) -> None:
        """Raise the alarm for epochs that ended since the last row and whose loss is outside its band."""
        rows, now = self.rows_before, line["epoch"]
        before = rows[-1]["epoch"] if rows else now - 1
        self.rows_before = [row for row in rows if row["epoch"] > now - 1] + [line]
        for epoch, band in self.plan.expected.items():
            loss = loss_at([*rows, line], epoch) if before < epoch <= now else None
            if loss is not None and (text := alarm(loss, epoch, band)):
                print(f"{self.name}: ALARM: {text}; see {self.folder}", flush=True)
                self._append({"event": ALARM, "step": line["step"], "text": text})

    # Where it goes

    def _append(self, line: dict[str, Any]) -> None:
        with self._tolerant("metrics"):
            if self.file is not None:
                self.file.append(line)

    def _scalars(self, line: Mapping[str, Any]) -> None:
        with self._tolerant("TensorBoard"):
            for key, value in line.items():
                if self.board is not None and key not in ("step", "epoch") and value is not None:
                    self.board.add_scalar(key, value, line["step"])

    def _picture(self, path: Path, step: int) -> None:
        with self._tolerant("TensorBoard"):
            if self.board is not None:
                import numpy as np
                from PIL import Image

                with Image.open(path) as image:
                    self.board.add_image("preview", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    @contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        """Say an error once and continue: a training does not end for what only shows it."""
        try:
            yield
        except Exception as error:  # the study's own network, a full disk, a GPU without room: anything
            if what not in self.failed:
                print(f"{self.name}: no {what} ({type(error).__name__}: {error}); the training continues", flush=True)
            self.failed.add(what)


@torch.no_grad()
def held_out_loss(model: nn.Module, batches: Iterable[dict[str, Tensor]], settings: MarTraining) -> float:
    """The loss of images that the training does not see, mean over them, with the same draws at every call.

    Masks, noise and dropped labels are drawn as in training, from a fixed seed; the images' own tokens guide (λ = 1).
    batches: of HELD_OUT_BATCH images, as `training_step` takes them.
    """
    device = next(model.parameters()).device
    losses, sizes = [], []
    for number, batch in enumerate(batches):
        draws = Draws.of_all(device, seed_of("held-out loss", number), len(batch["q"]))
        batch = {key: value.to(device) for key, value in batch.items()}
        with autocast(device, settings.precision):
            losses.append(training_step(model, batch, settings, draws).float())
        sizes.append(len(batch["c"]))
    weights = torch.tensor(sizes, device=device) / sum(sizes)
    return float((torch.stack(losses) * weights).sum())
