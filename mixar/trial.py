"""A study's custom code, run once on random tensors, so that it fails in `check` and not after hours of training.

A strategy is tried in a network of the study's widths with one block a half, a metric on features of the study's width;
networks in the precisions that the study trains and draws in.
Code that changes its inputs is refused, because they are used afterwards.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixar.data.sources import Original, read_source
from mixar.device import autocast
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.model.patches import patchify
from mixar.model.ti_mix import guidance_rate
from mixar.scoring.catalogue import network_of
from mixar.scoring.extractors import Extractor
from mixar.scoring.features import FeatureSet, InputChangedError, inputs_kept
from mixar.study import choices
from mixar.study.inventory import listed
from mixar.study.sections import Data, Sampler, Scoring, Study, Training
from mixar.tokens import tokenizers
from mixar.tokens.norms import wide
from mixar.training.optim import build_optimizer

IMAGES = 2  # of a random batch
STEPS = 100  # of a schedule along a run
IMAGES_A_FEATURE = 2  # of a side, so that a covariance has an inverse
FEW_SUBSETS = 2  # of the kernel distance: the trial asks whether it works, and 100 take a minute
MOST_IMAGES = 20_000  # of a side; 160 MB of Inception features
# Errors of code that would fail for any number of images.
SLIPS = (AttributeError, ImportError, KeyError, NameError, NotImplementedError, OSError, TypeError, SystemExit)
INCEPTION_WIDTH, INCEPTION_CLASSES = 2048, 1008
CPU = torch.device("cpu")
Trial = tuple[Callable[[Tensor], Tensor], Tensor]  # a decoder, and codes for it
FEW_STEPS = Sampler(num_iterations=2, head_steps=2, cfg=2.0)


@contextmanager
def _tried(key: str, name: str, on: str = "") -> Iterator[None]:
    """Errors of foreign code, whichever they are, as ValueError; its random draws are undone.

    key, name: the study's key and the "module:name" it holds; begin the message, once. on: what it was tried on.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    except choices.CAUGHT as error:
        said = isinstance(error, ValueError) and str(error) or choices.in_words(error)
        what = f"{key} {name!r}" + (f", tried on {on}" if on else "")
        raise ValueError(f"{what}: {said.partition(f'{name!r}: ')[2] or said}") from error


@contextmanager
def _left_alone(**tensors: Tensor) -> Iterator[None]:
    """Raise ValueError naming a tensor that the body changes in place."""
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    yield
    for name, tensor in tensors.items():
        if not torch.equal(tensor, before[name]):
            raise ValueError(f"changes its input {name} in place, which is used afterwards; use {name}.clone()")


def try_metric(study: Study, name: str, warn: Callable[[str], None]) -> None:
    """Call a metric of the study's own on random features. Raises ValueError where it fails, is not finite, or changes
    the features.

    Where the study draws more images than are tried here, a failure that may come from their number goes to `warn`.
    """
    where = study.scoring.own_metrics[name]
    metric = choices.METRICS.load_function(where)
    scoring = study.scoring.model_copy(update={"kid_subsets": min(study.scoring.kid_subsets, FEW_SUBSETS)})
    width, classes = _feature_sizes(study)
    enough = _enough_images(scoring, width)
    count = min(enough, study.evaluation.num_images)
    try:
        with _tried("scoring.metrics", where, f"random features [{count}, {width}]"):
            sample, reference = (_random_features(n, width, classes, study.data.num_classes) for n in (count, enough))
            left = np.arange(count) % scoring.jackknife_groups != 0  # as the interval leaves images out
            with inputs_kept(where, sample, reference):
                for part in (sample, sample.take(left)):
                    value = _number(metric(part, reference, scoring))
                    if not math.isfinite(value):
                        raise ValueError(f"gave {value}; a result must be finite")
    except ValueError as error:
        if count == study.evaluation.num_images or isinstance(error.__cause__, (*SLIPS, InputChangedError)):
            raise
        warn(f"{error} (the study draws {study.evaluation.num_images:,} images: it may succeed there)")


def _feature_sizes(study: Study) -> tuple[int, int]:
    """Features and logits that a metric is tried with; for a network of the study's own those of Inception."""
    network = network_of(study.scoring.extractor.network)
    if network.is_trainable:
        return 4 * study.scoring.extractor.channels, max(2, study.data.num_classes)
    return network.width or INCEPTION_WIDTH, INCEPTION_CLASSES


def try_extractor(key: str, extractor: Extractor, image_size: int, layers: int) -> None:
    """Features of random images by a network of the study's own, which its file is given to.

    key: of the study. layers: 2 for features and logits, 1 for features. Raises ValueError where that fails.
    """
    with _tried(key, extractor.name, f"random images of {image_size} pixels"):
        images = torch.randint(256, (IMAGES, 3, image_size, image_size), dtype=torch.uint8)
        with torch.no_grad(), _left_alone(images=images):
            outputs = extractor.module.eval()(images)
        shapes = [list(part.shape) for part in outputs] if isinstance(outputs, tuple) else type(outputs).__name__
        if (
            not isinstance(outputs, tuple)
            or len(outputs) < layers
            or any(len(s) != 2 or s[0] != IMAGES for s in shapes)
        ):
            expected = "(features [B, F], logits [B, V])" if layers == 2 else "(features [B, F],)"
            raise ValueError(f"returned {shapes}; expected {expected}")


def try_source(data: Data) -> None:
    """List the first images of a source of the study's own. Raises ValueError where that fails."""
    with _tried("data.source", data.source):
        for item in itertools.islice(read_source(data.source, listed(data, "path"), "data.path").items, IMAGES):
            original, content = item
            if not isinstance(original, Original) or not (content is None or isinstance(content, bytes)):
                raise ValueError("items must be pairs of an Original and its bytes, or None for a file of its own")


def try_schedule(study: Study, run: str) -> None:
    """λ of a schedule of the study's own, along a run. Raises ValueError where it fails, rises or leaves [0, 1]."""
    ti_mix = study.runs[run].ti_mix
    assert ti_mix is not None, run
    with _tried(f"runs.{run}.ti_mix.schedule", ti_mix.schedule):
        rates = [guidance_rate(ti_mix, step / STEPS) for step in range(STEPS + 1)]
        rises = [step for step in range(STEPS) if rates[step + 1] > rates[step] + 1e-9]
        if rises:
            before, after = rates[rises[0]], rates[rises[0] + 1]
            raise ValueError(f"λ rises from {before:g} to {after:g} at {rises[0]} % of the run; it must fall (Eq. 12)")


def try_optimizer(where: str, settings: Training) -> None:
    """Three steps of an optimizer of the study's own, on a small network; where: the section that names it.

    Raises ValueError where they fail, change nothing, or the state cannot be saved and loaded as a checkpoint does.
    """
    with _tried(f"{where}.optimizer", settings.optimizer, "a small network"):
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 4))
        before = [p.detach().clone() for p in network.parameters()]
        optimizer = build_optimizer(network, settings)
        for _ in range(3):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3
            optimizer.zero_grad()
            network(torch.randn(IMAGES, 3, 4, 4)).square().mean().backward()
            optimizer.step()
        after = list(network.parameters())
        if not all(p.isfinite().all() for p in after):
            raise ValueError("parameters are not finite after three steps")
        if all(torch.equal(p, q) for p, q in zip(before, after, strict=True)):
            raise ValueError("three steps change no parameter; the loop sets the learning rate of each group")
        build_optimizer(network, settings).load_state_dict(optimizer.state_dict())


def _enough_images(scoring: Scoring, width: int) -> int:
    """Images that suffice for a metric with the study's own settings, also with one group of the jackknife left out."""
    needed = max(scoring.kid_subset_size, scoring.neighbours + 1, scoring.is_splits, IMAGES_A_FEATURE * width)
    return min(MOST_IMAGES, math.ceil(needed * scoring.jackknife_groups / (scoring.jackknife_groups - 1)))


def _number(result: Any) -> float:
    try:
        return float(result)
    except Exception as error:
        raise TypeError(f"gave a {type(result).__name__}, not a number ({error})") from None


def _random_features(count: int, width: int, classes: int, labels: int) -> FeatureSet:
    """Features are non-negative, like those of the feature networks, which are averages after a ReLU."""
    index = np.arange(count)
    features = FeatureSet(index, index % labels, torch.randn(count, width).abs(), torch.randn(count, classes))
    _ = features.moments  # other metrics share these, too, once they are known
    return features


def try_strategy(study: Study, run: str, _network: nn.Module) -> None:
    """One training step and two drawing steps of a run whose strategy is the study's own, in a network of one block.

    Raises ValueError where they fail, and for parameters without a gradient where several processes train: they would
    wait for it forever.
    """
    r = study.runs[run]
    sizes = study.models[r.model].model_copy(update={"encoder_depth": 1, "decoder_depth": 1, "head_depth": 1})
    small = study.model_copy(update={"models": {**study.models, r.model: sizes}})
    key, name, trained = f"runs.{run}.guidance.strategy", r.guidance.strategy, study.training_of(run).precision
    with _tried(key, name, f"random tokens{_in(trained)}"):
        model = MAR.from_study(small, run)
        rng = torch.Generator().manual_seed(0)
        x = torch.randn(IMAGES, study.num_tokens, study.continuous.latent_channels)
        q = torch.randint(2**study.discrete.bits, (IMAGES, study.num_tokens))
        missing = torch.arange(study.num_tokens) < math.ceil(0.75 * study.num_tokens)
        c, drop = torch.zeros(IMAGES, dtype=torch.long), torch.arange(IMAGES) == 0
        with _left_alone(x=x, q=q, c=c):
            with autocast(CPU, trained):
                loss = model(x, q, missing.expand(IMAGES, -1), c, drop, rng)
            _check_loss(loss)
            loss.backward()
        unused = [name for name, p in model.guidance.named_parameters() if p.requires_grad and p.grad is None]
        if unused and study.hardware_of(run).processes > 1:
            raise ValueError(f"no gradient for {', '.join(unused)}; distributed training needs one for each parameter")
    for precision in dict.fromkeys(study.samplers[sampler].precision for sampler in r.samplers):
        with _tried(key, name, f"random tokens{_in(precision)}"):
            with _left_alone(q=q, c=c), autocast(CPU, precision):
                drawn = sample_latents(model.eval(), q, c, FEW_STEPS, rng)
            if drawn.shape != x.shape:
                raise ValueError(f"drew latents {list(drawn.shape)}, expected {list(x.shape)}")


def _in(*precisions: str) -> str:
    """Names bfloat16 where a trial has it; float32 goes without saying."""
    return " in bfloat16" if "bfloat16" in precisions else ""


def try_tokenizer(study: Study, kind: str, network: Any) -> None:
    """Encode and decode random images with a tokenizer of the study's own, with a training step where it is trained.

    Raises ValueError where that fails, or gives other shapes, ranges or types than the study says.
    """
    settings, side = getattr(study, kind), study.data.image_size
    precisions = [settings.precision, *DECODED_IN[kind](study), *([settings.train.precision] if settings.train else [])]
    with _tried(f"{kind}.network", settings.network, f"random images of {side} pixels{_in(*precisions)}"):
        images = torch.rand(IMAGES, 3, side, side)
        with torch.no_grad(), _left_alone(images=images):
            with autocast(CPU, settings.precision):
                decode, codes = TRIALS[kind](network.eval(), images, study)
            for precision in dict.fromkeys([settings.precision, *DECODED_IN[kind](study)]):
                with autocast(CPU, precision):
                    decoded = decode(codes)
                if decoded.shape != images.shape:
                    raise ValueError(f"decoded images are {list(decoded.shape)}, expected {list(images.shape)}")
        if settings.train:
            with _left_alone(images=images), autocast(CPU, settings.train.precision):
                found = network.train().training_loss(images, settings.train, torch.Generator().manual_seed(0))
            if not isinstance(found, dict) or "loss" not in found:
                raise ValueError("training_loss must give a dict that has 'loss'")
            _check_loss(found["loss"])
            found["loss"].backward()


def _try_continuous(network: Any, images: Tensor, study: Study) -> Trial:
    mean, log_variance = network.encode(2 * images - 1)
    if mean.shape != log_variance.shape or mean.dim() != 4:
        shapes = f"{list(mean.shape)} and {list(log_variance.shape)}"
        raise ValueError(f"encode gave {shapes}, expected a mean and a log variance [B, C, h, w]")
    none = torch.zeros(IMAGES, study.num_tokens, dtype=torch.long)
    sizes = study.num_tokens, study.continuous.latent_channels, study.discrete.bits
    tokenizers.check_tokens(patchify(wide(mean)), none, *sizes)
    return network.decode, wide(mean)


def _try_discrete(network: Any, images: Tensor, study: Study) -> Trial:
    q = network.tokens(images)
    channels = study.continuous.latent_channels
    none = torch.zeros(IMAGES, study.num_tokens, channels)
    tokenizers.check_tokens(none, q, study.num_tokens, channels, study.discrete.bits)
    return network.decode_tokens, q


TRIALS = {"continuous": _try_continuous, "discrete": _try_discrete}
# Precisions in which a tokenizer decodes what was drawn.
DECODED_IN: dict[str, Callable[[Study], list[str]]] = {
    "continuous": lambda study: [sampler.precision for sampler in study.samplers.values()],
    "discrete": lambda study: [study.generator.sampler.precision],
}


def _check_loss(loss: object) -> None:
    if not (isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad):
        raise ValueError("the loss must be a tensor of one number with a gradient")
    if not loss.isfinite():
        raise ValueError(f"the loss is {loss.item()}")
