"""Waits for Slurm through an outage. No answer does not mean no: while its services are down, nothing is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Event
from typing import TypeVar

from snakemake_executor_plugin_submitit.slurm.clients import QueryFailed
from snakemake_executor_plugin_submitit.slurm.texts import is_outage

PAUSES_SECONDS = (2, 5, 15, 30, 60)  # the last one repeats
FEW = 5  # tries after an error that does not look like an outage

Answer = TypeVar("Answer")


class Patience:
    """Asks until Slurm answers or the run is being stopped.

    pauses_seconds: waits between tries; the last one repeats. is_silent: the last question got no answer.
    """

    def __init__(
        self, ending: Event, say: Callable[[str], None], pauses_seconds: Sequence[float] = PAUSES_SECONDS
    ) -> None:
        self.ending, self.say, self.pauses_seconds = ending, say, pauses_seconds
        self.is_silent = False

    def ask(self, question: Callable[[], Answer], purpose: str, was_silent: bool = False) -> Answer:
        """The answer to a question that raises QueryFailed while there is none.

        Raises it if the run is being stopped, and after a few tries if the error does not look like an outage.
        After a silence, asks twice: a controller that hung may answer before it has carried out earlier requests.
        """
        for number, pause in enumerate(self.pauses()):
            try:
                answer = question()
            except QueryFailed as error:
                was_silent = self.is_silent = True
                is_hopeless = number >= FEW and not is_outage(str(error))
                if is_hopeless or not self.wait(pause, f"{error}; asking again in {pause} s {purpose}"):
                    raise
                continue
            self.is_silent = False
            if not was_silent or not self.wait(self.pauses_seconds[0]):
                return answer
            was_silent = False
        raise AssertionError("pauses never end")

    def wait(self, seconds: float, why: str = "") -> bool:
        """Sleep; False if the run is being stopped, which ends the sleep."""
        if why:
            self.say(why)
        return not self.ending.wait(seconds)

    def pauses(self) -> Iterator[float]:
        """Seconds before each further try, without end."""
        yield from self.pauses_seconds
        while True:
            yield self.pauses_seconds[-1]
