"""`watch`: every training of a study, as its files show it. Reads only, from any machine that sees them; no torch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mixar.process.progress import duration
from mixar.storage import locks
from mixar.storage.files import json_mapping
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.training.metrics import ENDS, FILE, STOPPED, Metrics, read_metrics

FINISHED_STATE, TRAINING, QUEUED, STOPPED_STATE, WAITING = "finished", "training", "queued", "stopped", "waiting"
STYLES = {FINISHED_STATE: "green", TRAINING: "bold", QUEUED: "cyan", STOPPED_STATE: "yellow", WAITING: "dim"}
JOBS = Path(".snakemake/submitit/jobs")  # of the executor: a JSON file for each job in the queue or running
QUIET_S = 300.0  # without a lock to see, a training is taken for alive so long after its last line
COLUMNS = ("run", "seed", "state", "epoch", "loss", "held-out", "images/s", "MFU", "left", "node", "restarts")
WIDTH = 160  # of plain text


@dataclass(frozen=True)
class Training:
    """One run and seed, as far as its files say."""

    run: str
    seed: int
    state: str
    epochs: int
    metrics: Metrics | None = None
    holder: str | None = None  # the process that holds the checkpoints
    job: str = ""  # in the cluster's queue
    fault: str = ""  # why its metrics cannot be read

    @property
    def last(self) -> dict[str, Any]:
        return self.metrics.rows[-1] if self.metrics and self.metrics.rows else {}

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, at the rate of the last rows; None unless it trains."""
        attempt = self.metrics.attempt if self.metrics else {}
        rate = self.last.get("images_per_second")
        if self.state != TRAINING or not rate or not attempt.get("steps"):
            return None
        return max(attempt["steps"] - self.last["step"], 0) * attempt["batch_size"] / rate

    @property
    def notes(self) -> list[str]:
        """What needs a look: alarms, skipped steps, why it stopped, who holds it."""
        name, found = f"{self.run} seed {self.seed}", []
        if self.fault:
            found.append(self.fault)
        if self.holder:
            found.append(self.holder)
        if self.metrics:
            found += [f"ALARM: {text}" for text in self.metrics.alarms]
            if skipped := int(sum(row.get("skipped") or 0 for row in self.metrics.rows)):
                found.append(f"{skipped} steps skipped")
            if self.state == STOPPED_STATE and self.metrics.events[-1:]:
                found.append(self._end(self.metrics.events[-1]))
        return [f"{name}: {text}" for text in found]

    def _end(self, event: dict[str, Any]) -> str:
        if event["event"] == STOPPED:
            return f"last event: {event['event']}, {event['text']}"
        return (
            f"killed, or ended by an error after step {self.last.get('step', event['step'])}: its log is in logs/train/"
        )


def watch(study: Study, layout: Layout, is_once: bool, seconds: float) -> None:
    """Print a table of all trainings; on a terminal again every few seconds until Ctrl-C, unless `is_once`."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    if is_once or not console.is_terminal:
        console.print(shown(study, layout))
        return
    try:
        with Live(shown(study, layout), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(seconds)
                live.update(shown(study, layout), refresh=True)
    except KeyboardInterrupt:
        return


def shown(study: Study, layout: Layout) -> Group:
    """The table, and below it a line for whatever needs a look."""
    found = list(trainings(study, layout))
    table = Table(*COLUMNS, box=SIMPLE_HEAD, show_edge=False, title=study.title, title_justify="left")
    for training in found:
        table.add_row(*map(Text, _cells(training)), style=STYLES[training.state])
    counts = {state: sum(t.state == state for t in found) for state in STYLES}
    total = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    notes = [Text(note, style="red" if "ALARM" in note else "") for t in found for note in t.notes]
    return Group(table, Text(f"{total}; {layout.root / 'watch'}"), *notes)


def _cells(training: Training) -> list[str]:
    last, held_out = training.last, training.metrics.held_out if training.metrics else []
    attempt = training.metrics.attempt if training.metrics else {}
    state = training.state + (f" ({training.job})" if training.job else "")
    is_alarming = bool(training.metrics and training.metrics.alarms)
    return [
        training.run,
        str(training.seed),
        state + (" ALARM" if is_alarming else ""),
        f"{last['epoch']:.2f}/{training.epochs}" if last else f"–/{training.epochs}",
        _number(last.get("loss"), ".4f"),
        _number(held_out[-1]["held_out_loss"] if held_out else None, ".4f"),
        _number(last.get("images_per_second"), ",.1f"),
        _number(last.get("mfu"), ".0%"),
        "–" if training.seconds_left is None else duration(training.seconds_left),
        attempt.get("host", "–"),
        str(training.metrics.restarts) if training.metrics else "–",
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def trainings(study: Study, layout: Layout) -> Iterator[Training]:
    """Every run and seed that the study trains, in its order."""
    jobs = _jobs(layout)
    for run, settings in study.runs.items():
        for seed in settings.seeds if not settings.weights else ():
            yield _training(study, layout, run, seed, jobs)


def _training(study: Study, layout: Layout, run: str, seed: int, jobs: dict[str, str]) -> Training:
    metrics, fault = _metrics(layout.watch(run, seed) / FILE)
    folders = (layout.root / "checkpoints").glob(f"train-{run}-seed{seed}-*")
    holder = next((found for folder in folders if (found := locks.holder(folder))), None)
    job = jobs.get(f"train {run} {seed}", "")
    if holder or (metrics and _is_fresh(metrics)):
        state = TRAINING
    elif layout.weights(run, seed).exists():
        state, job = FINISHED_STATE, ""
    elif job:
        state = QUEUED
    else:
        is_begun = metrics and not (metrics.events and metrics.events[-1]["event"] in ENDS)  # at a milestone
        state = STOPPED_STATE if is_begun else WAITING
    return Training(run, seed, state, study.training_of(run).epochs, metrics, holder, job, fault)


def _metrics(path: Path) -> tuple[Metrics | None, str]:
    """The metrics of a training; instead of those that cannot be read, why."""
    try:
        return read_metrics(path), ""
    except FileNotFoundError:
        return None, ""
    except (ValueError, OSError) as error:
        return None, str(error)


def _is_fresh(metrics: Metrics) -> bool:
    """Whether something was written just now and the training did not say that it ended."""
    lines = [*metrics.rows[-1:], *metrics.held_out[-1:], *metrics.events[-1:]]
    if not lines or (metrics.events and metrics.events[-1]["event"] in (STOPPED, *ENDS)):
        return False
    return time.time() - max(line["time"] for line in lines) < QUIET_S


def _jobs(layout: Layout) -> dict[str, str]:
    """Slurm's ids of this study's jobs, by rule and wildcards, where the executor's records can be read from here."""
    found, root = {}, str(layout.root.absolute())
    for path in JOBS.glob("*.json"):
        try:
            entry = json_mapping(path.read_bytes())
        except (OSError, ValueError):
            continue
        if root in json.dumps(entry.get("parts")) and not entry.get("is_accounted"):
            found[str(entry.get("name"))] = f"job {entry['job']}" if entry.get("job") else "submitting"
    return found
