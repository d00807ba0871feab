"""A toy study of emoji up to the networks that `tokenize` takes."""

import torch
from toy_runs import toy_study

from mixar.stages.ingest import ingest
from mixar.study.layout import Layout
from mixar.tokens import maskbit, vavae
from mixar.tokens.generator import BitTransformer
from mixar.weights import save_weights

EMOJI = {"source": "emoji", "path": "resources/noto-emoji-32.parquet", "num_classes": 9, "limit": 30, "num_shards": 2}


def prepared(root, data=None, **changes):
    """The toy study on 30 emoji, ingested, with random networks whose posterior is almost a point."""
    study = toy_study(root, data={**EMOJI, **(data or {})}, **changes)
    layout = Layout(study)
    torch.manual_seed(0)
    continuous, discrete = vavae.VaVae(study.continuous), maskbit.MaskBit(study.discrete)
    continuous.quant_conv.bias.data[study.continuous.latent_channels :] = -30
    generator = BitTransformer(study.generator, study.discrete.bits, study.num_tokens, study.data.num_classes)
    save_weights(layout.tokenizer("continuous"), continuous.state_dict(), {})
    save_weights(layout.tokenizer("discrete"), discrete.state_dict(), {})
    save_weights(layout.generator, generator.state_dict(), {})
    channels = torch.arange(study.continuous.latent_channels)
    save_weights(layout.statistics, {"mean": 0.1 * channels, "std": 0.5 + channels}, {})
    ingest(study, layout)
    return study, layout
