"""The torch device of a stage, from `hardware.device`."""

from __future__ import annotations

import torch

from mixar.study.errors import SpecError
from mixar.study.sections import Study


def device_of(study: Study) -> torch.device:
    """The device that `hardware.device` names; `auto` is cuda where a GPU is visible, else cpu. Raises SpecError."""
    wanted = study.hardware.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SpecError("hardware.device: 'cuda' was asked for, and no GPU is visible; use 'auto' or 'cpu'")
    return torch.device(wanted)
