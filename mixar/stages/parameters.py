"""`measure --params`: the parameters of the paper's and of the released models, beside what is printed for them.

Every model is built on the meta device and counted; printed numbers come from mixar/resources/literature.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mixar.assets.shipped import LITERATURE
from mixar.model.guidance import load_strategy
from mixar.model.mar import MAR
from mixar.released import IMAGENET, KINDS
from mixar.study.presets import PRESETS
from mixar.study.sections import Model
from mixar.study.strict_yaml import read_yaml

MIXAR = {"bits": 14, "channels": 32}  # MaskBit's tokens and VA-VAE's latents, which the paper's models work on


class Count(NamedTuple):
    """One model's parameters."""

    model: str
    total: int
    guidance: int | None  # of them the guidance strategy's own, outside the blocks; None: no MAR
    printed: str | None  # as the paper has it, such as 557M
    where: str | None
    why: str  # what the difference comes from

    @property
    def difference(self) -> int | None:
        """Counted less printed; None where nothing is printed."""
        return self.total - round(float(self.printed.removesuffix("M")) * 1e6) if self.printed else None


def count_all(literature: Path = LITERATURE) -> list[Count]:
    """The counts of every model that the literature file lists under `parameters`, in its order."""
    return [_count(row) for row in read_yaml(literature)["parameters"]]


def _count(row: dict[str, Any]) -> Count:
    with torch.device("meta"):
        network = _network(row)
    own = _size(network.guidance) if isinstance(network, MAR) else None
    return Count(row["model"], _size(network), own, row.get("printed"), row.get("where"), row["why"])


def _network(row: dict[str, Any]) -> nn.Module:
    """The model of a row: a released kind and preset, or a MAR of a preset's size with a guidance strategy."""
    if "kind" in row:
        return KINDS[row["kind"]].build(**KINDS[row["kind"]].presets[row["preset"]])
    size = Model(**PRESETS["Model"][row["preset"]])
    strategy: Any = load_strategy(row["strategy"])
    guidance = strategy(size.width, IMAGENET["num_tokens"], MIXAR["bits"])
    return MAR(size, guidance, channels=MIXAR["channels"], **IMAGENET)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
