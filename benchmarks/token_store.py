"""Items a second from a token store of full shape, in the order of a training; order and resuming checked on the way.

    python benchmarks/token_store.py [--items 200000] [--folder FOLDER] [--output benchmarks/token-store.json]

Writes a store of 256 x 32 latents, 256 tokens and a label an image, both views (6.8 GB for 200,000 images), into a
temporary folder, or into --folder, where it stays and is used again. Reads it once, so that the page cache has it, and
then epochs through the loader of a training, into buffers in the shards' types: pinned ones where there is CUDA.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mixar.data.shards import TokenStore, write_shard
from mixar.model.masking import Group
from mixar.storage.files import write_text
from mixar.training.ahead import Ahead
from mixar.training.batches import load_of, order_of
from mixar.training.draws import Draws

L, C, BITS, CLASSES = 256, 32, 14, 1000
IN_A_SHARD = 10_000
DEPTHS = (0, 1, 2, 8)
GOAL = 100_000  # items a second
SEED = 3


def build(folder: Path, items: int) -> list[Path]:
    """Shards of a store whose tokens name their image: the first two hold its index, the third the view."""
    rng = np.random.default_rng(0)
    count = min(IN_A_SHARD, items)
    latents = rng.standard_normal((count, L, C), np.float32).astype(np.float16)
    tokens = rng.integers(0, 2**BITS, (count, L), np.uint16)
    paths = []
    for shard, first in enumerate(range(0, items, count)):
        index = np.arange(first, min(first + count, items))
        paths.append(folder / f"shard-{shard:05d}.safetensors")
        if paths[-1].exists():
            continue
        arrays = {"labels": index % CLASSES, "index": index, "held_out": np.zeros(len(index))}
        for view, suffix in enumerate(("", "_flip")):
            named = tokens[: len(index)].copy()
            named[:, 0], named[:, 1], named[:, 2] = index >> BITS, index & (2**BITS - 1), view
            arrays |= {f"latents{suffix}": np.roll(latents, shard, 0)[: len(index)], f"tokens{suffix}": named}
        write_shard(paths[-1], arrays, {"digest": "benchmark", "shard": shard})
        print(f"wrote {paths[-1]}", flush=True)
    return paths


def batches(store: TokenStore, size: int, depth: int, device: torch.device, start: int = 0) -> Iterator[dict]:
    """The batches of an epoch from the `start`-th one on, made up to `depth` batches ahead."""
    order, load = order_of(SEED, len(store), 0), load_of(store, torch.arange(len(store)), device)

    def make(index: int) -> dict[str, torch.Tensor]:
        indices = order[index * size : (index + 1) * size]
        group = Group(len(indices), slice(0, len(indices)))
        return load(indices, Draws.of(device, (SEED, index), 0, group, equal_rates=False))

    end = -(-len(store) // size)
    with Ahead(make, end, depth) as ahead:
        for index in range(start, end):
            yield ahead.take(index)


def epoch(store: TokenStore, size: int, depth: int, device: torch.device) -> dict[str, float]:
    """Items and CPU time of one epoch. Nothing is done with the batches: the loader is the limit."""
    cpu, start = time.process_time(), time.perf_counter()
    count = sum(len(batch["c"]) for batch in batches(store, size, depth, device))
    seconds = time.perf_counter() - start
    return {"items_per_s": count / seconds, "items_per_cpu_s": count / (time.process_time() - cpu)}


def digest(parts: Iterator[dict]) -> str:
    """A hash of every image, view and class in order, and of one channel of its latents."""
    content = hashlib.blake2b(digest_size=16)
    for batch in parts:
        for tensor in (batch["q"][:, :3].to(torch.int32), batch["x"][:, 0, 0], batch["c"]):
            content.update(tensor.contiguous().numpy().data)
    return content.hexdigest()


def images_of(parts: Iterator[dict]) -> np.ndarray:
    """The index of every image of some batches, in order, from its tokens."""
    found = [(batch["q"][:, 0].to(torch.int64) << BITS) + batch["q"][:, 1].to(torch.int64) for batch in parts]
    return torch.cat(found).numpy()


def checked(store: TokenStore, size: int, device: torch.device) -> dict[str, bool]:
    """Whether the order is that of the seed for every depth, and an epoch taken up in its middle ends the same."""
    digests = {digest(batches(store, size, depth, device)) for depth in DEPTHS}
    found = images_of(batches(store, size, max(DEPTHS), device))
    middle = len(store) // size // 3
    ends = {digest(b for i, b in enumerate(batches(store, size, 2, device)) if i >= middle)}
    ends |= {digest(batches(store, size, depth, device, middle)) for depth in DEPTHS}
    return {
        "same_for_depths": len(digests) == 1,
        "every_image_once": bool(np.array_equal(found, order_of(SEED, len(store), 0).numpy())),
        "exact_resume_inside_an_epoch": len(ends) == 1,
    }


def memory_gib() -> float:
    """GiB of memory that the page cache can take."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) / 2**20


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "memory_available_gib": round(memory_gib(), 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "load_before": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024], help="images of a batch")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each setting")
    parser.add_argument("--folder", type=Path, help="where the store is, or is written to; default: a temporary one")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "token-store.json")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        paths = build(folder, arguments.items)
        size = sum(path.stat().st_size for path in paths)
        if size > memory_gib() * 2**30:
            raise SystemExit(f"{folder}: {size / 1e9:.1f} GB do not fit the page cache; give fewer --items")
        store, found = TokenStore(paths), machine()
        checks = checked(store, arguments.batches[0], device)  # reads both views into the page cache
        measured = []
        for batch in arguments.batches:
            for depth in (0, 2):
                rounds = [epoch(store, batch, depth, device) for _ in range(arguments.rounds)]
                row = {"batch": batch, "depth": depth}
                for key in rounds[0]:
                    values = [r[key] for r in rounds]
                    row |= {key: round(max(values)), f"{key}_median": round(statistics.median(values))}
                measured.append(row)
                print(json.dumps(row), flush=True)
    best = max(row["items_per_s"] for row in measured)
    result = {
        "machine": found,
        "store": {"items": arguments.items, "shards": len(paths), "views": 2, "gb": round(size / 1e9, 2)},
        "buffers": "pinned" if device.type == "cuda" else "not pinned: no CUDA here",
        "checks": checks,
        "epochs": measured,
        "goal_items_per_s": GOAL,
        "goal_reached": best >= GOAL,
    }
    write_text(arguments.output, json.dumps(result, indent=2) + "\n")
    print(f"{best:,} items/s at best; checks: {checks}")
    if not all(checks.values()):
        raise SystemExit("a check failed")


if __name__ == "__main__":
    main()
