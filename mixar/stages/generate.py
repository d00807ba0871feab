"""`generate`: the discrete tokens of the evaluation labels, drawn once and read by every run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mixar.data.selection import evaluation_labels
from mixar.data.shards import write_shard
from mixar.device import device_of
from mixar.process.failures import naming, needs_memory
from mixar.process.progress import Progress
from mixar.storage.files import file_sha256
from mixar.study.digests import Digests, seed_of
from mixar.study.layout import Layout
from mixar.study.names import check_shard
from mixar.study.sections import Study
from mixar.tokens.generator import load, sample_tokens


@needs_memory(lambda study, _, shard: (
    f"generate shard {shard}",
    f"Lower evaluation.batch_size, the images of a forward pass (now {study.evaluation.batch_size})",
))  # fmt: skip
def generate(study: Study, layout: Layout, shard: int) -> None:
    """Write layout.generated_shard(shard): the discrete tokens of its evaluation labels, drawn once for every run."""
    check_shard(study, shard)
    labels = evaluation_labels(study, layout)
    index = np.arange(len(labels))[shard * study.evaluation.shard_size :][: study.evaluation.shard_size]
    device = device_of(study)
    model = load(study, layout.generator).to(device)
    sampler, size, tokens = study.generator.sampler, study.evaluation.batch_size, []
    batches = [torch.from_numpy(labels[index[i : i + size]]).to(device) for i in range(0, len(index), size)]
    announce, steps = Progress(f"generate shard {shard}"), sampler.num_steps
    announce(0, len(batches) * steps)
    for number, c in enumerate(batches):
        rng = torch.Generator(device).manual_seed(seed_of(study.evaluation.seed, "generate", shard, number))

        def progress(step, _total, before=number * steps):
            announce(before + step, len(batches) * steps)

        with naming(f"generate shard {shard} batch {number}"):
            tokens.append(sample_tokens(model, c, sampler, rng, progress=progress).cpu())
    arrays: dict[str, Any] = {"tokens": torch.cat(tokens), "labels": labels[index], "index": index}
    metadata = {"digest": Digests(study).generate(), "shard": shard, "generator": file_sha256(layout.generator)}
    write_shard(layout.generated_shard(shard), arrays, metadata)
