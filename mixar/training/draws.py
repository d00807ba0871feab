"""Where the random numbers of a micro-batch come from, so that they depend on neither processes nor micro-batches."""

from __future__ import annotations

import torch

from mixar.model.masking import Group
from mixar.study.digests import seed_of


class Draws(torch.Generator):
    """The generator of one group of images on the network's device. Each holder of a part makes the group's draws and
    takes its rows.

    host: for what the CPU must know (mirroring, mask rate) without waiting for the device; where that is the CPU, this
    generator itself. mask_rate: of the group's rate, `host` unless the groups of a step share their rate.
    """

    group: Group
    host: torch.Generator
    mask_rate: torch.Generator

    @classmethod
    def of(cls, device: torch.device, key: tuple[int, int], number: int, group: Group, equal_rates: bool) -> Draws:
        """Draws of a step's group. key: seed and step. number: of the group in the whole batch. equal_rates: all groups
        of the step have one mask rate."""
        draws = cls._seeded(device, seed_of(*key, 0, number), group)
        if equal_rates:
            draws.mask_rate = torch.Generator().manual_seed(seed_of(*key, "mask rate"))
        return draws

    @classmethod
    def of_all(cls, device: torch.device, seed: int, size: int) -> Draws:
        """Draws of a batch of `size` images that is a group of its own, all of it at hand."""
        return cls._seeded(device, seed, Group(size, slice(0, size)))

    @classmethod
    def _seeded(cls, device: torch.device, seed: int, group: Group) -> Draws:
        draws = cls(device)
        draws.manual_seed(seed)
        draws.group = group
        draws.host = draws if device.type == "cpu" else torch.Generator().manual_seed(seed)
        draws.mask_rate = draws.host
        return draws

    def flips(self) -> torch.Tensor:
        """Which of the images at hand are mirrored: bool [n] on the CPU, each with probability 1/2."""
        return torch.rand(self.group.size, generator=self.host)[self.group.part] < 0.5
