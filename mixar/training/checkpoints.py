"""The files of a training in flight: written in the background, the newest two kept. What they hold is in state.py; who
holds their folder, in mixar/storage/locks.py.

The folder is never a declared Snakemake output: a rerun deletes declared outputs, and this is what it resumes from.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from mixar.process.failures import is_shortage
from mixar.storage.files import replaced
from mixar.study.digests import Digests, digest
from mixar.study.layout import KEPT, Layout
from mixar.study.sections import Study
from mixar.training.state import START_AGAIN, State

VERSION_1 = "state.pt"
_NAME = re.compile(r"state-(\d+)\.pt")


def training_folder(study: Study, layout: Layout, run: str, seed: int, images: str | None) -> Path:
    """The folder of a run's checkpoints: another one for other settings than the length, and for other images."""
    settings = f"{Digests(study).trajectory(run, seed)}-{digest(images)}"
    return layout.checkpoints("train", f"{run}-seed{seed}", settings)


def path_of(folder: Path, done: int) -> Path:
    """The file of the state after `done` steps."""
    return folder / f"state-{done:08d}.pt"


def states(folder: Path) -> dict[int, Path]:
    """Files of states by the steps done, the newest first. A kept one comes in place of one in flight."""
    files = [*folder.glob("state-*.pt"), *(folder / KEPT).glob("state-*.pt")]
    found = {int(match[1]): path for path in files if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items(), reverse=True))


def save_state(folder: Path, state: State, is_kept: bool = False) -> None:
    """Write a state and read it back; then remove all but the newest two that are not kept.

    Raises OSError, and leaves the older ones, if the disk is full or returns something else than was written.
    """
    path = path_of(folder / KEPT if is_kept else folder, state.done)
    with replaced(path, "free some space") as temporary:
        with open(temporary, "wb") as f:
            torch.save(state.as_mapping(), f)
            f.flush()
            os.fsync(f.fileno())
            if hasattr(os, "posix_fadvise"):  # read from the disk, not from memory
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if reason := _damage(temporary):
            raise OSError(f"{path}: the disk returned other bytes than were written ({reason})")
    in_flight = [older for done, older in states(folder).items() if done <= state.done and older.parent == folder]
    for older in in_flight[2:]:
        older.unlink(missing_ok=True)


def last(folder: Path, at_most: int) -> int | None:
    """Steps of the newest state that is whole, of at most so many; None where nothing was saved. Changes nothing.

    Raises ValueError if all are damaged.
    """
    return _last(folder, at_most)[0]


def _last(folder: Path, at_most: int) -> tuple[int | None, dict[Path, str]]:
    """The steps of that state, and the damaged states after it with the damage."""
    damaged: dict[Path, str] = {}
    for done, path in states(folder).items():
        if done > at_most:
            continue
        if not (reason := _damage(path)):
            return done, damaged
        damaged[path] = reason
    if damaged:
        path, reason = next(iter(damaged.items()))
        raise ValueError(f"{path}: damaged checkpoint ({reason}), and no older one is whole; {START_AGAIN}")
    return None, damaged


def newest(folder: Path, at_most: int) -> int | None:
    """As `last`, for the process that holds the folder: damaged states after that one are named and removed, and so is
    what a killed writer left. Raises ValueError also if the folder is that of an earlier version.
    """
    if (folder / VERSION_1).exists():
        raise ValueError(
            f"{folder / VERSION_1}: a checkpoint of format 1, which this version of mixar cannot continue; finish the "
            f"training with the version that wrote it, or {START_AGAIN}"
        )
    for path in [*folder.glob(".*.state-*.pt"), *(folder / KEPT).glob(".*.state-*.pt")]:
        print(f"{path}: removed; a process was killed while it wrote this checkpoint", flush=True)
        path.unlink(missing_ok=True)
    done, damaged = _last(folder, at_most)
    for path, reason in damaged.items():
        print(f"{path}: damaged checkpoint ({reason}); continuing from the older state-{done:08d}.pt", flush=True)
        path.unlink()
    return done


def read_state(path: Path, device: torch.device) -> State:
    """The state in a file. Raises ValueError for a damaged or foreign file."""
    try:
        found = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged archives
        if is_shortage(error):
            raise
        raise ValueError(f"{path}: damaged checkpoint ({error}); {START_AGAIN}") from error
    return State.from_mapping(found, str(path))


def _damage(path: Path) -> str | None:
    """What is wrong with a state's archive, by the checksums in it; None if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError) as error:
        return str(error)
    return f"checksum mismatch in {broken}" if broken else None


def kept_states(folder: Path) -> dict[int, Path]:
    """Files of kept states by the steps done, the newest first."""
    return {done: path for done, path in states(folder).items() if path.parent.name == KEPT}


def discard(folder: Path, done: int) -> None:
    """Remove what a training of `done` steps has in flight. Kept states and those of a longer training remain."""
    for path in [path for each, path in states(folder).items() if each <= done and path.parent == folder]:
        path.unlink(missing_ok=True)
    if not states(folder):
        shutil.rmtree(folder, ignore_errors=True)


class Writer:
    """Writes states in a background thread, one at a time, each from a snapshot.

    failed(done, reason): called, in the training's thread, for a state that could not be written; older ones remain.
    """

    def __init__(self, folder: Path, failed: Callable[[int, str], None]):
        self.folder, self.failed = folder, failed
        self._thread: threading.Thread | None = None
        self._failure: tuple[int, Exception] | None = None

    def write(self, state: State, is_kept: bool = False) -> None:
        """Begin to write a copy of the state, once the one before is written."""
        self.wait()
        snapshot = state.copied()
        self._thread = threading.Thread(target=self._run, args=(snapshot, is_kept), name="checkpoint")
        self._thread.start()

    def _run(self, state: State, is_kept: bool) -> None:
        try:
            save_state(self.folder, state, is_kept)
        except Exception as error:
            self._failure = state.done, error

    def wait(self) -> bool:
        """Wait until the last state is on disk, or could not be written. True if all went well since the last call."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        failure, self._failure = self._failure, None
        if failure:
            done, error = failure
            if not isinstance(error, OSError) and not is_shortage(error):
                raise error
            self.failed(done, str(error))
        return failure is None


@contextlib.contextmanager
def writing(folder: Path, failed: Callable[[int, str], None]) -> Iterator[Writer]:
    """A writer that is waited for at the end, also after an exception."""
    writer = Writer(folder, failed)
    try:
        yield writer
    finally:
        writer.wait()
