"""Progress of a long stage: a line every few seconds, with the time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Call with (done, total, note); prints at most every few seconds, and once at the end.

    The first call sets the starting point: 0 for fresh work, more for resumed work.

    history: a file that keeps every line. Its content is printed first, because a scheduler that restarts a job empties
    the log. clock: seconds since any fixed moment.
    """

    def __init__(
        self,
        name: str,
        unit: str = "steps",
        history: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.name, self.unit, self.history, self.clock = name, unit, history, clock
        self.console = Console(highlight=False, soft_wrap=True)
        self.first: int | None = None  # items that were done before this work began
        if history is not None and history.exists():
            self.console.print(history.read_text(encoding="utf-8", errors="replace"), end="", markup=False)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = self.clock()
        if self.first is None:
            self.first, self.began, self.printed = done, now, now
            if 0 < done < total:
                self._say(f"{self.name}: continues after {done}/{total} {self.unit}")
            return
        if done <= self.first or (done < total and now - self.printed < SECONDS_BETWEEN_LINES):
            return
        self.printed = now
        rate = (done - self.first) / max(now - self.began, 1e-9)
        left = f"{duration((total - done) / rate)} left" if done < total else f"took {duration(now - self.began)}"
        parts = [f"{done}/{total} {self.unit}", note, f"{rate:.2f} {self.unit}/s", left]
        self._say(f"{self.name}: " + ", ".join(p for p in parts if p))

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False)
        if self.history is not None:
            # A full disk may be freed before the next checkpoint: no reason to end the work here.
            with contextlib.suppress(OSError), self.history.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


def duration(seconds: float) -> str:
    """A duration in readable units: 42 s, 3.5 min, 2.1 h, 4.0 days."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
