"""Token shards: safetensors files read through one memory map each, sliced by row.

Latents are stored already normalised; nothing here knows how they were made. The header is parsed once per file, and
a batch costs one copy a row, which is many times faster than opening files or slices per item.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from mixar.storage.files import json_mapping, replaced

TOKEN_KEYS = {  # key: (dtype, number of dimensions)
    "latents": (np.float16, 3),
    "latents_flip": (np.float16, 3),
    "tokens": (np.uint16, 2),
    "tokens_flip": (np.uint16, 2),
    "labels": (np.int32, 1),
    "index": (np.int64, 1),
    "held_out": (np.uint8, 1),
}
HASHES = "hashes"  # in a shard's metadata: each array's BLAKE2b
HASHED_AT_ONCE = 2**24  # bytes
GENERATED_KEYS = {"tokens": (np.uint16, 2), "labels": (np.int32, 1), "index": (np.int64, 1)}

DTYPES = {  # safetensors' names
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "U16": np.uint16,
    "U8": np.uint8,
}


def write_shard(path: Path, arrays: dict[str, torch.Tensor | np.ndarray], metadata: dict) -> None:
    """Write arrays, their hashes and JSON metadata as safetensors, atomically.

    Arrays whose key has a fixed type (TOKEN_KEYS) are converted. Raises ValueError where a value does not fit it.
    """
    plain = {key: a.cpu().numpy() if isinstance(a, torch.Tensor) else np.asarray(a) for key, a in arrays.items()}
    converted = {key: _fitting(key, a, path) for key, a in plain.items()}
    hashes = {key: hash_of(a) for key, a in converted.items()}
    # one text: safetensors writes several in an order that changes, and equal shards are equal byte for byte
    text = json.dumps(metadata | {HASHES: hashes}, sort_keys=True)
    with replaced(path) as temporary:
        save_file(converted, temporary, metadata={"mixar": text})


def hash_of(array: np.ndarray) -> str:
    """BLAKE2b (128 bits, hex) of an array's bytes."""
    content = hashlib.blake2b(digest_size=16)
    rows = max(1, HASHED_AT_ONCE // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        content.update(np.ascontiguousarray(array[start : start + rows]).data)
    return content.hexdigest()


def stored_hashes(path: Path) -> dict[str, str]:
    """The hash of each array as `write_shard` recorded it; empty in a file of an earlier version.

    `open_shard` has to accept the file first.
    """
    with open(path, "rb") as file:
        header = json_mapping(file.read(int.from_bytes(file.read(8), "little")))
    return json_mapping(header["__metadata__"]["mixar"]).get(HASHES, {})


def _fitting(key: str, array: np.ndarray, path: Path) -> np.ndarray:
    if key not in TOKEN_KEYS:
        return np.ascontiguousarray(array)
    dtype = np.dtype(TOKEN_KEYS[key][0])
    limits: Any = np.finfo(dtype.type) if dtype.kind == "f" else np.iinfo(dtype.type)
    # not (a and b): catches NaN too
    if array.size and not (array.min() >= limits.min and array.max() <= limits.max):
        raise ValueError(f"{path}: {key} from {array.min()} to {array.max()} do not fit {dtype.name}")
    return np.ascontiguousarray(array.astype(dtype))


def open_shard(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Memory-mapped arrays by key, and the metadata, of a shard. Raises ValueError for a truncated or foreign file."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such shard; run the stage that writes it")
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json_mapping(file.read(length)) if length + 8 <= size else {}
        metadata = json_mapping(header.pop("__metadata__")["mixar"])
        metadata.pop(HASHES, None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        arrays = {key: _mapped(path, 8 + length, entry, size) for key, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        what = f"not a shard of this project, or cut off within its header ({size:,} bytes)"
        raise ValueError(f"{path}: {what}; run the stage that writes it") from None
    if end != size:
        raise ValueError(f"{path}: {size} bytes where its header promises {end}; it is truncated, so write it again")
    return arrays, metadata


def _mapped(path: Path, start: int, entry: dict, size: int) -> np.ndarray:
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if end - begin != dtype.itemsize * math.prod(shape):
        raise ValueError(f"shape {shape} of {entry['dtype']} does not fill bytes {begin} to {end}")
    if end == begin or start + end > size:  # nothing to map, or a truncated file: reported by the caller
        return np.empty(shape if end == begin else 0, dtype)
    return np.memmap(path, dtype, "r", start + begin, shape)


def open_checked(path: Path, expected: dict[str, tuple]) -> tuple[dict[str, np.ndarray], dict]:
    """`open_shard` of a file with these keys, types and equal lengths. Raises ValueError where it has others."""
    arrays, metadata = open_shard(path)
    missing = [key for key in expected if key not in arrays]
    if missing:
        raise ValueError(f"{path}: keys {missing} are missing; found {sorted(arrays)}; run its stage again")
    rows = len(arrays["labels"])
    for key, (dtype, ndim) in expected.items():
        a = arrays[key]
        if a.dtype != dtype or a.ndim != ndim or len(a) != rows:
            wanted = f"{np.dtype(dtype).name} with {ndim} dimensions and {rows} rows"
            raise ValueError(f"{path}: {key} is {a.dtype.name} {list(a.shape)}; expected {wanted}")
    return arrays, metadata


def _same_tokens(path: Path, arrays: dict[str, np.ndarray], first: dict[str, np.ndarray], keys: Sequence[str]) -> None:
    for key in keys:
        if arrays[key].shape[1:] != first[key].shape[1:]:
            found, wanted = list(arrays[key].shape[1:]), list(first[key].shape[1:])
            raise ValueError(f"{path}: {key} has {found} per image, the first shard {wanted}; tokenize again")


class TokenStore:
    """All token shards as one list of images.

    labels: int64 [len], held_out: bool [len], index (of the manifest): int64 [len], all NumPy.
    num_tokens, channels: of every image. metadata: of the first shard (all shards carry the same settings).
    Raises ValueError where a shard is damaged, lacks a key or disagrees with the first one.
    """

    def __init__(self, paths: Sequence[Path]):
        if not paths:
            raise ValueError("TokenStore: no shards given")
        self.shards: list[dict[str, np.ndarray]] = []
        for path in paths:
            arrays, metadata = open_checked(path, TOKEN_KEYS)
            if not self.shards:
                self.metadata, first = metadata, arrays
            _same_tokens(path, arrays, first, ("latents", "latents_flip", "tokens", "tokens_flip"))
            if metadata.get("images") != self.metadata.get("images"):
                raise ValueError(f"{path}: made of other images than {paths[0]}; tokenize again")
            if metadata.get("digest") != self.metadata.get("digest"):
                raise ValueError(f"{path}: made with other settings than {paths[0]}; tokenize again")
            self.shards.append(arrays)
        self.num_tokens, self.channels = first["latents"].shape[1:]
        if first["tokens"].shape[1] != self.num_tokens:
            raise ValueError(f"{paths[0]}: {self.num_tokens} latents but {first['tokens'].shape[1]} tokens per image")
        # NumPy's own arrays: a row of a memmap costs five times as much to find
        self._views = [
            [(s["latents" + suffix].view(np.ndarray), s["tokens" + suffix].view(np.ndarray)) for s in self.shards]
            for suffix in ("", "_flip")
        ]
        self.starts = np.concatenate([[0], np.cumsum([len(s["labels"]) for s in self.shards])])
        self.labels = self._joined("labels").astype(np.int64)
        self.index = self._joined("index")
        self.held_out = self._joined("held_out").astype(bool)

    def _joined(self, key: str) -> np.ndarray:
        return np.concatenate([s[key] for s in self.shards])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, split: str) -> torch.Tensor:
        """Positions, int64, of the images of a split ('train' or 'held_out')."""
        return torch.from_numpy(np.flatnonzero(self.held_out == (split == "held_out")))

    def buffers(self, n: int, pinned: bool = False) -> dict[str, torch.Tensor]:
        """Memory for `batch(out=...)` of up to n images, in the shards' types: x float16, q uint16; c int64."""
        x = torch.empty(n, self.num_tokens, self.channels, dtype=torch.float16, pin_memory=pinned)
        q = torch.empty(n, self.num_tokens, dtype=torch.uint16, pin_memory=pinned)
        return {"x": x, "q": q, "c": torch.empty(n, dtype=torch.int64, pin_memory=pinned)}

    def batch(self, indices, flip, out: dict[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
        """x [n, L, C], q [n, L] and c int64 [n] at positions `indices` [n].

        x is float32 and q int64, or both have the types of `out`. flip: bool [n], True takes the mirrored image.
        out: CPU tensors with room for n images or more, pinned or not, which are filled; their first n are returned.
        """
        indices, flip = np.asarray(indices, np.int64), np.asarray(flip, bool)
        n = len(indices)
        if out is None:
            out = {
                "x": torch.empty(n, self.num_tokens, self.channels),
                "q": torch.empty(n, self.num_tokens, dtype=torch.int64),
                "c": torch.empty(n, dtype=torch.int64),
            }
        elif len(out["x"]) < n:
            raise ValueError(f"TokenStore.batch: buffers for {len(out['x'])} images, asked for {n}")
        filled = {key: tensor[:n] for key, tensor in out.items()}
        x, q = filled["x"].numpy(), filled["q"].numpy()
        order = np.argsort(indices, kind="stable")  # ascending within a shard: disks read ahead
        shards, rows = self._places(indices[order])
        views = flip[order].astype(int).tolist()
        # one copy a row: gathers by shard take two, and many calls where a batch has few rows of each shard
        for to, shard, row, view in zip(order.tolist(), shards, rows, views, strict=True):
            latents, tokens = self._views[view][shard]
            x[to] = latents[row]
            q[to] = tokens[row]
        filled["c"].numpy()[:] = self.labels[indices]
        return filled

    def _places(self, indices: np.ndarray) -> tuple[list[int], list[int]]:
        """The shard of each position, and its row there."""
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"positions {indices.min()} to {indices.max()} of a store with {len(self)} images")
        shards = np.searchsorted(self.starts, indices, "right") - 1
        return shards.tolist(), (indices - self.starts[shards]).tolist()


def read_generated(paths: Sequence[Path]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Generated tokens int64 [n, L], labels int64 [n] and evaluation index int64 [n] of shards, joined in order."""
    shards = [open_checked(path, GENERATED_KEYS)[0] for path in paths]
    for path, arrays in zip(paths, shards, strict=True):
        _same_tokens(path, arrays, shards[0], ("tokens",))

    def joined(key):
        return torch.from_numpy(np.concatenate([s[key] for s in shards]).astype(np.int64))

    return joined("tokens"), joined("labels"), joined("index")
