"""The file of a training in flight, replaced atomically. What it holds is in state.py; who holds its folder, in
mixar/locks.py.

The folder is never a declared Snakemake output: a rerun deletes declared outputs, and this is what it resumes from.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from mixar.failures import is_shortage
from mixar.files import replaced
from mixar.training.state import START_AGAIN, State

STATE = "state.pt"


def save_state(folder: Path, state: State) -> None:
    """Replace the folder's state."""
    with replaced(folder / STATE) as temporary, open(temporary, "wb") as f:
        torch.save(state.as_mapping(), f)
        f.flush()
        os.fsync(f.fileno())


def load_state(folder: Path, device: torch.device) -> State | None:
    """The folder's state, or None where nothing was saved. Raises ValueError for a damaged or foreign file."""
    path = folder / STATE
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged archives
        if is_shortage(error):
            raise
        raise ValueError(f"{path}: damaged checkpoint ({error}); {START_AGAIN}") from error
    return State.from_mapping(found, str(path))


def discard(folder: Path) -> None:
    """Remove the state of a finished training."""
    shutil.rmtree(folder, ignore_errors=True)
