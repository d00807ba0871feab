"""`sample`: images of one run, seed and sampler for one shard of the evaluation labels.

Every run reads the same generated tokens and draws from the same noise, batch by batch: comparisons are paired.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixar.data.images import Drawn, join_images, made_of, read_pixels, unit_to_uint8, write_images, write_pixels
from mixar.data.shards import read_generated
from mixar.device import autocast, device_of
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.process.failures import finite, naming, needs_memory
from mixar.process.progress import Progress
from mixar.scoring.extractors import load_networks, require_assets
from mixar.scoring.files import join_features, write_features
from mixar.scoring.protocols import protocol_of
from mixar.scoring.sweeps import chosen
from mixar.storage.files import file_sha256
from mixar.study.arguments import check_drawn, check_shard, check_swept
from mixar.study.digests import Digests, digest, seed_of
from mixar.study.layout import Layout
from mixar.study.names import MASKBIT, split
from mixar.study.sections import Sampler, Study
from mixar.tokens import tokenizers
from mixar.tokens.latents import latent_decoder
from mixar.tokens.norms import wide
from mixar.weights import load_module


@needs_memory(lambda study, _, run, seed, sampler, shard, then=None: (
    f"sample {run} seed {seed} {sampler} shard {shard}",
    f"Lower evaluation.batch_size, the images of a forward pass (now {study.evaluation.batch_size})",
))  # fmt: skip
def sample(
    study: Study,
    layout: Layout,
    run: str,
    seed: int,
    sampler: str,
    shard: int,
    then: Callable[..., None] | None = None,
) -> None:
    """Write layout.samples(run, seed, sampler, shard) and call `then` with it.

    Where evaluation.keep_images leaves images out, the file holds the first ones, and `then` also gets all of them, as
    index, labels and images: without it the others would be lost, which is refused.

    An interrupted job loses at most two batches, the one that is drawn and the one that is written beside it: batches
    are kept in a folder outside the output until `then` returns. Images that are there and were drawn from the same
    settings and files stay as they are.
    run 'maskbit' decodes the generated tokens themselves. Raises ValueError for unknown names and missing files, and
    FloatingPointError naming the batch where latents or pixels are not finite.
    """
    check_drawn(study, run, seed, sampler)
    check_shard(study, shard)
    target, identity = layout.samples(run, seed, sampler, shard), _identity(study, layout, run, seed, sampler, shard)
    folder = layout.checkpoints("sample", f"{run}-seed{seed}-{sampler}-{shard:05d}", identity)
    draw_parts = partial(_draw_parts, study, layout, run, seed, sampler, shard, folder)
    if (keep := study.evaluation.keep_images) != "all":
        if then is None:
            raise ValueError(f"evaluation.keep_images: {keep}, so features are made where images are drawn; give "
                             "--with-features")  # fmt: skip
        then(target, _keep_first(keep, target, draw_parts((".safetensors", write_pixels)), identity))
    else:
        if made_of(target) == identity:
            os.utime(target)  # for Snakemake, newer than what it was drawn from
        else:
            join_images(target, draw_parts((".parquet", write_images)), identity)
        if then is not None:
            then(target)
    shutil.rmtree(folder, ignore_errors=True)


def _keep_first(keep: int, target: Path, parts: list[Path], identity: str) -> Drawn:
    """Write the first images of parts that `write_pixels` wrote; returns all of them."""
    index, labels, images = read_pixels(parts)
    kept = parts[0].with_name("kept.parquet")
    write_images(kept, index[:keep], labels[:keep], images[:keep])
    join_images(target, [kept], identity)
    return index, labels, images


@needs_memory(lambda study, _, run, sampler, shard: (
    f"sample sweep {run} {sampler} shard {shard}",
    f"Lower evaluation.batch_size, the images of a forward pass (now {study.evaluation.batch_size})",
))  # fmt: skip
def sample_sweep(study: Study, layout: Layout, run: str, sampler: str, shard: int) -> None:
    """Write layout.sweep_features(run, sampler, shard): features of images that are drawn at every scale of a sweep.

    The images themselves are not kept. All scales use the same noise and tokens, and no evaluation image uses either.
    An interrupted job loses at most one batch. Raises ValueError and FloatingPointError as `sample` does.
    """
    check_swept(study, run, sampler)
    settings, seed = study.sweeps[run, sampler], study.networks[run].seeds[0]
    check_shard(study, shard, settings.num_images)
    require_assets(study, "sample")
    tokens_path = layout.generated_for_sweep(settings.num_images, shard)
    files = [file for file in (tokens_path, *_networks(layout, run, seed), layout.extractor()) if file.is_file()]
    digests = Digests(study)
    identity = digest(digests.sweep(run, sampler), digests.score_sweep(), *map(file_sha256, files))
    folder = layout.checkpoints("sweep", f"{run}-{sampler}-{shard:05d}", identity)
    device, task = device_of(study), f"sample sweep {run} {sampler} shard {shard}"
    tokens, labels, index = read_generated([tokens_path])
    _check_tokens(study, tokens_path, tokens)
    networks, rounding = load_networks(study, layout, "sample", device), protocol_of(study, "sample").rounding
    main = replace(networks, further={})
    precision = study.samplers[sampler].precision
    model, decode = _model_of(study, layout, run, seed, device), latent_decoder(study, layout, device, precision)
    batches = list(enumerate(_batches(len(tokens), study.evaluation.batch_size)))
    parts, announce, total = [], Progress(task, "images"), len(tokens) * len(settings.cfg)
    announce(0, total)
    for place, cfg in enumerate(settings.cfg):
        scaled = study.samplers[sampler].model_copy(update={"cfg": cfg})
        draw = _latents(study, model, scaled, ("sweep", shard), device)
        for number, rows in batches:
            parts.append(folder / f"{place:03d}-{number:05d}.parquet")
            if not parts[-1].exists():
                with naming(f"{task} cfg {cfg:g} batch {number}"), torch.inference_mode():
                    images = unit_to_uint8(decode(draw(number, tokens[rows], labels[rows])), rounding)
                    outputs, _ = main.extract([images])
                write_features(parts[-1], index[rows], labels[rows], outputs, main.header, cfg=cfg)
            announce(place * len(tokens) + min(rows.stop, len(tokens)), total)
    join_features(layout.sweep_features(run, sampler, shard), parts)
    shutil.rmtree(folder)


def _networks(layout: Layout, run: str, seed: int) -> list[Path]:
    """The files of the networks that turn tokens into images."""
    if run == MASKBIT:
        return [layout.tokenizer("discrete")]
    return [layout.weights(run, seed), layout.tokenizer("continuous"), layout.statistics]


def _identity(study: Study, layout: Layout, run: str, seed: int, sampler: str, shard: int) -> str:
    """A digest of all that a shard's images depend on: settings, tokens and the files of the networks."""
    files = [path for path in (layout.generated_shard(shard), *_networks(layout, run, seed)) if path.is_file()]
    settings = None if run == MASKBIT else chosen(study, layout, run, sampler)
    return digest(Digests(study).sample(run, seed, sampler, settings), *map(file_sha256, files))


def _draw_parts(
    study: Study,
    layout: Layout,
    run: str,
    seed: int,
    sampler: str,
    shard: int,
    folder: Path,
    written: tuple[str, Callable[..., None]],
) -> list[Path]:
    """Draw the batches of a shard that are not in `folder` yet, a file each; returns all of them in order.

    written: the ending of these files, and what writes one.

    A batch is decoded and written in a thread while the next one is drawn.
    """
    device = device_of(study)
    tokens, labels, index = read_generated([layout.generated_shard(shard)])
    _check_tokens(study, layout.generated_shard(shard), tokens)
    if run == MASKBIT:
        draw, decode = _given_tokens(device), _maskbit_decoder(study, layout, device)
    else:
        settings, model = chosen(study, layout, run, sampler), _model_of(study, layout, run, seed, device)
        decode = latent_decoder(study, layout, device, settings.precision)
        draw = _latents(study, model, settings, ("sample", shard), device)
    rounding = protocol_of(study, "sample").rounding
    task = f"sample {run} seed {seed} {sampler} shard {shard}"
    batches = _batches(len(tokens), study.evaluation.batch_size)
    ending, write = written
    parts = {folder / f"batch-{number:05d}{ending}": (number, rows) for number, rows in enumerate(batches)}
    left = {path: part for path, part in parts.items() if not path.exists()}
    done, announce = (
        sum(len(index[rows]) for path, (_, rows) in parts.items() if path not in left),
        Progress(task, "images"),
    )
    announce(done, len(tokens))

    @torch.inference_mode()
    def finish(path: Path, number: int, rows: slice, drawn: Tensor) -> int:
        with naming(f"{task} batch {number}"):
            images = unit_to_uint8(decode(drawn), rounding).cpu()
        write(path, index[rows], labels[rows], images)
        return len(images)

    with ThreadPoolExecutor(1, thread_name_prefix="images") as beside:
        finishing: list[Future[int]] = []
        for path, (number, rows) in left.items():
            with naming(f"{task} batch {number}"):
                drawn = draw(number, tokens[rows], labels[rows])
            done += _finished(finishing)  # at most one batch waits in memory
            announce(done, len(tokens))
            finishing.append(beside.submit(finish, path, number, rows, drawn))
        announce(done + _finished(finishing), len(tokens))
    return list(parts)


def _finished(futures: list[Future[int]]) -> int:
    """How many images of these futures are written, and none of them is left. Raises their errors."""
    count = sum(future.result() for future in futures)
    futures.clear()
    return count


def _check_tokens(study: Study, path: Path, tokens: Tensor) -> None:
    if tokens.shape[1] != study.num_tokens:
        raise ValueError(f"{path}: {tokens.shape[1]} tokens per image, but the study's grid has {study.num_tokens}; "
                         "run `generate` again")  # fmt: skip


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


def _given_tokens(device: torch.device) -> Callable[[int, Tensor, Tensor], Tensor]:
    return lambda _number, q, _c: q.to(device)


def _maskbit_decoder(study: Study, layout: Layout, device: torch.device) -> Callable[[Tensor], Tensor]:
    model: Any = tokenizers.load("discrete", study.discrete, layout.tokenizer("discrete")).to(device)

    def decode(q: Tensor) -> Tensor:
        with autocast(device, study.generator.sampler.precision):  # in whichever thread decodes
            return wide(model.decode_tokens(q))

    return decode


def _model_of(study: Study, layout: Layout, run: str, seed: int, device: torch.device) -> MAR:
    return load_module(MAR.from_study(study, split(run)[0]), layout.weights(run, seed)).to(device)


def _latents(
    study: Study, model: MAR, sampler: Sampler, place: tuple[str, int], device: torch.device
) -> Callable[[int, Tensor, Tensor], Tensor]:
    """A function that draws latents of a batch. place: name and shard, which with its number seed the batch's noise."""

    @torch.inference_mode()
    def draw(number: int, q: Tensor, c: Tensor) -> Tensor:
        rng = torch.Generator(device).manual_seed(seed_of(study.evaluation.seed, *place, number))
        with autocast(device, sampler.precision):
            return finite(sample_latents(model, q.to(device), c.to(device), sampler, rng), "latents")

    return draw
