"""Guidance strategies that a study names as its own."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch

from mixar.model.guidance import DCMix, Guidance
from mixar.model.layers import learned


class Fused(DCMix):
    """DC-Mix that calls `end` in its `fuse`-th training pass."""

    fuse: ClassVar[int | None] = None  # training passes left
    end: ClassVar[Callable[[], None]]

    def fill(self, q):
        if Fused.fuse is not None and self.training:
            Fused.fuse -= 1
            if Fused.fuse == 0:
                Fused.end()
        return super().fill(q)


class Spoilt(DCMix):
    """DC-Mix that shows NaN from its `first`-th training pass on."""

    first: ClassVar[int] = 10**9
    passes: ClassVar[int] = 0

    def fill(self, q):
        Spoilt.passes += self.training
        return super().fill(q) * (math.nan if self.training and Spoilt.passes >= Spoilt.first else 1.0)


class Sized(DCMix):
    """DC-Mix that notes how many images its training passes have."""

    sizes: ClassVar[set[int]] = set()

    def fill(self, q):
        if self.training:
            Sized.sizes.add(len(q))
        return super().fill(q)


class Twice(DCMix):
    """DC-Mix that has its embedding under two names; the weights are not contiguous in memory."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.again = self.embed
        self.embed.weight = torch.nn.Parameter(self.embed.weight.detach().T.contiguous().T)


class Doubled(Guidance):
    """A user-defined strategy: every masked position holds twice a learned vector."""

    def __init__(self, width, num_tokens, bits, factor=2.0):
        super().__init__()
        self.factor, self.vector = factor, learned(1, 1, width)

    def fill(self, q):
        return self.factor * self.vector
