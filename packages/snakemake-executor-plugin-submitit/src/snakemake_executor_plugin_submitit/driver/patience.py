"""Waiting for Slurm through an outage. While its services are down nothing is known: no answer is not a no."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event
from typing import TypeVar

from snakemake_executor_plugin_submitit.slurm.clients import QueryFailed
from snakemake_executor_plugin_submitit.slurm.texts import is_outage

PAUSES_SECONDS = (2, 5, 15, 30, 60)  # the last one again and again
FEW = 5  # tries after an error that does not look like an outage

Answer = TypeVar("Answer")


class Patience:
    """Asks until Slurm answers, or until the run is being stopped. is_silent: it did not answer the last time."""

    def __init__(self, ending: Event, say: Callable[[str], None]) -> None:
        self.ending, self.say = ending, say
        self.is_silent = False

    def ask(self, question: Callable[[], Answer], purpose: str, was_silent: bool = False) -> Answer:
        """The answer to a question that raises QueryFailed while there is none.

        Raises it if the run is being stopped, and after a few tries if the error is no outage's.

        After a silence the question is asked twice: a controller that hung may answer before it has done what it was
        asked to do earlier.
        """
        for number, pause in enumerate(pauses()):
            try:
                answer = question()
            except QueryFailed as error:
                was_silent = self.is_silent = True
                is_hopeless = number >= FEW and not is_outage(str(error))
                if is_hopeless or not self.wait(pause, f"{error}; asking again in {pause} s {purpose}"):
                    raise
                continue
            self.is_silent = False
            if not was_silent or not self.wait(PAUSES_SECONDS[0]):
                return answer
            was_silent = False
        raise AssertionError("pauses have no end")

    def wait(self, seconds: float, why: str = "") -> bool:
        """Sleep; False if the run is being stopped, which ends the sleep."""
        if why:
            self.say(why)
        return not self.ending.wait(seconds)


def pauses() -> Iterator[float]:
    """Seconds before each further try, without end."""
    yield from PAUSES_SECONDS
    while True:
        yield PAUSES_SECONDS[-1]
