"""`tokenize`: images and their mirror images as continuous latents and discrete tokens, in shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mixar.data.images import unit_batches
from mixar.data.manifest import images_sha256, read_manifest
from mixar.data.selection import part_of
from mixar.data.shards import write_shard
from mixar.data.verifying import shard_faults
from mixar.device import autocast, device_of
from mixar.model.patches import patchify
from mixar.process.failures import finite, naming, needs_memory
from mixar.process.progress import Progress
from mixar.storage.files import file_sha256, link
from mixar.study.digests import Digests, seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.tokens import tokenizers
from mixar.tokens.latents import ENCODE_BATCH, draw_latents, latent_statistics, normalise


@needs_memory(
    lambda study, _, shard: (
        f"tokenize shard {shard}",
        f"Raise data.num_shards: each job holds its part of the images (now {study.data.num_shards} parts)",
    )
)
def tokenize(study: Study, layout: Layout, shard: int) -> None:
    """Write layout.token_shard(shard): latents and tokens of its manifest rows, and of their mirror images.

    Latents are one draw from the posterior, as in VA-VAE's released extraction, normalised to (z - mean) / std.
    A whole shard of the same images, networks and settings is kept, also where Snakemake deleted it before this job:
    it has a second name, layout.kept_shard(shard). Any other is made again.
    """
    manifest = read_manifest(layout.manifest)
    rows = part_of(manifest, shard, study.data.num_shards, "images")
    device, paths = device_of(study), {kind: layout.tokenizer(kind) for kind in ("continuous", "discrete")}
    mean, std = latent_statistics(study, layout)
    metadata = {
        "digest": Digests(study).tokenize(),
        "shard": shard,
        "num_shards": study.data.num_shards,
        "images": images_sha256(manifest),
        "crop": f"ADM centre crop to {study.data.image_size} pixels",
        "tokenizers": {kind: file_sha256(path) for kind, path in paths.items()},
        "statistics": {"mean": mean.tolist(), "std": std.tolist()},
    }
    sizes = study.num_tokens, study.continuous.latent_channels, study.discrete.bits
    path, kept = layout.token_shard(shard), layout.kept_shard(shard)
    if _is_there(path, kept, lambda file: next(shard_faults(file, rows, metadata, *sizes), None), shard):
        return
    continuous = tokenizers.load("continuous", study.continuous, paths["continuous"]).to(device)
    discrete = tokenizers.load("discrete", study.discrete, paths["discrete"]).to(device)
    rng = torch.Generator().manual_seed(seed_of("tokenize", shard))
    parts: dict[str, list[Tensor]] = {key: [] for key in ("latents", "tokens", "latents_flip", "tokens_flip")}
    progress = Progress(f"tokenize shard {shard}", "images")
    for number, batch in enumerate(unit_batches(rows, study.data.image_size, ENCODE_BATCH, progress)):
        images = batch.to(device)
        for suffix, view in (("", images), ("_flip", images.flip(-1))):
            with naming(f"tokenize shard {shard} batch {number}"):
                with autocast(device, study.continuous.precision):
                    x = patchify(draw_latents(continuous, view, rng)).cpu()
                parts["latents" + suffix].append(finite(normalise(x, mean, std), "normalised latents"))
                with autocast(device, study.discrete.precision):
                    parts["tokens" + suffix].append(_encode_tokens(discrete, view).cpu())
        tokenizers.check_tokens(parts["latents"][-1], parts["tokens"][-1], *sizes)
    arrays = {key: torch.cat(tensors) for key, tensors in parts.items()} | _keys_of(rows)
    write_shard(path, arrays, metadata)
    link(path, kept)


def _is_there(path: Path, kept: Path, fault_of: Callable[[Path], str | None], shard: int) -> bool:
    """Whether the shard is whole under either name, and then has both.

    Snakemake deletes `path` before it repeats the job, after a failure too. fault_of: the first fault of a file.
    """
    names = [path] if path.exists() and kept.exists() and path.samefile(kept) else [path, kept]
    for file in filter(Path.exists, names):
        if fault := fault_of(file):
            print(f"tokenize shard {shard}: {file} cannot be kept: {fault}", flush=True)
            continue
        for other in {path, kept} - {file}:
            link(file, other)
        if path.exists():
            print(f"tokenize shard {shard}: {file} is whole and of these settings; nothing to do", flush=True)
            return True
    return False


@torch.inference_mode()
def _encode_tokens(model: Any, images: Tensor) -> Tensor:
    return model.tokens(images)


def _keys_of(rows: pa.Table) -> dict[str, np.ndarray]:
    held_out = pc.equal(rows["split"], "held_out").to_numpy()
    return {"labels": rows["label"].to_numpy(), "index": rows["index"].to_numpy(), "held_out": held_out}
