"""`sample`: images of one run, seed and sampler for one shard of the evaluation labels.

Every run reads the same generated tokens and draws from the same noise, batch by batch: comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixar.data.images import unit_to_uint8, write_images
from mixar.data.shards import read_generated
from mixar.device import device_of
from mixar.failures import finite, naming, needs_memory
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.progress import Progress
from mixar.scoring.protocols import protocol_of
from mixar.study.digests import seed_of
from mixar.study.layout import Layout
from mixar.study.names import MASKBIT, check_drawn, check_shard
from mixar.study.sections import Sampler, Study
from mixar.tokens import tokenizers
from mixar.tokens.latents import latent_decoder
from mixar.weights import load_module


@needs_memory(lambda study, _, run, seed, sampler, shard: (
    f"sample {run} seed {seed} {sampler} shard {shard}",
    f"Lower evaluation.batch_size, the images of a forward pass (now {study.evaluation.batch_size})",
))  # fmt: skip
def sample(study: Study, layout: Layout, run: str, seed: int, sampler: str, shard: int) -> None:
    """Write layout.samples(run, seed, sampler, shard). A shard is the unit of resumption: rerun what is missing.

    run 'maskbit' decodes the generated tokens themselves. Raises ValueError for unknown names and missing files, and
    FloatingPointError naming the batch where latents or pixels are not finite.
    """
    check_drawn(study, run, seed, sampler)
    check_shard(study, shard)
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


def _check_tokens(study: Study, path: Path, tokens: Tensor) -> None:
    if tokens.shape[1] != study.num_tokens:
        raise ValueError(f"{path}: {tokens.shape[1]} tokens an image, and the study's grid has {study.num_tokens}; "
                         "run `generate` again")  # fmt: skip


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _maskbit_images(study: Study, layout: Layout, device: torch.device) -> Callable[[int, Tensor, Tensor], Tensor]:
    model: Any = tokenizers.load("discrete", study.discrete, layout.tokenizer("discrete")).to(device)

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
