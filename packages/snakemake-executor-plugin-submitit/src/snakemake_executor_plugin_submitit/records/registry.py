"""Submissions on disk: one file per Snakemake job, and one per live driver.

Snakemake's own markers lose a job's id as soon as the job starts, so the driver after a killed one reads these.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from snakemake_executor_plugin_submitit.records.attempts import Attempt, Attempts
from snakemake_executor_plugin_submitit.records.files import try_lock, write_json
from snakemake_executor_plugin_submitit.records.fingerprint import Fingerprint, digest


@dataclass(frozen=True)
class Entry:
    """One submitted job. Without an id its submission was cut short."""

    key: str  # identifies the Snakemake job by its outputs, a group by its jobs
    name: str
    parts: dict[str, Fingerprint]  # key -> what the job would do, or each in the group
    ticket: str  # in the comment of the Slurm job; one for all elements of an array
    submission: str  # one for all attempts that share the budgets
    driver: str
    job: str = ""  # Slurm's id, with the array index; "" until it is known
    log: str = ""
    submitted: float = 0.0  # seconds since 1970
    resubmissions: int = 0
    late: int = 0  # of these, after a time limit
    is_accounted: bool = False  # its GPU time is already recorded
    place: str = ""  # where its id is valid
    markers: list[str] = field(default_factory=list)  # what the job marks as not accepted, once it has ended well

    @property
    def directory(self) -> str:
        """The project's folder."""
        return next(iter(self.parts.values())).directory

    def attempts(self, folder: Path) -> list[Attempt]:
        """Records of this submission's attempts. folder: of the registry."""
        return Attempts(folder, self.key).of(self.submission)

    def changes(self, wanted: Mapping[str, Fingerprint], triggers: Collection[str]) -> list[str]:
        """What differs between its parts and those wanted now. triggers: Snakemake's names."""
        found = [self.parts[key].changes(now, triggers, self.submitted) for key, now in wanted.items()]
        return list(dict.fromkeys(change for changes in found for change in changes))


class Registry:
    """Entries by key. Every change replaces a file, so a reader never sees half an entry."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "jobs"
        self._read: set[str] = set()
        self._holders: dict[str, set[str]] = defaultdict(set)

    def get(self, key: str) -> Entry | None:
        """The entry of a job; None if there is none, or one that cannot be read."""
        try:
            content = json.loads(self._path(key).read_text(encoding="utf-8"))
            parts = {part: Fingerprint(**made_from) for part, made_from in dict(content["parts"]).items()}
            return Entry(**content | {"parts": parts})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, entry: Entry) -> None:
        write_json(self._path(entry.key), asdict(entry))

    def drop(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def all(self) -> list[Entry]:
        keys = [path.stem for path in self.folder.glob("*.json")] if self.folder.exists() else []
        return [entry for key in sorted(keys) if (entry := self.get(key))]

    def holders(self) -> Mapping[str, set[str]]:
        """Map each job's key to the keys of the entries that contain it, as a single job or in a group.

        Each entry is read once, since its key says which parts it has.
        """
        for path in self.folder.glob("*.json"):
            if path.stem not in self._read and (entry := self.get(path.stem)):
                self._read.add(path.stem)
                for part in entry.parts:
                    self._holders[part].add(path.stem)
        return self._holders

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


class Driver:
    """This Snakemake process, as others on the shared file system see it: alive as long as its file is locked.

    A killed process leaves its file, but not the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "drivers"
        self.id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self.since = time.strftime("%Y-%m-%d %H:%M:%S")
        self.keys: set[str] = set()
        self.handle: IO | None = None

    def claim(self, keys: Collection[str]) -> set[str]:
        """Claim the jobs that this driver will make. Returns the ids of the others that are alive.

        Raises ValueError, naming the other driver, where one that is alive is going to make any of them.
        """
        with _waiting_lock(self.folder / "lock"):
            others = self._alive()
            for other in others.values():
                if shared := set(other["keys"]) & set(keys):
                    raise ValueError(f"{len(shared)} of the {len(keys)} jobs are {in_other_hands(other)}")
            self._write(set(keys))
            self.handle = try_lock(self.folder / f"{self.id}.lock")
        return set(others)

    def claim_free(self, keys: Collection[str]) -> dict[str, str]:
        """Claim further jobs. Returns those that other drivers already hold: key -> that driver, for messages.

        Raises ValueError where no claim can be made now.
        """
        with _waiting_lock(self.folder / "lock"):
            others = self._alive().values()
            taken = {key: in_other_hands(other) for other in others for key in set(other["keys"]) & set(keys)}
            self._write(self.keys | (set(keys) - set(taken)))
        return taken

    def alive(self) -> set[str]:
        """Ids of the other live drivers. Raises ValueError if that cannot be determined now."""
        with _waiting_lock(self.folder / "lock"):
            return set(self._alive())

    def _write(self, keys: set[str]) -> None:
        me = {"process": os.getpid(), "host": socket.gethostname(), "since": self.since, "keys": sorted(keys)}
        write_json(self.folder / f"{self.id}.json", me)
        self.keys = keys

    def leave(self) -> None:
        if self.handle:
            self.handle.close()
            self.handle = None
            self._remove(self.id)

    def _alive(self) -> dict[str, dict]:
        """What the other live drivers wrote, by id; the files of dead ones are removed."""
        found = {}
        for path in self.folder.glob("*.lock"):
            if path.stem == self.id:
                continue
            handle = try_lock(path)
            if handle is None:
                found[path.stem] = _words_of(path.with_suffix(".json"))
            else:
                self._remove(path.stem)
                handle.close()
        return found

    def _remove(self, driver: str) -> None:
        for suffix in (".json", ".lock"):
            (self.folder / f"{driver}{suffix}").unlink(missing_ok=True)


def _words_of(path: Path) -> dict:
    """What a live driver wrote about itself; without jobs if that cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        said = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(said, dict) and {"process", "host", "since", "keys"} <= said.keys():
            return said
    return {"keys": []}


@contextlib.contextmanager
def _waiting_lock(path: Path, seconds: float = 60):
    """Hold a file for a moment. Raises ValueError if another process holds it for so long."""
    deadline = time.monotonic() + seconds
    while (handle := try_lock(path)) is None:
        if time.monotonic() > deadline:
            raise ValueError(f"{path}: locked for {seconds:.0f} s; is a snakemake suspended on another node?")
        time.sleep(0.1)
    with handle:
        yield


def in_other_hands(driver: dict) -> str:
    """Who makes a job, and what to do about it. driver: what that driver wrote about itself."""
    return (
        f"already being made by another snakemake: process {driver['process']} on {driver['host']}, since "
        f"{driver['since']}. Two would overwrite each other's files. Wait for it, or stop it: Ctrl-C cancels its "
        f"jobs, and after `kill -9` the next snakemake takes them over."
    )


def key_of(outputs: Iterable[str], name: str, directory: str) -> str:
    """The job that makes these files, under the same key in every run; by name where it makes none.

    directory: where relative paths begin. Projects that share a registry differ by it.
    """
    return digest(sorted(os.path.abspath(os.path.join(directory, path)) for path in outputs) or [directory, name])


def remove_old(folder: Path, days: int) -> None:
    """Remove what nothing was written to for so many days: runs, records, entries, links to logs. 0: nothing.

    Jobs that are alive write their record every minute; theirs is kept, however old the run.
    """
    if not days:
        return
    limit = time.time() - days * 86400
    alive = [e for e in Registry(folder).all() if _is_newer(folder / "attempts" / e.key, limit) or e.submitted > limit]
    runs = {str(Path(os.path.realpath(e.log)).parent) for e in alive}
    for path in [*(folder / "runs").glob("*"), *(folder / "attempts").glob("*")]:
        if not _is_newer(path, limit) and os.path.realpath(path) not in runs:
            shutil.rmtree(path, ignore_errors=True)
    for path in (folder / "jobs").glob("*.json"):
        if path.stem not in {entry.key for entry in alive} and not _is_newer(path, limit):
            path.unlink(missing_ok=True)
    for path in (folder / "logs").rglob("*.log"):
        if not path.exists() and not _is_newer(path, limit):
            path.unlink(missing_ok=True)


def _is_newer(path: Path, limit: float) -> bool:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime >= limit
    return False
