"""How a step's batch is cut: shares of processes, groups that share their random numbers, and micro-batches.

Groups are part of the numbers; processes and micro-batches are hardware. A micro-batch lies inside one share and one
group, so that its images have equally many masked tokens.
"""

from __future__ import annotations

import math


def images_at_once(batch: int, processes: int, micro_batch: int | None, group: int) -> int:
    """Images of a forward pass. micro_batch None: as many as a process's share and a group allow.

    Raises ValueError, beginning with the key, where the numbers do not divide.
    """
    share, rest = divmod(batch, processes)
    if rest:
        raise ValueError(
            f"batch_size: {batch} images do not divide over {processes} processes; "
            f"choose a multiple of {processes}, or another number of GPUs"
        )
    if batch % group:
        raise ValueError(f"mask_group: groups of {group} images do not divide batch_size {batch}; {_choose(batch)}")
    most = math.gcd(share, group)
    if micro_batch is None:
        return most
    if most % micro_batch:
        raise ValueError(
            f"micro_batch: {micro_batch} images do not divide the {share} of a process (batch_size {batch} over "
            f"{processes}) and its groups of {group}; {_choose(most, micro_batch)}"
        )
    return micro_batch


def _choose(of: int, near: int = 256) -> str:
    """Some divisors, those around `near`."""
    divisors = [n for n in range(1, of + 1) if of % n == 0]
    below = [n for n in divisors if n <= near][-3:]
    return f"choose one of {', '.join(map(str, below + [n for n in divisors if n > near][:2]))}"
