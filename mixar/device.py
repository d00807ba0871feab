"""The torch device of a stage, from `hardware.device`, the precision of passes there, and the memory that it took."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

import torch

from mixar.study.errors import SpecError
from mixar.study.sections import Study

GIB = 2**30
CLEAR_REFS = Path("/proc/self/clear_refs")  # Linux; 5 resets the peak of the resident set, see proc(5)


def device_of(study: Study) -> torch.device:
    """The device that `hardware.device` names; `auto` is cuda where a GPU is visible, else cpu. Raises SpecError."""
    wanted = study.hardware.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SpecError("hardware.device: 'cuda' was asked for, and no GPU is visible; use 'auto' or 'cpu'")
    return torch.device(wanted)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context of a network's passes: bfloat16 autocast, or with `float32` none.

    precision: of the settings. What stays in float32 under bfloat16, docs/explanation/numbers.md lists.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def slow_precision(device: torch.device, precision: str) -> str | None:
    """What to say where a CPU would compute in bfloat16 without instructions for it; else None."""
    if device.type != "cpu" or precision != "bfloat16" or not hasattr(torch.cpu, "get_capabilities"):
        return None
    if any(has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name):
        return None
    return "precision: bfloat16 is many times slower than float32 on this processor, which has no instructions for it"


def reset_peak_memory(device: torch.device) -> float:
    """Begin a new peak. Returns the GiB that it starts from: 0 on a GPU, or what this process holds now on a CPU.

    Where the kernel cannot reset it, the peak so far is returned, and only growth beyond it will be seen.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return 0.0
    with suppress(OSError):
        CLEAR_REFS.write_bytes(b"5")
    return peak_memory_gib(device)


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory since the last reset: tensors on a GPU, or the resident set of this process on a CPU.

    Does not wait for the GPU.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
