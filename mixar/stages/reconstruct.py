"""`reconstruct`: images after one tokenizer, encoded and decoded, in shards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mixar.data.images import unit_batches, unit_to_uint8, write_images
from mixar.data.selection import part_of, reference_rows
from mixar.device import device_of
from mixar.failures import naming, needs_memory
from mixar.progress import Progress
from mixar.scoring.protocols import protocol_of
from mixar.scoring.reference import reference_of
from mixar.study.digests import seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.tokens import tokenizers
from mixar.tokens.latents import ENCODE_BATCH, draw_latents


@needs_memory(
    lambda study, _, kind, shard: (
        f"reconstruct {kind} shard {shard}",
        f"Raise data.num_shards: each job holds its part of the images (now {study.data.num_shards} parts)",
    )
)
def reconstruct(study: Study, layout: Layout, kind: str, shard: int) -> None:
    """Write layout.reconstruction(kind, shard): images after one tokenizer (kind: continuous or discrete).

    Which images and which crop, the protocol says: held-out ones after the ADM crop, unless the study names another.
    Shard i of data.num_shards covers an equal part of them. Column `psnr` is in dB against the cropped
    original, both as uint8.
    """
    if kind not in RECONSTRUCTIONS:
        raise ValueError(f"kind {kind!r} is unknown; choose from {', '.join(RECONSTRUCTIONS)}")
    rows = reference_rows(layout.manifest, *reference_of(study, layout.reconstruction_split))
    rows = part_of(rows, shard, study.data.num_shards, "images to reconstruct")
    device, protocol = device_of(study), protocol_of(study, "reconstruct")
    roundtrip = RECONSTRUCTIONS[kind](study, layout, shard, device)
    images, psnrs, task = [], [], f"reconstruct {kind} shard {shard}"
    batches = unit_batches(rows, study.data.image_size, ENCODE_BATCH, Progress(task, "images"), protocol.crop)
    for number, unit in enumerate(batches):
        with naming(f"{task} batch {number}"):
            made = unit_to_uint8(roundtrip(unit.to(device)), protocol.rounding).cpu()
        psnrs.append(psnr_db(made, unit_to_uint8(unit)))
        images.append(made)
    columns = {"psnr": torch.cat(psnrs)}
    write_images(layout.reconstruction(kind, shard), rows["index"], rows["label"], torch.cat(images), columns)


def psnr_db(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each uint8 image [n, H, W, 3], in dB. Equal images count as one level off once."""
    squared = (images.double() - originals.double()).square().flatten(1)
    mse = squared.mean(1).clamp_min(1 / squared.shape[1])
    return 10 * torch.log10(255**2 / mse)


def _continuous_roundtrip(study: Study, layout: Layout, shard: int, device: torch.device):
    model: Any = tokenizers.load("continuous", study.continuous, layout.tokenizer("continuous")).to(device)
    rng = torch.Generator().manual_seed(seed_of("reconstruct", shard))

    @torch.inference_mode()
    def roundtrip(images: Tensor) -> Tensor:
        return (model.decode(draw_latents(model, images, rng)) + 1) / 2

    return roundtrip


def _discrete_roundtrip(study: Study, layout: Layout, shard: int, device: torch.device):
    model: Any = tokenizers.load("discrete", study.discrete, layout.tokenizer("discrete")).to(device)

    @torch.inference_mode()
    def roundtrip(images: Tensor) -> Tensor:
        return model.decode_tokens(model.tokens(images))

    return roundtrip


RECONSTRUCTIONS = {"continuous": _continuous_roundtrip, "discrete": _discrete_roundtrip}
