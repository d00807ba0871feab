"""A shell line with everything it starts, ended as a whole.

Process groups and sessions would not do: torchrun gives each worker its own. What the line starts is found in two ways.
A guard process adopts what loses its parents, so all are the guard's descendants, also daemons that empty their
environment. And all inherit an entry in the environment, by which those are found that another service has started,
such as srun's tasks on this node.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

VARIABLE = "SNAKEMAKE_SUBMITIT_ATTEMPT"
CAUGHT_BY_GUARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
GUARD_SECONDS = 0.05  # between two looks for ended processes
PR_SET_CHILD_SUBREAPER = 36  # of Linux
LONG_LINE = 100_000  # characters
RUN_SNAKEMAKE = (
    "import json, runpy, sys; sys.argv[1:] = json.load(open(sys.argv[1], encoding='utf-8')); "
    "runpy.run_module('snakemake', run_name='__main__', alter_sys=True)"
)


def members(mark: str, guard: int | None = None) -> list[int]:
    """Ids of this user's living processes that carry the mark or descend from the guard."""
    wanted = f"\0{VARIABLE}={mark}\0".encode()
    found = set(descendants(guard)) if guard else set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = b"\0" + (entry / "environ").read_bytes()
        except OSError:  # gone, or another user's
            continue
        if wanted in environment:  # a zombie's is empty
            found.add(int(entry.name))
    return sorted(found)


def descendants(root: int) -> Iterator[int]:
    """Ids of the living processes below one."""
    children = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # PID (NAME) STATE PARENT ...; a name may hold blanks and parentheses.
            state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
            children[int(parent)].append((int(entry.name), state))
    left = children.pop(root, [])
    while left:
        process, state = left.pop()
        left += children.pop(process, [])
        if state not in (b"Z", b"X"):
            yield process


def kill(mark: str, seconds: float = 30, guard: int | None = None) -> bool:
    """SIGKILL all `members`, until there are none; False if some are left when the time is up."""
    deadline = time.monotonic() + seconds
    while left := members(mark, guard):
        for process in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


class Command:
    """A running shell line. Should this process be killed, the line's guard outlives it and ends the line's processes.

    The guard inherits this process's open files, and so the lease: a next attempt begins when they are gone.
    """

    def __init__(self, line: str, mark: str, environment: Mapping[str, str]) -> None:
        self.mark = mark
        self._code: int | None = None
        self.guard, self.alive, self.news = _start_guard(line, mark, {**environment, VARIABLE: mark})
        words = os.read(self.news, 64).split()  # the line's process, and perhaps its end
        if not words:
            raise RuntimeError("the command could not be started; its error is above")
        self.process = int(words[0])
        self._hear(words[1:])

    def code(self) -> int | None:
        """The line's exit code, of a signal negative; None while it runs."""
        if self._code is None and select.select([self.news], [], [], 0)[0]:
            self._hear(os.read(self.news, 64).split() or [-signal.SIGKILL])  # empty: the guard itself was killed
        return self._code

    def _hear(self, words: list) -> None:
        if words:
            self._code = int(words[0])

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the line's process group, as a request to save; launchers pass it on."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGTERM)

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait for the line's end; False if `until` or the time comes first."""
        return _wait(lambda: self.code() is not None, until, seconds)

    def wait_for_all(self, seconds: float) -> bool:
        """Wait for the line and everything it started: a shell ends at once, and what it ran may still be saving."""
        return _wait(lambda: self.code() is not None and not members(self.mark, self.guard), lambda: False, seconds)

    def close(self) -> None:
        """End whatever is left, and the guard."""
        os.close(self.alive)
        if os.waitpid(self.guard, 0)[1]:  # it was killed
            kill(self.mark)
        self.code()
        os.close(self.news)


def _wait(done: Callable[[], bool], until: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if until() or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _start_guard(line: str, mark: str, environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Fork a process that runs the line, and ends all of it when this process is gone or says so.

    Returns its id, the pipe that keeps it waiting, and the pipe on which it tells the line's id and exit code.
    """
    waiting, alive = os.pipe()
    news, telling = os.pipe()
    guard = os.fork()
    if guard:
        os.close(waiting)
        os.close(telling)
        return guard, alive, news
    status = 1
    try:
        os.close(alive)
        os.close(news)
        os.setsid()
        for number in CAUGHT_BY_GUARD:  # what is ignored, the line would ignore, too
            signal.signal(number, lambda *_: None)
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        process = _start(line, environment)  # kept: forgotten, it would be waited for, and its code lost
        _guard(process.pid, mark, waiting, telling)
        status = 0
    except BaseException:
        traceback.print_exc()  # otherwise the error would be lost
        sys.stderr.flush()
    finally:
        os._exit(status)


def _start(line: str, environment: Mapping[str, str]) -> subprocess.Popen:
    """Run a line with bash, which gives its place to the line's last command: that one gets the signals."""
    with tempfile.TemporaryFile() as arguments:
        # The early signal is for the job's first process; it would kill the children.
        return subprocess.Popen(
            ["/bin/bash", "-c", f"trap '' USR2\n{_with_arguments_in_file(line, arguments)}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[arguments.fileno()],
        )


def _with_arguments_in_file(line: str, file: IO[bytes]) -> str:
    """A long `python -m snakemake ...` as a short line that takes its arguments from a file; others as they are.

    Linux limits an argument to 128 KiB, and bash would get the whole line as one.
    """
    if len(line) < LONG_LINE:
        return line
    words = shlex.split(line)
    if words[1:3] != ["-m", "snakemake"]:
        return line
    file.write(json.dumps(words[3:]).encode())
    file.flush()
    return shlex.join([words[0], "-c", RUN_SNAKEMAKE, f"/proc/self/fd/{file.fileno()}"])


def _guard(process: int, mark: str, waiting: int, telling: int) -> None:
    os.write(telling, b"%d\n" % process)
    while not select.select([waiting], [], [], GUARD_SECONDS)[0]:
        _reap(process, telling)
    kill(mark, guard=os.getpid())
    _reap(process, telling)


def _reap(process: int, telling: int) -> None:
    """Take note of all children that have ended, and tell the line's exit code."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == process:
                with contextlib.suppress(BrokenPipeError):  # the reader is gone
                    os.write(telling, b"%d\n" % os.waitstatus_to_exitcode(ended[1]))
