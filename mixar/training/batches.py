"""Which images a step takes, and how they get from the token store to the device.

A batch stays in the shards' types until it is there: half the bytes of float32 latents and a quarter of int64 tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixar.study.digests import seed_of
from mixar.training.accumulate import Load
from mixar.training.draws import Draws

if TYPE_CHECKING:
    from mixar.data.shards import TokenStore


def order_of(seed: int, num_items: int, epoch: int) -> Tensor:
    """The positions of all items in the order of an epoch, int64 [num_items]."""
    rng = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(num_items, generator=rng)


def load_of(store: TokenStore, rows: Tensor, device: torch.device) -> Load:
    """Batches of a split, each image mirrored with probability 1/2; in pinned memory for a GPU.

    rows: the split's positions in the store. A batch is x float16 [n, L, C], q uint16 [n, L] and c int64 [n].
    """

    def load(indices: Tensor, draws: Draws) -> dict[str, Tensor]:
        # torch keeps pinned memory for the next batch, and hands it out once the copy from it has ended
        buffers = store.buffers(len(indices), pinned=device.type == "cuda")
        return store.batch(rows[indices], draws.flips(), out=buffers)

    return load


def on_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A loaded batch as the network takes it: x float32, q and c int64, copied without waiting, then converted."""
    moved = {key: tensor.to(device, non_blocking=True) for key, tensor in batch.items()}
    return {"x": moved["x"].float(), "q": moved["q"].to(torch.int64), "c": moved["c"]}
