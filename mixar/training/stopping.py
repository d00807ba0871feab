"""Being told to end: a scheduler that takes a node away sends SIGTERM and waits a while."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EXIT_CODE = 128 + signal.SIGTERM


@contextmanager
def sigterm_as_wish() -> Iterator[Callable[[], bool]]:
    """Take SIGTERM as a wish: yields a function that is true from then on. Outside the main thread nobody can ask."""
    wishes: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: wishes.append(number))
    try:
        yield lambda: bool(wishes)
    finally:
        signal.signal(signal.SIGTERM, before)
