"""`generate`: the discrete tokens of the evaluation labels, drawn once and read by every run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mixar.data.selection import evaluation_labels
from mixar.data.shards import write_shard
from mixar.device import autocast, device_of
from mixar.process.failures import naming, needs_memory
from mixar.process.progress import Progress
from mixar.storage.files import file_sha256
from mixar.study.arguments import check_shard
from mixar.study.digests import Digests, seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.tokens.generator import load, sample_tokens


@needs_memory(lambda study, _, shard: (
    f"generate shard {shard}",
    f"Lower evaluation.batch_size, the images of a forward pass (now {study.evaluation.batch_size})",
))  # fmt: skip
def generate(study: Study, layout: Layout, shard: int) -> None:
    """Write layout.generated_shard(shard): the discrete tokens of its evaluation labels, drawn once for every run."""
    check_shard(study, shard)
    path, labels = layout.generated_shard(shard), evaluation_labels(study, layout)
    _generate(study, layout, path, labels, shard, "generate", Digests(study).generate())


@needs_memory(lambda study, _, num_images, shard: (
    f"generate for sweeps shard {shard}",
    f"Lower evaluation.batch_size, the images of a forward pass (now {study.evaluation.batch_size})",
))  # fmt: skip
def generate_for_sweep(study: Study, layout: Layout, num_images: int, shard: int) -> None:
    """Write layout.generated_for_sweep(num_images, shard): tokens for the runs' sweeps of so many images, from draws
    that the evaluation's tokens do not use. Raises ValueError where no run has such a sweep, or no such shard."""
    sizes = sorted({sweep.num_images for sweep in study.sweeps.values()})
    if num_images not in sizes:
        has = f"the study's have {', '.join(map(str, sizes))}" if sizes else "the study has none"
        raise ValueError(f"--sweep: no run has a sweep of {num_images} images; {has}")
    check_shard(study, shard, num_images)
    path, labels = layout.generated_for_sweep(num_images, shard), evaluation_labels(study, layout, num_images)
    settings = Digests(study).generate_for_sweep(num_images)
    _generate(study, layout, path, labels, shard, "generate for sweeps", settings)


def _generate(
    study: Study, layout: Layout, path: Path, labels: np.ndarray, shard: int, name: str, settings: str
) -> None:
    """Draw the tokens of one shard of labels. name: of the draws, whose seeds it enters."""
    index = np.arange(len(labels))[shard * study.evaluation.shard_size :][: study.evaluation.shard_size]
    device = device_of(study)
    model = load(study, layout.generator).to(device)
    sampler, size, tokens = study.generator.sampler, study.evaluation.batch_size, []
    batches = [torch.from_numpy(labels[index[i : i + size]]).to(device) for i in range(0, len(index), size)]
    announce, steps = Progress(f"{name} shard {shard}"), sampler.num_steps
    announce(0, len(batches) * steps)
    for number, c in enumerate(batches):
        rng = torch.Generator(device).manual_seed(seed_of(study.evaluation.seed, name, shard, number))

        def progress(step, _total, before=number * steps):
            announce(before + step, len(batches) * steps)

        with naming(f"{name} shard {shard} batch {number}"), autocast(device, sampler.precision):
            tokens.append(sample_tokens(model, c, sampler, rng, progress=progress).cpu())
    arrays: dict[str, Any] = {"tokens": torch.cat(tokens), "labels": labels[index], "index": index}
    metadata = {"digest": settings, "shard": shard, "generator": file_sha256(layout.generator)}
    write_shard(path, arrays, metadata)
