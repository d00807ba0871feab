"""The metrics file of a training: append-only, one JSON object a line; and its alarms. Readable while it is written.

The first line names the training. Then a line is a row of the loss curve (it has `loss`), a held-out loss (it has
`held_out_loss`) or an event (it has `event`). No torch here: `mixar watch` reads these files in a blink.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from mixar.storage.files import json_mapping, room_for

FILE = "metrics.jsonl"
FORMAT = "mixar metrics, version 1"
STARTED, RESUMED, ROLLED_BACK, ALARM = "started", "resumed", "rolled back", "alarm"
STOPPED, MILESTONE, FINISHED = "stopped", "milestone", "finished"
ENDS = (MILESTONE, FINISHED)  # of an attempt that made what it should
RETURNS = (STARTED, RESUMED, ROLLED_BACK)  # events after which the training repeats the steps beyond theirs
EARLIER = "earlier"  # folder of the files of other settings
EPOCH_END = 0.1  # of an epoch: the rows behind the loss at its end


@dataclass(frozen=True)
class Header:
    """What a metrics file belongs to."""

    study: str
    run: str
    seed: int
    trajectory: str  # digest of what determines the numbers, images included


@dataclass
class Metrics:
    """A file's content; rows that a resumed training repeated are left out."""

    header: Header
    rows: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def restarts(self) -> int:
        """Attempts that took up an unfinished one."""
        told = [event["event"] for event in self.events if event["event"] in (STARTED, RESUMED, *ENDS)]
        return sum(now not in ENDS and before not in ENDS for before, now in itertools.pairwise(told))

    @property
    def alarms(self) -> list[str]:
        """The texts of the alarms."""
        return [event["text"] for event in self.events if event["event"] == ALARM]

    @property
    def attempt(self) -> dict[str, Any]:
        """The event that began the last attempt: host, processes, device, steps; empty without one."""
        begun = [event for event in self.events if event["event"] in (STARTED, RESUMED)]
        return begun[-1] if begun else {}

    def add(self, line: dict[str, Any]) -> None:
        """Take up one line; one that returns to an earlier step removes what came beyond it."""
        if "event" in line:
            if line["event"] in RETURNS:
                self.rows = [row for row in self.rows if row["step"] <= line["step"]]
                self.held_out = [row for row in self.held_out if row["step"] <= line["step"]]
                self.events = [e for e in self.events if e["event"] != ALARM or e["step"] <= line["step"]]
            self.events.append(line)
        elif "held_out_loss" in line:
            self.held_out.append(line)
        elif "loss" in line:
            self.rows.append(line)


def read_metrics(path: Path) -> Metrics:
    """The content of a metrics file. A line that a killed process cut off is left out.

    Raises ValueError for a file that begins otherwise, and OSError where it cannot be read.
    """
    lines = path.read_bytes().split(b"\n")
    found = Metrics(_header(path, lines[0]))
    for text in lines[1:]:
        if (line := _line(text)) is not None:
            found.add(line)
    return found


def _header(path: Path, text: bytes) -> Header:
    try:
        found = json_mapping(text)
        if found.pop("format") != FORMAT:
            raise ValueError
        return Header(**found)
    except (ValueError, TypeError, KeyError):
        begins = text[:40].decode("utf-8", "replace")
        raise ValueError(
            f"{path}: expected {FORMAT!r}, found a file that begins {begins!r}; move it away or delete it"
        ) from None


def _line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json_mapping(text)
    except ValueError:
        return None
    return line if isinstance(line.get("step"), int) else None


def check_owner(folder: Path, header: Header) -> None:
    """Raise ValueError if the folder's metrics file belongs to another study, run or seed."""
    path = folder / FILE
    if not path.exists():
        return
    found = read_metrics(path).header
    if (found.study, found.run, found.seed) != (header.study, header.run, header.seed):
        raise ValueError(
            f"{path}: metrics of {_owner(found)}, and {_owner(header)} is to be trained; move the file away or "
            "delete it"
        )


def _owner(header: Header) -> str:
    return f"study {header.study!r}, run {header.run!r}, seed {header.seed}"


class MetricsFile:
    """Appends to a training's metrics file.

    One with the same owner but other settings, or other images, moves to the folder `earlier` beside its folder.
    """

    def __init__(self, folder: Path, header: Header):
        check_owner(folder, header)
        self.path = folder / FILE
        self.before = self._kept(header)  # what earlier attempts wrote
        folder.mkdir(parents=True, exist_ok=True)
        if self.before is None:
            self._write({"format": FORMAT, **asdict(header)})

    def _kept(self, header: Header) -> Metrics | None:
        if not self.path.exists():
            return None
        found = read_metrics(self.path)
        if found.header == header:
            return found
        folder = self.path.parent
        target = folder.parent / EARLIER / f"{folder.name}-{found.header.trajectory}"
        target.parent.mkdir(parents=True, exist_ok=True)
        while target.exists():
            target = target.with_name(f"{target.name}-again")
        os.replace(folder, target)
        return None

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line, with the time in seconds since 1970. What is not finite becomes null."""
        self._write({key: _plain(value) for key, value in {**line, "time": round(time.time(), 1)}.items()})

    def _write(self, line: Mapping[str, Any]) -> None:
        with room_for(self.path), open(self.path, "ab+") as file:
            text = json.dumps(line) + "\n"
            if file.tell() and not self._ends_a_line(file):  # after a full disk or a killed process
                text = "\n" + text
            file.write(text.encode())  # flushed at once, so a reader rarely sees half a line

    @staticmethod
    def _ends_a_line(file: IO[bytes]) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def loss_at(rows: Iterable[Mapping[str, Any]], epoch: int) -> float | None:
    """The training loss at the end of an epoch: the mean over the rows of its last tenth, or the first row beyond it.

    None where the rows end before it.
    """
    known = [row for row in rows if row["loss"] is not None and math.isfinite(row["loss"])]
    beyond = [row["loss"] for row in known if row["epoch"] >= epoch]
    if not beyond:
        return None
    near = [row["loss"] for row in known if epoch - EPOCH_END <= row["epoch"] <= epoch] or beyond[:1]
    return sum(near) / len(near)


def alarm(loss: float, epoch: int, band: tuple[float, float]) -> str | None:
    """What to say of a loss outside the band that the study expects; None inside."""
    low, high = band
    if low <= loss <= high:
        return None
    where = "above" if loss > high else "below"
    return f"loss {loss:.4g} at the end of epoch {epoch} is {where} the expected {low:g} to {high:g}"
