"""State of a training in flight: one file, replaced atomically. Who holds its folder is in mixar/locks.py.

The folder is never a declared Snakemake output: a rerun deletes declared outputs, and this is what it resumes from.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from mixar.failures import is_shortage
from mixar.files import replaced

STATE = "state.pt"


def save_state(folder: Path, state: dict) -> None:
    """Replace the folder's state: tensors, numbers, strings, lists and dicts only."""
    with replaced(folder / STATE) as temporary, open(temporary, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())


def load_state(folder: Path, device: torch.device) -> dict | None:
    """The folder's state, or None where nothing was saved. Raises ValueError for a damaged file."""
    path = folder / STATE
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged archives
        if is_shortage(error):
            raise
        raise ValueError(f"{path}: damaged checkpoint ({error}); delete it to start this training again") from error


def discard(folder: Path) -> None:
    """Remove the state of a finished training."""
    shutil.rmtree(folder, ignore_errors=True)
