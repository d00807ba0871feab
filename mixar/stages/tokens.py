"""`ingest`, `tokenize`, `generate`, `reconstruct`: from images to the tokens that training and sampling read.

The networks and file formats live in tokens/ and data/; here are devices, seeds, batches, paths and progress.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from rich import print
from torch import Tensor, nn

from mixar.data.images import images_to_unit, iter_images, load_images, unit_to_uint8, write_images
from mixar.data.manifest import count_smaller, images_sha256, ingest_manifest, read_manifest
from mixar.data.shards import write_shard
from mixar.failures import finite, naming, needs_memory
from mixar.files import file_sha256, write_table
from mixar.model.layers import patchify
from mixar.scoring.protocols import protocol_of
from mixar.stages.device import device_of
from mixar.stages.progress import Progress
from mixar.stages.sample import latent_statistics, normalise
from mixar.stages.score import reference_rows
from mixar.study import inventory
from mixar.study.digests import Digests
from mixar.study.identity import seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.tokens import generator as bit_generator
from mixar.tokens import tokenizers
from mixar.tokens.vavae import sample_posterior

ENCODE_BATCH = 64  # images per forward pass of a tokenizer; part of the numbers: posterior noise is drawn per batch
MEMORY_LIMIT_GIB = 16  # of images held as one tensor


@needs_memory(lambda *_: ("ingest", "Lower data.limit, the images that are taken"))
def ingest(study: Study, layout: Layout) -> None:
    """Write the manifest of all images, and what they were made of: layout.manifest, layout.inventory."""
    files = inventory.taken(study.data, layout.inventory)
    manifest = ingest_manifest(study.data, progress=Progress("ingest", "images"))
    held_out = pc.sum(pc.equal(manifest["split"], "held_out")).as_py()
    print(f"ingest: {len(manifest) - held_out} training and {held_out} held-out images")
    if smaller := count_smaller(manifest, study.data.image_size):
        size = study.data.image_size
        print(f"ingest: {smaller} images are smaller than {size} pixels; the ADM crop enlarges them to {size}")
    inventory.record(files, layout.inventory)
    write_table(layout.manifest, manifest)


def training_images(study: Study, layout: Layout) -> Tensor:
    """All training images as one uint8 tensor [n, H, W, 3], in manifest order, for training small networks.

    Raises ValueError where they would not fit in memory.
    """
    rows, size = read_manifest(layout.manifest, "train"), study.data.image_size
    gib = len(rows) * size**2 * 3 / 2**30
    if gib > MEMORY_LIMIT_GIB:
        raise ValueError(f"data.image_size: {len(rows)} images of {size} pixels need {gib:.0f} GiB; give `weights`")
    return load_images(rows, size)


@needs_memory(lambda study, _, shard: (f"tokenize shard {shard}", _more_shards(study)))
def tokenize(study: Study, layout: Layout, shard: int) -> None:
    """Write layout.token_shard(shard): latents and tokens of its manifest rows, and of their mirror images.

    Latents are one draw from the posterior, as in VA-VAE's released extraction, normalised to (z - mean) / std.
    """
    manifest = read_manifest(layout.manifest)
    rows = _part(manifest, shard, study.data.num_shards, "images")
    device, paths = device_of(study), {kind: layout.tokenizer(kind) for kind in ("continuous", "discrete")}
    continuous = tokenizers.load("continuous", study.continuous, paths["continuous"]).to(device)
    discrete = tokenizers.load("discrete", study.discrete, paths["discrete"]).to(device)
    mean, std = latent_statistics(study, layout)
    rng = torch.Generator().manual_seed(seed_of("tokenize", shard))
    parts: dict[str, list[Tensor]] = {key: [] for key in ("latents", "tokens", "latents_flip", "tokens_flip")}
    for number, images in enumerate(_batches(study, rows, f"tokenize shard {shard}", device)):
        for suffix, view in (("", images), ("_flip", images.flip(-1))):
            with naming(f"tokenize shard {shard} batch {number}"):
                x = patchify(draw_latents(continuous, view, rng)).cpu()
                parts["latents" + suffix].append(finite(normalise(x, mean, std), "normalised latents"))
                parts["tokens" + suffix].append(_encode_tokens(discrete, view).cpu())
        sizes = study.num_tokens, study.continuous.latent_channels, study.discrete.bits
        tokenizers.check_tokens(parts["latents"][-1], parts["tokens"][-1], *sizes)
    arrays = {key: torch.cat(tensors) for key, tensors in parts.items()} | _keys_of(rows)
    metadata = {
        "digest": Digests(study).tokenize(),
        "shard": shard,
        "num_shards": study.data.num_shards,
        "images": images_sha256(manifest),
        "crop": f"ADM centre crop to {study.data.image_size} pixels",
        "tokenizers": {kind: file_sha256(path) for kind, path in paths.items()},
        "statistics": {"mean": mean.tolist(), "std": std.tolist()},
    }
    write_shard(layout.token_shard(shard), arrays, metadata)


@needs_memory(lambda study, _, shard: (
    f"generate shard {shard}",
    f"Lower evaluation.batch_size, the images of a forward pass (now {study.evaluation.batch_size})",
))  # fmt: skip
def generate(study: Study, layout: Layout, shard: int) -> None:
    """Write layout.generated_shard(shard): the discrete tokens of its evaluation labels, drawn once for every run."""
    if not 0 <= shard < study.evaluation.num_shards:
        raise ValueError(f"shard {shard} is none of the study's {study.evaluation.num_shards} (0 is the first)")
    labels = evaluation_labels(study, layout)
    index = np.arange(len(labels))[shard * study.evaluation.shard_size :][: study.evaluation.shard_size]
    device = device_of(study)
    model = bit_generator.load(study, layout.generator).to(device)
    sampler, size, tokens = study.generator.sampler, study.evaluation.batch_size, []
    batches = [torch.from_numpy(labels[index[i : i + size]]).to(device) for i in range(0, len(index), size)]
    announce, steps = Progress(f"generate shard {shard}"), sampler.num_steps
    announce(0, len(batches) * steps)
    for number, c in enumerate(batches):
        rng = torch.Generator(device).manual_seed(seed_of(study.evaluation.seed, "generate", shard, number))

        def progress(step, _total, before=number * steps):
            announce(before + step, len(batches) * steps)

        with naming(f"generate shard {shard} batch {number}"):
            tokens.append(bit_generator.sample_tokens(model, c, sampler, rng, progress=progress).cpu())
    arrays = {"tokens": torch.cat(tokens), "labels": labels[index], "index": index}
    metadata = {"digest": Digests(study).generate(), "shard": shard, "generator": file_sha256(layout.generator)}
    write_shard(layout.generated_shard(shard), arrays, metadata)


def evaluation_labels(study: Study, layout: Layout) -> np.ndarray:
    """The class of every evaluation image, int64 [num_images], sorted: equal counts, or the training proportions."""
    if study.evaluation.labels == "balanced":
        weights = np.ones(study.data.num_classes)
    else:
        labels = read_manifest(layout.manifest, "train", ["label"])["label"].to_numpy()
        weights = np.bincount(labels, minlength=study.data.num_classes).astype(float)
    return np.repeat(np.arange(len(weights)), proportional_counts(weights, study.evaluation.num_images))


def proportional_counts(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to weights that add up to total (largest remainder; ties go to the first)."""
    exact = weights / weights.sum() * total
    counts = np.floor(exact).astype(np.int64)
    largest = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[largest] += 1
    return counts


@needs_memory(lambda study, _, kind, shard: (f"reconstruct {kind} shard {shard}", _more_shards(study)))
def reconstruct(study: Study, layout: Layout, kind: str, shard: int) -> None:
    """Write layout.reconstruction(kind, shard): images after one tokenizer (kind: continuous or discrete).

    Which images and which crop, the protocol says: held-out ones after the ADM crop, unless the study names another.
    Shard i of data.num_shards covers an equal part of them. Column `psnr` is in dB against the cropped
    original, both as uint8.
    """
    if kind not in RECONSTRUCTIONS:
        raise ValueError(f"kind {kind!r} is unknown; choose from {', '.join(RECONSTRUCTIONS)}")
    rows = reference_rows(study, layout, layout.reconstruction_split)
    rows = _part(rows, shard, study.data.num_shards, "images to reconstruct")
    device, protocol = device_of(study), protocol_of(study, "reconstruct")
    roundtrip = RECONSTRUCTIONS[kind](study, layout, shard, device)
    images, psnrs, task = [], [], f"reconstruct {kind} shard {shard}"
    for number, unit in enumerate(_batches(study, rows, task, device, protocol.crop)):
        with naming(f"{task} batch {number}"):
            made = unit_to_uint8(roundtrip(unit), protocol.rounding).cpu()
        psnrs.append(psnr_db(made, unit_to_uint8(unit).cpu()))
        images.append(made)
    columns = {"psnr": torch.cat(psnrs)}
    write_images(layout.reconstruction(kind, shard), rows["index"], rows["label"], torch.cat(images), columns)


def psnr_db(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each uint8 image [n, H, W, 3], in dB. Equal images count as one level off once."""
    squared = (images.double() - originals.double()).square().flatten(1)
    mse = squared.mean(1).clamp_min(1 / squared.shape[1])
    return 10 * torch.log10(255**2 / mse)


def _continuous_roundtrip(study: Study, layout: Layout, shard: int, device: torch.device):
    model = tokenizers.load("continuous", study.continuous, layout.tokenizer("continuous")).to(device)
    rng = torch.Generator().manual_seed(seed_of("reconstruct", shard))

    @torch.inference_mode()
    def roundtrip(images: Tensor) -> Tensor:
        return (model.decode(draw_latents(model, images, rng)) + 1) / 2

    return roundtrip


def _discrete_roundtrip(study: Study, layout: Layout, shard: int, device: torch.device):
    model = tokenizers.load("discrete", study.discrete, layout.tokenizer("discrete")).to(device)

    @torch.inference_mode()
    def roundtrip(images: Tensor) -> Tensor:
        return model.decode_tokens(model.tokens(images))

    return roundtrip


RECONSTRUCTIONS = {"continuous": _continuous_roundtrip, "discrete": _discrete_roundtrip}


@torch.inference_mode()
def draw_latents(model: nn.Module, images: Tensor, rng: torch.Generator) -> Tensor:
    """One posterior draw [b, C, h, w] of images in [0, 1]; noise from the CPU, so that every device gets the same.

    Raises FloatingPointError where the mean, the variance or the draw is not finite.
    """
    mean, logvar = model.encode(images * 2 - 1)
    noise = torch.randn(mean.shape, generator=rng).to(mean.device)
    finite(logvar, "log variances of latents")  # a draw hides -inf
    return finite(sample_posterior(mean, logvar, noise), "latents")


@torch.inference_mode()
def _encode_tokens(model: nn.Module, images: Tensor) -> Tensor:
    return model.tokens(images)


def _part(rows: pa.Table, shard: int, num_shards: int, what: str) -> pa.Table:
    """Rows shard * n // num_shards up to (shard + 1) * n // num_shards of n rows."""
    if not 0 <= shard < num_shards:
        raise ValueError(f"shard {shard} is none of the study's {num_shards} (0 is the first)")
    if len(rows) < num_shards:
        raise ValueError(f"data.num_shards: {num_shards} shards for {len(rows)} {what}; ask for fewer shards")
    start, end = shard * len(rows) // num_shards, (shard + 1) * len(rows) // num_shards
    return rows.slice(start, end - start)


def _batches(study: Study, rows: pa.Table, task: str, device: torch.device, crop: str = "adm") -> Iterator[Tensor]:
    """Yield images in [0, 1], [b, 3, H, W], and announce progress."""
    images, announce = iter_images(rows, study.data.image_size, crop), Progress(task, "images")
    for start in range(0, len(rows), ENCODE_BATCH):
        announce(start, len(rows))
        count = min(ENCODE_BATCH, len(rows) - start)
        yield images_to_unit(np.stack([next(images) for _ in range(count)])).to(device)
    announce(len(rows), len(rows))


def _more_shards(study: Study) -> str:
    return f"Raise data.num_shards: each job holds its part of the images (now {study.data.num_shards} parts)"


def _keys_of(rows: pa.Table) -> dict[str, np.ndarray]:
    held_out = pc.equal(rows["split"], "held_out").to_numpy()
    return {"labels": rows["label"].to_numpy(), "index": rows["index"].to_numpy(), "held_out": held_out}
