"""Being told to end: a scheduler that takes a node away sends SIGTERM and waits a while; a user presses Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NOTICE = b"\nmixar: ending after this step, once the state is saved; Ctrl-C again ends at once, without saving\n"


@contextmanager
def signals_as_wishes() -> Iterator[Callable[[], int]]:
    """Take SIGTERM and Ctrl-C as wishes: yields a function that returns the first one's number, and 0 before.

    A second Ctrl-C exits immediately. Signals only arrive in the main thread; elsewhere the function returns 0. A
    process that ignores Ctrl-C, such as a script's background job, still ignores it.
    """
    wishes: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return

    def wish(number: int, _) -> None:
        wishes.append(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.write(2, NOTICE)  # print is not safe in a signal handler

    taken = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, wish) for number in taken}
    try:
        yield lambda: wishes[0] if wishes else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
