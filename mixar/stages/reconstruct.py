"""`reconstruct`: images after one tokenizer, encoded and decoded, in shards."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from mixar.data.images import join_images, made_of, unit_batches, unit_to_uint8, write_images
from mixar.data.selection import part_of, reference_rows
from mixar.device import autocast, device_of
from mixar.process.failures import naming, needs_memory
from mixar.process.progress import Progress
from mixar.scoring.protocols import protocol_of
from mixar.scoring.reference import reference_of
from mixar.storage.files import file_sha256
from mixar.study.digests import Digests, digest, seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.tokens import tokenizers
from mixar.tokens.latents import ENCODE_BATCH, draw_latents
from mixar.tokens.norms import wide


@needs_memory(
    lambda study, _, kind, shard=None, then=None: (
        f"reconstruct {kind}" if shard is None else f"reconstruct {kind} shard {shard}",
        f"Raise data.num_shards: each job holds its part of the images (now {study.data.num_shards} parts)",
    )
)
def reconstruct(
    study: Study,
    layout: Layout,
    kind: str,
    shard: int | None = None,
    then: Callable[[Path], None] = lambda _: None,
) -> None:
    """Write layout.reconstruction(kind, shard), images after one tokenizer (kind: continuous or discrete), and call
    `then` with it; shard None: every shard.

    An interrupted job loses at most one shard: they are kept in a folder outside the outputs until all are made.
    Images that are there and were made from the same settings and files stay as they are.
    Which images and which crop, the protocol says: held-out ones after the ADM crop, unless the study names another.
    Shard i of data.num_shards covers an equal part of them. Column `psnr` is in dB against the cropped
    original, both as uint8.
    """
    if kind not in ROUNDTRIPS:
        raise ValueError(f"kind {kind!r} is unknown; choose from {', '.join(ROUNDTRIPS)}")
    everything = reference_rows(layout.manifest, *reference_of(study, layout.reconstruction_split(kind)))
    shards = range(study.data.num_shards) if shard is None else [shard]
    rows = {i: part_of(everything, i, study.data.num_shards, "images to reconstruct") for i in shards}
    files = [path for path in (layout.manifest, layout.tokenizer(kind)) if path.is_file()]
    identity = digest(Digests(study).reconstruct(kind), *map(file_sha256, files))
    folder, network = layout.checkpoints("reconstruct", kind, identity), None
    for i in shards:
        target, part = layout.reconstruction(kind, i), folder / f"shard-{i:05d}.parquet"
        if made_of(target) == identity:
            os.utime(target)  # for Snakemake, newer than what it was made from
            continue
        if not part.exists():
            network = network or tokenizers.load(kind, getattr(study, kind), layout.tokenizer(kind)).to(
                device_of(study)
            )
            _reconstruct_shard(study, kind, network, i, rows[i], part)
        join_images(target, [part], identity)
    for i in shards:
        then(layout.reconstruction(kind, i))
    for i in shards:
        (folder / f"shard-{i:05d}.parquet").unlink(missing_ok=True)


def _reconstruct_shard(study: Study, kind: str, network: Any, shard: int, rows: pa.Table, path: Path) -> None:
    device, protocol = device_of(study), protocol_of(study, kind)
    rng = torch.Generator().manual_seed(seed_of("reconstruct", shard))
    images, psnrs, task = [], [], f"reconstruct {kind} shard {shard}"
    batches = unit_batches(rows, study.data.image_size, ENCODE_BATCH, Progress(task, "images"), protocol.crop)
    for number, unit in enumerate(batches):
        with naming(f"{task} batch {number}"), autocast(device, getattr(study, kind).precision):
            made = unit_to_uint8(ROUNDTRIPS[kind](network, unit.to(device), rng), protocol.rounding).cpu()
        psnrs.append(psnr_db(made, unit_to_uint8(unit)))
        images.append(made)
    write_images(path, rows["index"], rows["label"], torch.cat(images), {"psnr": torch.cat(psnrs)})


def psnr_db(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each uint8 image [n, H, W, 3], in dB. Equal images count as one level off once."""
    squared = (images.double() - originals.double()).square().flatten(1)
    mse = squared.mean(1).clamp_min(1 / squared.shape[1])
    return 10 * torch.log10(255**2 / mse)


@torch.inference_mode()
def _continuous_roundtrip(model: Any, images: Tensor, rng: torch.Generator) -> Tensor:
    return (wide(model.decode(draw_latents(model, images, rng))) + 1) / 2


@torch.inference_mode()
def _discrete_roundtrip(model: Any, images: Tensor, _rng: torch.Generator) -> Tensor:
    return wide(model.decode_tokens(model.tokens(images)))


ROUNDTRIPS = {"continuous": _continuous_roundtrip, "discrete": _discrete_roundtrip}
