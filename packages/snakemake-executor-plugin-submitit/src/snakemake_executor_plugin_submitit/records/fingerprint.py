"""What a job is made from, as Snakemake's own rerun triggers see it.

The driver after a killed one takes a job over only while this has not changed. Texts are compared in an order of our
own: a set is written down differently by every process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

# Snakemake's name of a trigger -> the field that it compares. MTIME compares files.
TRIGGERS = {"PARAMS": "params", "INPUT": "inputs", "CODE": "code", "SOFTWARE_ENV": "software"}

FileState = list  # [time in whole seconds or None, checksum of a small file or ""]


@dataclass(frozen=True)
class Fingerprint:
    """directory and rule always count: the inner Snakemake runs there, and asks for the rule by name.

    files: path -> state, of the inputs whose times count. made: inputs that other jobs of its group make, whose times
    do not. params, inputs, code, software: digests.
    """

    directory: str
    rule: str
    params: str = ""
    inputs: str = ""
    code: str = ""
    software: str = ""
    files: dict[str, FileState] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    def changes(self, now: Fingerprint, triggers: Collection[str], since: float) -> list[str]:
        """What differs from what is wanted now. triggers: Snakemake's names. since: time of the submission."""
        found = [name for name in ("directory", "rule") if getattr(self, name) != getattr(now, name)]
        compared = [name for trigger, name in TRIGGERS.items() if trigger in triggers]
        found += [name for name in compared if getattr(self, name) != getattr(now, name)]
        files = now.files.items() if "MTIME" in triggers else ()
        outside = [(path, state) for path, state in files if path not in self.made]
        return found + [path for path, state in outside if is_newer(self.files.get(path), state, since)]


def is_newer(before: FileState | None, now: FileState, since: float) -> bool:
    """True if an input was written since. A file that was only touched has the same checksum, if it is small."""
    if now[0] is None:
        return False
    if before is None:  # it became an input since
        return now[0] > since
    return before[0] != now[0] and not (now[1] and before[1] == now[1])


def fingerprint_of(part, made: Collection[str], persistence, largest_checksum: int) -> Fingerprint:
    """Fingerprint of one job, also within a group. made: outputs of the group. largest_checksum: bytes of a file."""
    outside = [f for f in part.input if str(f) not in made]
    return Fingerprint(
        directory=os.getcwd(),
        rule=part.rule.name,
        params=digest(params_of(part, persistence._serialize_param)),
        inputs=digest(sorted(map(str, part.input))),
        code=digest(code_of(part, persistence)),
        software=digest(persistence._software_stack_hash(part)),
        files={str(f): state_of(str(f), largest_checksum) for f in outside if not getattr(f, "is_ancient", False)},
        made=sorted(str(f) for f in part.input if str(f) in made),
    )


def params_of(part, serialize: Callable[[Any], Any]) -> list[str]:
    """A job's params as texts, without those that follow from its inputs, outputs or resources."""
    return sorted(text_of(value, serialize) for value in part.non_derived_params)


def text_of(value: Any, serialize: Callable[[Any], Any]) -> str:
    """A param as text, the same in every process. serialize: Snakemake's; no text for what it does not compare."""
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(text_of(v, serialize) for v in value)) + "}"
    if isinstance(value, Mapping):
        items = sorted(f"{text_of(k, serialize)}: {text_of(v, serialize)}" for k, v in value.items())
        return "{" + ", ".join(items) + ",}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(text_of(v, serialize) for v in value) + "]"
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    text = serialize(value)
    return text if isinstance(text, str) else type(value).__name__


def code_of(part, persistence) -> list[str]:
    """The text of a shell command or `run:` block, and of a script or notebook that is a file."""
    path = part.rule.script or part.rule.notebook
    text = ""
    if path:
        with contextlib.suppress(OSError):
            text = checksum(part._path_to_source_file(path).get_path_or_uri(secret_free=True))
    return [persistence._code(part.rule) or "", text]


def state_of(path: str, largest_checksum: int) -> FileState:
    """Of a folder only Snakemake's time stamp: what is written into it does not always concern the job."""
    with contextlib.suppress(OSError):
        if os.path.isdir(path):
            return [int(os.stat(os.path.join(path, ".snakemake_timestamp")).st_mtime), ""]
        found = os.stat(path)
        is_small = stat.S_ISREG(found.st_mode) and found.st_size <= largest_checksum
        return [int(found.st_mtime), _checksum_at(os.path.abspath(path), found.st_ctime_ns) if is_small else ""]
    return [None, ""]


@functools.lru_cache(maxsize=100_000)
def _checksum_at(path: str, _changed: int) -> str:
    """Many jobs share an input; it is read once for each time that it changed."""
    return checksum(path)


def checksum(path: str) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]
