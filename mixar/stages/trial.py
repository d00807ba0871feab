"""Code that a study brings, run once on random tensors: what would fail after hours of training fails in `check`.

A strategy is tried in a network of the study's widths with one block a half, a metric on features of the study's width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from mixar.model.decode import sample_latents
from mixar.model.layers import patchify
from mixar.model.mar import MAR
from mixar.scoring.metrics import FeatureSet, metric_of
from mixar.spec import Sampler, Study
from mixar.tokens import tokenizers

IMAGES = 2  # of a random batch
FEATURES = 400  # at most: random images of a side, where the study draws as many
INCEPTION_WIDTH, INCEPTION_CLASSES = 2048, 1008
FEW_STEPS = Sampler(num_iterations=2, head_steps=2, cfg=2.0)


@contextmanager
def _tried(what: str) -> Iterator[None]:
    """Errors of foreign code, whichever they are, as ValueError with what was tried; its random draws are undone."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    except Exception as error:  # whatever a foreign function does
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{error}") from error


def try_metric(study: Study, name: str) -> None:
    """Call a metric of the study's own on random features. Raises ValueError where it fails or is not finite."""
    scoring, where = study.scoring, study.scoring.own_metrics[name]
    metric = metric_of(name, scoring)
    small = scoring.extractor.network == "subgroup-cnn"
    width = 4 * scoring.extractor.channels if small else INCEPTION_WIDTH
    classes = max(2, study.data.num_classes) if small else INCEPTION_CLASSES
    count = min(FEATURES, study.evaluation.num_images)
    with _tried(f"scoring.own_metrics.{name} {where!r}, tried on random features [{count}, {width}]"):
        sample, reference = (_random_features(count, width, classes, study.data.num_classes) for _ in range(2))
        left = np.arange(count) % scoring.jackknife_groups != 0  # as the interval leaves images out
        for part in (sample, sample.take(left)):
            value = float(metric(part, reference, scoring))
            if not math.isfinite(value):
                raise ValueError(f"gave {value}; a result must be finite")


def _random_features(count: int, width: int, classes: int, labels: int) -> FeatureSet:
    index = np.arange(count)
    return FeatureSet(index, index % labels, torch.randn(count, width), torch.randn(count, classes))


def try_strategy(study: Study, run: str) -> None:
    """One training step and two drawing steps of a run whose strategy is the study's own.

    Raises ValueError where they fail, and for parameters without a gradient where several processes train: they would
    wait for it for ever.
    """
    r = study.runs[run]
    sizes = study.models[r.model].model_copy(update={"encoder_depth": 1, "decoder_depth": 1, "head_depth": 1})
    small = study.model_copy(update={"models": {**study.models, r.model: sizes}})
    strategy = study.guidance_table[r.guidance.strategy]
    with _tried(f"runs.{run}.guidance {strategy!r}, tried on random tokens"):
        model = MAR.from_study(small, run)
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(IMAGES, study.num_tokens, study.continuous.latent_channels)
        q = torch.randint(2**study.discrete.bits, (IMAGES, study.num_tokens))
        missing = torch.arange(study.num_tokens) < math.ceil(0.75 * study.num_tokens)
        c, drop = torch.zeros(IMAGES, dtype=torch.long), torch.arange(IMAGES) == 0
        loss = model(x, q, missing.expand(IMAGES, -1), c, drop, rng)
        _check_loss(loss)
        loss.backward()
        unused = [name for name, p in model.guidance.named_parameters() if p.requires_grad and p.grad is None]
        if unused and study.hardware.gpus > 1:
            raise ValueError(f"no gradient for {', '.join(unused)}; distributed training needs one for each parameter")
        drawn = sample_latents(model.eval(), q, c, FEW_STEPS, rng)
        if drawn.shape != x.shape:
            raise ValueError(f"drew latents {list(drawn.shape)}, expected {list(x.shape)}")


def try_tokenizer(study: Study, kind: str) -> None:
    """Encode and decode random images with a tokenizer of the study's own, with a training step where it is trained.

    Raises ValueError where that fails, or gives other shapes, ranges or types than the study says.
    """
    settings, side = getattr(study, kind), study.data.image_size
    network = tokenizers.build(kind, settings)
    with _tried(f"{kind}.network {settings.network!r}, tried on random images of {side} pixels"):
        images = torch.rand(IMAGES, 3, side, side)
        with torch.no_grad():
            decoded = TRIALS[kind](network.eval(), images, study)
        if decoded.shape != images.shape:
            raise ValueError(f"decoded images are {list(decoded.shape)}, expected {list(images.shape)}")
        if settings.train:
            found = network.train().training_loss(images, settings.train, torch.Generator().manual_seed(0))
            if not isinstance(found, dict) or "loss" not in found:
                raise ValueError("training_loss must give a dict that has 'loss'")
            _check_loss(found["loss"])
            found["loss"].backward()


def _try_continuous(network: nn.Module, images: Tensor, study: Study) -> Tensor:
    mean, log_variance = network.encode(2 * images - 1)
    if mean.shape != log_variance.shape or mean.dim() != 4:
        shapes = f"{list(mean.shape)} and {list(log_variance.shape)}"
        raise ValueError(f"encode gave {shapes}, expected a mean and a log variance [B, C, h, w]")
    none = torch.zeros(IMAGES, study.num_tokens, dtype=torch.long)
    sizes = study.num_tokens, study.continuous.latent_channels, study.discrete.bits
    tokenizers.check_tokens(patchify(mean), none, *sizes)
    return network.decode(mean)


def _try_discrete(network: nn.Module, images: Tensor, study: Study) -> Tensor:
    q = network.tokens(images)
    channels = study.continuous.latent_channels
    none = torch.zeros(IMAGES, study.num_tokens, channels)
    tokenizers.check_tokens(none, q, study.num_tokens, channels, study.discrete.bits)
    return network.decode_tokens(q)


TRIALS = {"continuous": _try_continuous, "discrete": _try_discrete}


def _check_loss(loss: object) -> None:
    if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad):
        raise ValueError("the loss must be a tensor of one number with a gradient")
    if not loss.isfinite():
        raise ValueError(f"the loss is {loss.item()}")
