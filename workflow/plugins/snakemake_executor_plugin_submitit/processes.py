"""A shell line with everything it starts, found again by an entry in their environment, and ended as a whole.

Process groups and sessions would not do: torchrun gives each worker its own. The entry is inherited by all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

VARIABLE = "SNAKEMAKE_SUBMITIT_ATTEMPT"
IGNORED_BY_GUARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


def members(mark: str) -> list[int]:
    """Ids of the living processes of this user that carry the mark."""
    wanted = f"\0{VARIABLE}={mark}\0".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = b"\0" + (entry / "environ").read_bytes()
        except OSError:  # gone, or another user's
            continue
        if wanted in environment:  # a zombie's is empty
            found.append(int(entry.name))
    return found


def kill(mark: str, seconds: float = 30) -> bool:
    """SIGKILL everything that carries the mark, until nothing does; False if something still does after so long."""
    deadline = time.monotonic() + seconds
    while left := members(mark):
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Command:
    """A running shell line. Should this process be killed, a guard outlives it and ends the line's processes.

    The guard inherits this process's open files, and so the lease: a next attempt begins when they are gone.
    """

    def __init__(self, line: str, mark: str, environment: Mapping[str, str]) -> None:
        self.mark = mark
        # Before the line: nothing may run that would outlive this process unwatched.
        self.guard, self.alive = _start_guard(mark)
        # The early signal is for this process; what it starts would die of it.
        self.process = subprocess.Popen(
            ["/bin/bash", "-c", f"trap '' USR2\n{line}"],
            env={**environment, VARIABLE: mark},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def code(self) -> int | None:
        return self.process.poll()

    def ask_to_stop(self) -> None:
        """SIGTERM: the sign to save one's state. To the line's own group; launchers pass it on."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait for the line's end; False if `until` or the time comes first."""
        return _wait(lambda: self.code() is not None, until, seconds)

    def wait_for_all(self, seconds: float) -> bool:
        """Wait for the line and everything it started: a shell ends at once, and what it ran may still be saving."""
        return _wait(lambda: self.code() is not None and not members(self.mark), lambda: False, seconds)

    def close(self) -> None:
        """End whatever is left, and the guard."""
        kill(self.mark)
        self.process.wait()
        os.close(self.alive)
        os.waitpid(self.guard, 0)


def _wait(done: Callable[[], bool], until: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if until() or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _start_guard(mark: str) -> tuple[int, int]:
    """Fork a process that waits until this one is gone. Returns its id and the pipe that keeps it waiting."""
    reading, writing = os.pipe()
    guard = os.fork()
    if guard:
        os.close(reading)
        return guard, writing
    try:
        os.close(writing)
        os.setsid()
        for number in IGNORED_BY_GUARD:
            signal.signal(number, signal.SIG_IGN)
        os.read(reading, 1)
        kill(mark)
    finally:
        os._exit(0)
