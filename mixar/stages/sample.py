"""`sample`: images of one run, seed and sampler for one shard of the evaluation labels.

Every run reads the same generated tokens and draws from the same noise, batch by batch: comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mixar.data.images import unit_to_uint8, write_images
from mixar.data.shards import read_generated
from mixar.failures import finite, naming, needs_memory
from mixar.model.decode import sample_latents
from mixar.model.layers import unpatchify
from mixar.model.mar import MAR
from mixar.scoring.protocols import protocol_of
from mixar.stages.device import device_of
from mixar.stages.progress import Progress
from mixar.study.identity import seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Sampler, Study
from mixar.tokens import tokenizers
from mixar.weights import load_module, read_weights

MASKBIT = "maskbit"  # the run that decodes the generated tokens as they are


@needs_memory(lambda study, _, run, seed, sampler, shard: (
    f"sample {run} seed {seed} {sampler} shard {shard}",
    f"Lower evaluation.batch_size, the images of a forward pass (now {study.evaluation.batch_size})",
))  # fmt: skip
def sample(study: Study, layout: Layout, run: str, seed: int, sampler: str, shard: int) -> None:
    """Write layout.samples(run, seed, sampler, shard). A shard is the unit of resumption: rerun what is missing.

    run 'maskbit' decodes the generated tokens themselves. Raises ValueError for unknown names and missing files, and
    FloatingPointError naming the batch where latents or pixels are not finite.
    """
    check_names(study, run, seed, sampler, shard)
    device = device_of(study)
    tokens, labels, index = read_generated([layout.generated_shard(shard)])
    _check_tokens(study, layout.generated_shard(shard), tokens)
    if run == MASKBIT:
        draw = _maskbit_images(study, layout, device)
    else:
        draw = _mar_images(study, layout, run, seed, study.samplers[sampler], shard, device)
    rounding = protocol_of(study, "sample").rounding
    task = f"sample {run} seed {seed} {sampler} shard {shard}"
    images, announce = [], Progress(task, "images")
    announce(0, len(tokens))
    for number, rows in enumerate(_batches(len(tokens), study.evaluation.batch_size)):
        with naming(f"{task} batch {number}"):
            images.append(unit_to_uint8(draw(number, tokens[rows], labels[rows]), rounding).cpu())
        announce(min(rows.stop, len(tokens)), len(tokens))
    write_images(layout.samples(run, seed, sampler, shard), index, labels, torch.cat(images))


def check_names(study: Study, run: str, seed: int, sampler: str, shard: int) -> None:
    """Raise ValueError unless the study has this run, seed, sampler and shard."""
    if run != MASKBIT:
        if run not in study.runs:
            raise ValueError(f"run {run!r} is unknown; choose from {', '.join([*study.runs, MASKBIT])}")
        if seed not in study.runs[run].seeds:
            raise ValueError(f"run {run!r} has no seed {seed}; it has {list(study.runs[run].seeds)}")
        if sampler not in study.samplers:
            raise ValueError(f"sampler {sampler!r} is unknown; choose from {', '.join(study.samplers)}")
    if not 0 <= shard < study.evaluation.num_shards:
        raise ValueError(f"shard {shard} is none of the study's {study.evaluation.num_shards} (0 is the first)")


def _check_tokens(study: Study, path: Path, tokens: Tensor) -> None:
    if tokens.shape[1] != study.num_tokens:
        raise ValueError(f"{path}: {tokens.shape[1]} tokens an image, and the study's grid has {study.num_tokens}; "
                         "run `generate` again")  # fmt: skip


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _maskbit_images(study: Study, layout: Layout, device: torch.device) -> Callable[[int, Tensor, Tensor], Tensor]:
    model = tokenizers.load("discrete", study.discrete, layout.tokenizer("discrete")).to(device)

    @torch.inference_mode()
    def draw(_number: int, q: Tensor, _c: Tensor) -> Tensor:
        return model.decode_tokens(q.to(device))

    return draw


def _mar_images(
    study: Study, layout: Layout, run: str, seed: int, sampler: Sampler, shard: int, device: torch.device
) -> Callable[[int, Tensor, Tensor], Tensor]:
    model = load_module(MAR.from_study(study, run), layout.weights(run, seed)).to(device)
    decode = latent_decoder(study, layout, device)

    @torch.inference_mode()
    def draw(number: int, q: Tensor, c: Tensor) -> Tensor:
        rng = torch.Generator(device).manual_seed(seed_of(study.evaluation.seed, "sample", shard, number))
        return decode(finite(sample_latents(model, q.to(device), c.to(device), sampler, rng), "latents"))

    return draw


def latent_decoder(study: Study, layout: Layout, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from normalised latents [B, L, C] to images [B, 3, H, W], [0, 1] up to what rounding clamps."""
    model = tokenizers.load("continuous", study.continuous, layout.tokenizer("continuous")).to(device)
    mean, std = (t.to(device) for t in latent_statistics(study, layout))

    def decode(x: Tensor) -> Tensor:
        return (model.decode(unpatchify(denormalise(x, mean, std), study.grid)) + 1) / 2

    return decode


def normalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Latents [B, L, C] as the transformer sees them."""
    return (x - mean) / std


def denormalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The inverse of `normalise`: latents as the tokenizer sees them."""
    return x * std + mean


def latent_statistics(study: Study, layout: Layout) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] that normalised the latents. Raises ValueError for a file of other channels."""
    channels = study.continuous.latent_channels
    if study.continuous.scale is not None:
        return torch.zeros(channels), torch.full((channels,), 1 / study.continuous.scale)
    found = read_weights(layout.statistics)
    for key in ("mean", "std"):
        if key not in found or found[key].shape != (channels,):
            shape = list(found[key].shape) if key in found else "nothing"
            raise ValueError(f"{layout.statistics}: expected {key!r} of shape [{channels}], found {shape}")
    check_statistics(found, str(layout.statistics))
    return found["mean"], found["std"]


def check_statistics(found: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError unless latents can be normalised with this `mean` and `std`."""
    if not all(found[key].isfinite().all() for key in ("mean", "std")) or not (found["std"] > 0).all():
        raise ValueError(f"{where}: the mean must be finite and the std finite and above zero in every channel")
