"""Several processes as one training: the only user of torch.distributed.

Launched by torchrun, or by a scheduler that sets the same variables, every process holds the whole network and its
share of each batch. Launched plainly there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # as torchrun sets them


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
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)

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

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def joined(device: torch.device) -> Iterator[Context]:
    """Join the processes that torchrun's variables describe, and leave them at the end; without them, be the only one.

    device: cpu, or cuda, where each process takes the GPU of its LOCAL_RANK. The processes talk through nccl on cuda
    and gloo on cpu. Raises ValueError for variables that contradict each other or the machine.
    """
    context = _join(device)
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


def _join(device: torch.device) -> Context:
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
        backend, device_id = ("nccl", device) if device.type == "cuda" else ("gloo", None)
        dist.init_process_group(backend, rank=rank, world_size=world_size, device_id=device_id)
    return Context(rank, world_size, device)


def _read_variables() -> tuple[int, int, int]:
    """RANK, WORLD_SIZE and LOCAL_RANK; 0, 1, 0 where none is set."""
    found = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    if not found:
        return 0, 1, 0
    missing = [name for name in VARIABLES if name not in found]
    if missing or not all(value.isdecimal() for value in found.values()):
        raise ValueError(
            f"{', '.join(VARIABLES)}: expected a number each, or none set; found {found}; start several processes "
            "with torchrun"
        )
    rank, world_size, local_rank = (int(found[name]) for name in VARIABLES)
    if rank >= world_size:
        raise ValueError(f"RANK: {rank} must be below WORLD_SIZE {world_size}")
    return rank, world_size, local_rank
