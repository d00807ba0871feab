"""A study of a few hundred parameters, and the files that its stages would have left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mixar.data.manifest import MANIFEST
from mixar.data.shards import write_shard
from mixar.study.layout import Layout
from mixar.study.load import parse_study
from mixar.study.sections import Study
from mixar.tokens import maskbit, vavae
from mixar.tokens.generator import BitTransformer
from mixar.weights import save_weights

NUM_IMAGES, NUM_HELD_OUT = 24, 4
TRAINING = {"epochs": 2, "batch_size": 8, "learning_rate": 0.1, "ema_decay": 0.5, "warmup_epochs": 0}
MIX = {"strategy": "dc_mix"}


def toy_study(root: Path, **changes) -> Study:
    """Grid 4, 8 channels, 4 bits; runs mar, mix and ti (mix with TI-Mix), more and other sections by `changes`."""
    pretrained = {"train": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3}}
    tokenizer = {"channels": 32, "multipliers": [1, 1], "num_res_blocks": 1, **pretrained}
    content = {
        "study": "toy",
        "title": "Toy",
        "data": {"source": "emoji", "path": "emoji.parquet", "image_size": 8, "num_classes": 3},
        "continuous": {**tokenizer, "latent_channels": 8, "attention_levels": []},
        "discrete": {**tokenizer, "bits": 4},
        "generator": {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16, "splits": 2, **pretrained},
        "models": {"s": {"width": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "buffer_size": 2,
                         "head_depth": 1, "head_width": 16}},
        "training": TRAINING,
        "samplers": {"default": {"num_iterations": 4, "head_steps": 4}},
        "runs": {
            "mar": {"label": "MAR", "model": "s", "seeds": [0, 1]},
            "mix": {"label": "DC-Mix", "model": "s", "guidance": MIX},
            "ti": {"label": "DC-Mix, TI-Mix", "model": "s", "guidance": MIX, "ti_mix": {}},
        },
        "evaluation": {"num_images": 6, "shard_size": 4, "batch_size": 3},
        "scoring": {"protocol": "emoji-gfd", "metrics": [], "extractor": {"network": "subgroup-cnn", **pretrained}},
        "measure": {"batch_size": 4, "train_steps": 2, "repeats": 2},
        "hardware": {"device": "cpu", "results": str(root)},
    }  # fmt: skip
    for section, value in changes.items():
        content[section] = {**content.get(section, {}), **value}
    content["runs"] = {name: {"label": name, **run} for name, run in content["runs"].items()}
    return parse_study(content)


def write_inputs(study: Study, channels: int = 8, num_tokens: int = 16) -> Layout:
    """The files of the stages before `train` and `sample`, with random contents."""
    layout, rng = Layout(study), np.random.default_rng(0)
    latents, tokens = (NUM_IMAGES, num_tokens, channels), (NUM_IMAGES, num_tokens)
    write_shard(
        layout.token_shard(0),
        {
            "latents": rng.normal(size=latents).astype(np.float16),
            "latents_flip": rng.normal(size=latents).astype(np.float16),
            "tokens": rng.integers(16, size=tokens).astype(np.uint16),
            "tokens_flip": rng.integers(16, size=tokens).astype(np.uint16),
            "labels": (np.arange(NUM_IMAGES) % 3).astype(np.int32),
            "index": np.arange(NUM_IMAGES),
            "held_out": (np.arange(NUM_IMAGES) < NUM_HELD_OUT).astype(np.uint8),
        },
        {"digest": "toy"},
    )
    for shard in range(2):
        write_shard(
            layout.generated_shard(shard),
            {
                "tokens": rng.integers(16, size=(4 - 2 * shard, 16)).astype(np.uint16),
                "labels": np.zeros(4 - 2 * shard, np.int32),
                "index": np.arange(4 * shard, 6 if shard else 4),
            },
            {},
        )
    rows = [
        {"split": "held_out" if i < NUM_HELD_OUT else "train", "index": i, "label": i % 3, "class_name": "abc"[i % 3]}
        for i in range(NUM_IMAGES)
    ]
    layout.manifest.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, MANIFEST), layout.manifest)
    write_networks(study, layout)
    return layout


def write_networks(study: Study, layout: Layout) -> None:
    """Untrained tokenizers and generator, and latent statistics that are not trivial."""
    torch.manual_seed(0)
    save_weights(layout.tokenizer("continuous"), vavae.VaVae(study.continuous).state_dict(), {})
    save_weights(layout.tokenizer("discrete"), maskbit.MaskBit(study.discrete).state_dict(), {})
    generator = BitTransformer(study.generator, study.discrete.bits, study.num_tokens, study.data.num_classes)
    save_weights(layout.generator, generator.state_dict(), {})
    channels = study.continuous.latent_channels
    save_weights(layout.statistics, {"mean": torch.ones(channels), "std": torch.full((channels,), 2.0)}, {})
