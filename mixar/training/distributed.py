"""Several processes as one training: the only user of torch.distributed.

Launched by torchrun, or by a scheduler that sets the same variables, every process holds the whole network and its
share of each batch. Launched plainly there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # as torchrun sets them
MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")
LAUNCHERS = {"TORCHELASTIC_RUN_ID": "torchrun", "SLURM_PROCID": "srun"}  # what each leaves in the environment
ALONE = f"for a training of one process: unset {' '.join(VARIABLES + MEETING_POINT)}"
NOTICES = (5.0, 60.0)  # seconds until the first notice of a wait, and between later ones


@dataclass(frozen=True)
class Context:
    """This process's place among all that train together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and shows progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model`, on this context's device, such that every backward pass averages gradients over all processes.

        Alone it is the model itself. Otherwise only what runs through the wrapper's own call counts, not through
        methods of the model, and only while the wrapper is held: without it, gradients are silently not averaged.
        """
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)

    def split(self, batch_size: int) -> slice:
        """This process's share of a batch. Shares are equal, so averaged gradients are those of the whole batch.

        Raises ValueError if the batch does not divide.
        """
        share, rest = divmod(batch_size, self.world_size)
        if rest:
            raise ValueError(
                f"batch_size: {batch_size} images do not divide over {self.world_size} processes; "
                f"choose a multiple of {self.world_size}, or another number of GPUs"
            )
        return slice(self.rank * share, (self.rank + 1) * share)

    def mean(self, tensor: Tensor) -> Tensor:
        """The tensor's mean over all processes, in each of them; it has no gradient."""
        total = tensor.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(total)
        return total / self.world_size

    def told(self, value: int) -> int:
        """Process 0's value, in each of them."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor(value)
        dist.broadcast(tensor, 0)
        return int(tensor)

    def asked(self, is_time: bool, is_told: bool, pace: float) -> tuple[bool, bool, float]:
        """Process 0's is_time and pace, and whether any process is told; the hosts' answer, no device waits."""
        answers = torch.tensor([is_time and self.is_main, is_told, pace if self.is_main else 0.0], dtype=torch.float64)
        dist.all_reduce(answers)
        return bool(answers[0]), bool(answers[1]), float(answers[2])

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.all_reduce(torch.zeros(1))


@contextmanager
def joined(device: torch.device, notices: tuple[float, float] = NOTICES) -> Iterator[Context]:
    """Join the processes that torchrun's variables describe, and leave them at the end; without them, be the only one.

    device: cpu, or cuda, where each process takes the GPU of its LOCAL_RANK. Tensors on cuda go through nccl,
    those on the host through gloo. notices: seconds until the first line about a wait, and between later ones. Raises
    ValueError for variables that contradict each other or the machine.
    """
    context = _join(device, notices)
    try:
        yield context
    except Exception:  # the others may wait in a sum that this process will never join: leave without a word
        raise
    except BaseException:
        _leave(context)
        raise
    _leave(context)


def _leave(context: Context) -> None:
    """A process that still has gloo's threads when it ends aborts now and then, whatever its exit code was to be."""
    if context.world_size > 1:
        dist.destroy_process_group()


def _join(device: torch.device, notices: tuple[float, float]) -> Context:
    rank, world_size, local_rank = _read_variables()
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"LOCAL_RANK: {local_rank} needs {local_rank + 1} GPUs on this node, found "
                f"{torch.cuda.device_count()}; start one process a GPU"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if world_size > 1:
        _meet(rank, world_size, device, notices)
    return Context(rank, world_size, device)


def _meet(rank: int, world_size: int, device: torch.device, notices: tuple[float, float]) -> None:
    """Wait for the other processes. Raises OSError naming the meeting point where they cannot meet."""
    # gloo also on GPUs, for what hosts tell each other: it waits for no device, nor for nccl's time limit
    backend, device_id = ("cpu:gloo,cuda:nccl", device) if device.type == "cuda" else ("gloo", None)
    where = ":".join(os.environ[name] for name in MEETING_POINT)
    others = "process 1" if world_size == 2 else f"processes 1 to {world_size - 1}"
    whom = f"{'process 0' if rank else others} at {where}"
    launched = [name for variable, name in LAUNCHERS.items() if variable in os.environ]
    left_over = f"neither {' nor '.join(LAUNCHERS.values())} seems to have started it: variables may be left over"
    advice = ALONE if launched else f"{left_over}; {ALONE}"
    with _said(f"process {rank} of {world_size} waits for {whom}; {advice}", notices), _ended_by_ctrl_c():
        try:
            dist.init_process_group(backend, rank=rank, world_size=world_size, device_id=device_id)
        except dist.DistError as error:
            reason = str(error).splitlines()[0]
            raise OSError(f"process {rank} of {world_size} cannot meet {whom}: {reason}; {advice}") from error


@contextmanager
def _said(text: str, notices: tuple[float, float]) -> Iterator[None]:
    """Print a line after the first number of seconds in here, and then each time the second has passed."""
    is_over = threading.Event()

    def say() -> None:
        seconds, later = notices
        while not is_over.wait(seconds):
            print(text, flush=True)
            seconds = later

    threading.Thread(target=say, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


@contextmanager
def _ended_by_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process: torch's own wait returns to Python, which would see it, after half an hour."""
    before = signal.getsignal(signal.SIGINT)
    if before != signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _read_variables() -> tuple[int, int, int]:
    """RANK, WORLD_SIZE and LOCAL_RANK; 0, 1, 0 where none is set."""
    found = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if not found:
        return 0, 1, 0
    missing = [name for name in VARIABLES if name not in found]
    if missing or not all(value.isdecimal() for value in found.values()):
        raise ValueError(
            f"{', '.join(VARIABLES)}: expected a number each, or none set; found {found}. Start several processes "
            f"with torchrun; {ALONE}"
        )
    rank, world_size, local_rank = (int(found[name]) for name in VARIABLES)
    if rank >= world_size:
        raise ValueError(f"RANK: {rank} must be below WORLD_SIZE {world_size}")
    meeting = {name: os.environ[name] for name in MEETING_POINT if name in os.environ}
    if world_size > 1 and not (meeting.get("MASTER_ADDR") and meeting.get("MASTER_PORT", "").isdecimal()):
        raise ValueError(
            f"{', '.join(MEETING_POINT)}: expected the address and port of process 0, as WORLD_SIZE is {world_size}; "
            f"found {meeting}. Start several processes with torchrun; {ALONE}"
        )
    return rank, world_size, local_rank
