"""Whether a token shard is whole: its hashes, ranges, mirrored half, labels and settings.

`mixar verify` lists all faults; `tokenize` keeps a shard that has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mixar.data.shards import TOKEN_KEYS, hash_of, open_checked, stored_hashes

ROWS = 1024  # of latents at once
EXPONENT = 0x7C00  # bits of a float16 that are all set in an infinity or NaN


def shard_faults(
    path: Path, rows: pa.Table, expected: dict, num_tokens: int, channels: int, bits: int
) -> Iterator[str]:
    """Yield what is wrong with a token shard, without the path; nothing for a whole one.

    rows: its part of the manifest. expected: what its metadata must hold. The arrays are read once for their hashes and
    once for their values, in pieces.
    """
    try:
        arrays, metadata = open_checked(path, TOKEN_KEYS)
    except ValueError as error:
        yield str(error).removeprefix(f"{path}: ")
        return
    for key, value in expected.items():
        if metadata.get(key) != value:
            yield f"{key} {metadata.get(key)!r} in its metadata; the study has {value!r}"
    yield from _hash_faults(arrays, stored_hashes(path))
    if len(arrays["labels"]) != len(rows):
        yield f"{len(arrays['labels'])} images; its part of the manifest has {len(rows)}"
        return
    yield from _row_faults(arrays, rows)
    for suffix in ("", "_flip"):
        latents, tokens = arrays["latents" + suffix], arrays["tokens" + suffix]
        if latents.shape[1:] != (num_tokens, channels) or tokens.shape[1:] != (num_tokens,):
            yield (
                f"latents{suffix} {list(latents.shape[1:])} and tokens{suffix} {list(tokens.shape[1:])} per image; "
                f"the study has [{num_tokens}, {channels}] and [{num_tokens}]"
            )
            return
        if row := _first(latents, lambda part: ((part.view(np.uint16) & EXPONENT) == EXPONENT).any(axis=(1, 2))):
            yield f"latents{suffix} of row {row - 1} are not finite"
        if row := _first(tokens, lambda part: (part >> np.uint16(bits)).any(axis=1) if bits < 16 else part[:0, 0]):
            largest = int(tokens[row - 1].max())
            yield f"tokens{suffix} of row {row - 1} reach {largest}; {bits} bits end at {2**bits - 1}"
    if len(rows) and all(np.array_equal(arrays[key], arrays[f"{key}_flip"]) for key in ("tokens", "latents")):
        yield "the mirrored half equals the other one in every row"


def _hash_faults(arrays: dict[str, np.ndarray], recorded: dict[str, str]) -> Iterator[str]:
    if not recorded:
        yield "no hashes: an earlier version wrote it"
        return
    for key, array in arrays.items():
        if hash_of(array) != recorded.get(key):
            yield f"hash mismatch in {key!r}"


def _row_faults(arrays: dict[str, np.ndarray], rows: pa.Table) -> Iterator[str]:
    held_out = pc.equal(rows["split"], "held_out").to_numpy()
    manifest = {"index": rows["index"].to_numpy(), "labels": rows["label"].to_numpy(), "held_out": held_out}
    for key, wanted in manifest.items():
        if len(wrong := np.flatnonzero(arrays[key] != wanted)):
            row = wrong[0]
            found = f"{arrays[key][row]}; the manifest has {int(wanted[row])}"
            yield f"{key} differ from the manifest in {len(wrong)} rows, first in row {row}: {found}"


def _first(array: np.ndarray, is_wrong) -> int:
    """One more than the first row that is wrong; 0 where none is."""
    for start in range(0, len(array), ROWS):
        wrong = is_wrong(np.ascontiguousarray(array[start : start + ROWS]))
        if wrong.any():
            return start + int(np.argmax(wrong)) + 1
    return 0
