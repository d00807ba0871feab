"""Batches made ahead of the steps that need them, in one thread: the device need not wait for files."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Calls make(index) in a thread for up to `depth` steps before they come; depth 0: when they come.

    What `make` returns must depend on the index alone, so that the depth changes nothing. Its errors are raised by
    `take`. Use it as a context: the thread ends with it.
    """

    def __init__(self, make: Callable[[int], T], end: int, depth: int):
        self.make, self.end, self.depth = make, end, depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches") if depth else None
        self._coming: dict[int, Future[T]] = {}

    def take(self, index: int) -> T:
        """make(index), made earlier if index follows the last one."""
        if self._pool is None:
            return self.make(index)
        for coming in range(index, min(index + self.depth + 1, self.end)):
            if coming not in self._coming:
                self._coming[coming] = self._pool.submit(self.make, coming)
        return self._coming.pop(index).result()

    def forget(self) -> None:
        """Drop what was made: the training goes back, or `make` has changed."""
        for future in self._coming.values():
            future.cancel()
        self._coming.clear()

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, *_) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
