"""Stored runs of the released code: the files, what they hold, and how ours is compared with them.

A replay is a function that takes a file and yields checks: the stored tensors it answers for, and ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

COMMITTED = Path(__file__).parents[1] / "vectors"
VARIABLE = "MIXAR_VECTORS"

# Allowed errors, the largest difference against the largest stored value of a tensor
EXACT = 0.0
NETWORK = 1e-5  # also losses and single reverse steps
STEEP = 5e-5  # variational bound and gradients
LOOP = 1e-3  # whole diffusion loops in double precision
ROUNDING = 1e-6  # of a head's output, before a loop's first steps magnify it
DOUBLE = 1e-9  # tables in double precision

ARGUMENTS = {"lr/args_warmup_total_lr_min", "lr/epoch", "lr/step", "lr/warmup_total", "mask_ratio/quantile", "ema/step"}


class Check(NamedTuple):
    """One stored tensor and ours.

    tolerance: or a list of them, for entries along the first axis on their own scale. scale: what errors count against;
    by default the largest stored value.
    """

    key: str
    found: Tensor
    tolerance: float | list[float] = NETWORK
    scale: float | None = None


class Stored:
    """One file: its configuration, its tensors, and which of them are results."""

    def __init__(self, path: Path):
        self.path, self.config = path, read_config(path)
        with safe_open(path, "pt") as file:
            self.tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def keys(self, beginning: str = "") -> list[str]:
        return [key for key in self.tensors if key.startswith(beginning)]

    def weights(self, prefix: str) -> dict[str, Tensor]:
        """A state dict with the released names."""
        return {key.removeprefix(prefix): self[key] for key in self.keys(prefix)}

    def results(self) -> set[str]:
        """Keys that a test must compare: all but weights, inputs, injected draws and arguments of schedules."""
        return {
            key for key in self.tensors if not (key.startswith("sd") or {"in", "draw"} & {*key.split("/")})
        } - ARGUMENTS


def read_config(path: Path) -> dict:
    """The configuration in a file's header. Raises ValueError where there is none."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})["config"])
    except Exception as error:
        raise ValueError(f"{path}: no stored run; its header needs a JSON entry `config` ({error!r})") from None


def folders(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """The committed folder and those that the variable names."""
    return [COMMITTED, *(Path(name) for name in environ.get(VARIABLE, "").split(os.pathsep) if name)]


def files_in(folder: Path) -> list[Path]:
    """The stored runs of a folder. Raises ValueError where there are none."""
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        state = "holds no *.safetensors file" if folder.is_dir() else "is no folder"
        raise ValueError(f"{folder} {state}; {VARIABLE} names folders of stored runs, separated by {os.pathsep!r}")
    return found


def problem_of(check: Check, stored: Stored) -> str | None:
    """What is wrong with ours in words, or None."""
    if check.key not in stored:
        return f"{check.key}: the file has no such tensor"
    expected, found = stored[check.key].double(), check.found.detach().double()
    if found.shape != expected.shape:
        return f"{check.key}: shape {list(found.shape)}, stored {list(expected.shape)}"
    if torch.equal(found, expected):
        return None
    if not isinstance(check.tolerance, list):
        found, expected, tolerances = found[None], expected[None], [check.tolerance]
    else:
        tolerances = check.tolerance
    for one, other, allowed in zip(found, expected, tolerances, strict=True):
        error = _error(one, other, check.scale)
        if not error <= allowed:  # so that nan is wrong too
            return f"{check.key}: error {error:.2g}, allowed {allowed:.2g}"
    return None


def _error(found: Tensor, expected: Tensor, scale: float | None) -> float:
    difference = (found - expected).abs().max().item()
    scale = expected.abs().max().item() if scale is None else scale
    return difference / scale if scale else difference


def gradient_checks(stored: Stored, prefix: str, gradients: Mapping[str, Tensor]) -> Iterator[Check]:
    """Stored gradients and norms, below `prefix`, against ours by released name."""
    norms = {key.removeprefix(f"{prefix}gradnorm/") for key in stored.keys(f"{prefix}gradnorm/")}
    assert norms == gradients.keys(), f"parameters on one side only: {sorted(norms ^ gradients.keys())}"
    for name, gradient in gradients.items():
        yield Check(f"{prefix}gradnorm/{name}", gradient.norm(), STEEP)
    for key in stored.keys(f"{prefix}grad/"):
        yield Check(key, gradients[key.removeprefix(f"{prefix}grad/")], STEEP)


def in_double(key: str, values: Sequence[float]) -> Check:
    """A table in double precision, every entry on its own scale."""
    return Check(key, torch.as_tensor(values, dtype=torch.float64), [DOUBLE] * len(values))


def stacked(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts))
