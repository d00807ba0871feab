"""Weights on disk: strict loading and atomic saving of safetensors files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, floating ones as float32. Raises ValueError for a missing or damaged file."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such weights file")
    try:
        with safe_open(str(path), framework="pt") as f:
            tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged or no safetensors file ({error}); copy or make it again") from None
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def read_metadata(path: Path) -> dict:
    """What `save_weights` recorded beside the tensors; empty for files from elsewhere."""
    if Path(path).suffix != ".safetensors":
        return {}
    with safe_open(str(path), framework="pt") as f:
        return json.loads((f.metadata() or {}).get("mixar", "{}"))


def load_module(module: nn.Module, path: Path) -> nn.Module:
    """`module` with the weights of a file, in evaluation mode.

    Raises ValueError listing every missing or surplus key, wrong shape and non-finite tensor.
    """
    found, wanted = read_weights(path), module.state_dict()
    problems = [f"missing: {k}" for k in wanted.keys() - found.keys()]
    problems += [f"surplus: {k}" for k in found.keys() - wanted.keys()]
    for key in sorted(found.keys() & wanted.keys()):
        if found[key].shape != wanted[key].shape:
            problems.append(f"{key}: shape {list(found[key].shape)}, expected {list(wanted[key].shape)}")
        elif found[key].is_floating_point() and not found[key].isfinite().all():
            problems.append(f"{key}: holds values that are not finite")
    if problems:
        shown = "\n  ".join(sorted(problems)[:20])
        raise ValueError(f"{path}: does not fit {type(module).__name__} ({len(problems)} differences)\n  {shown}")
    module.load_state_dict(found)
    return module.eval()


def save_weights(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict, dtype: torch.dtype | None = None
) -> None:
    """Write tensors with metadata, atomically; `dtype` stores floating tensors in that type."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    cast = {k: v.to(dtype) if dtype and v.is_floating_point() else v for k, v in tensors.items()}
    cast = {k: v.detach().cpu().contiguous() for k, v in cast.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(cast, str(temporary), metadata={"mixar": json.dumps(metadata)})
    temporary.chmod(0o644)  # safetensors makes files private; results are shared
    os.replace(temporary, path)
