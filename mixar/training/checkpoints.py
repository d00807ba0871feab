"""State of a training in flight: one file, replaced atomically, held by one process at a time.

The folder is never a declared Snakemake output: a rerun deletes declared outputs, and this is what it resumes from.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mixar.files import replaced

STATE = "state.pt"


@contextmanager
def lease(folder: Path, announce: Callable[[str], None] = print) -> Iterator[None]:
    """Hold `folder` alone. Waits while another process holds it: one killed driver may have left its child training."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lease", "a+") as handle:
        announced = 0.0
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - announced > 30:
                    announced = time.monotonic()
                    handle.seek(0)
                    announce(f"{folder}: held by process {handle.read().strip() or '?'}; waiting until it ends")
                time.sleep(0.2)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


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
        raise ValueError(f"{path}: damaged checkpoint ({error}); delete it to start this training again") from error


def discard(folder: Path) -> None:
    """Remove the state of a finished training."""
    shutil.rmtree(folder, ignore_errors=True)
