"""`check`: can a study run? Looks at its protocols, networks, data, device, custom code and files before any job.

mixar.study validates the settings themselves; the checks here need torch or open files. Missing files are reported
separately, because a dry run works without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from mixar import released
from mixar.assets.check import locate, resolve
from mixar.data.manifest import count_images
from mixar.model.mar import MAR
from mixar.reporting.claims import compared_runs, inequality
from mixar.scoring.catalogue import shortages
from mixar.scoring.extractors import load_extractor, load_further
from mixar.scoring.networks.subgroup_cnn import build_network
from mixar.scoring.protocols import PROTOCOLS, protocol_of
from mixar.scoring.values import metrics_of
from mixar.study import external
from mixar.study.choices import is_own
from mixar.study.names import KINDS
from mixar.study.sections import Study, Training
from mixar.tokens import tokenizers
from mixar.tokens.generator import BitTransformer
from mixar.tokens.latents import read_statistics
from mixar.trial import (
    try_extractor,
    try_metric,
    try_optimizer,
    try_schedule,
    try_source,
    try_strategy,
    try_tokenizer,
)
from mixar.weights import differences, misfit, read_weights


def problems(study: Study, elsewhere: bool = False, warn: Callable[[str], None] = print) -> list[str]:
    """What would stop the study later: an unknown protocol, a network that cannot be built, an unfit file, custom code
    that fails, too few data or other classes, a missing GPU.

    elsewhere: the jobs run on other machines, so that this one needs no GPU. warn: called with what may be a problem.
    Files that are not there are left to `external.missing`.
    """
    looks: list[Callable[[], object]] = [partial(protocol_of, study, source) for source in ("sample", *KINDS)]
    looks += [partial(_look_at_network, *part) for part in _networks(study)]
    looks += [partial(_look_at_statistics, study), partial(_look_at_extractor, study)]
    looks += [partial(_look_at_further, study)]
    looks += [partial(try_metric, study, name, warn) for name in study.scoring.own_metrics]
    looks += [partial(try_schedule, study, name) for name, run in study.runs.items()
              if run.ti_mix and is_own(run.ti_mix.schedule)]  # fmt: skip
    looks += [partial(try_optimizer, *training) for training in _trainings(study) if is_own(training[1].optimizer)]
    for ours, theirs in compared_runs(study):
        if unequal := inequality(study, ours, theirs):
            warn(f"report: the compared runs {ours!r} and {theirs!r} differ: {unequal}; their claim will not be judged")
    found = [message for look in looks if (message := _message(look))]
    found += [] if elsewhere else _gpu_problems(study)
    found += _data_problems(study)
    return list(dict.fromkeys(found))  # both protocols of a study may have one problem


def _message(look: Callable[[], object]) -> str | None:
    try:
        look()
    except ValueError as error:
        return str(error)
    return None


# Networks and code


def _networks(study: Study) -> Iterator[tuple]:
    """Arguments of `_look_at_network` for every network of the study."""
    g, sizes = study.generator, (study.discrete.bits, study.num_tokens, study.data.num_classes)
    for kind in ("continuous", "discrete"):
        s = getattr(study, kind)
        file = None if is_own(s.network) else released.tokenizer_kind(s)
        trial = partial(try_tokenizer, study, kind) if is_own(s.network) else None
        yield kind, file, partial(tokenizers.build, kind, s), [s.weights], trial
    yield "generator", "maskbit-generator", partial(BitTransformer, g, *sizes), [g.weights], None
    tried = []  # runs may share a strategy, its options, their sizes and precisions: one trial tells
    for run, settings in study.runs.items():
        pattern = settings.start or settings.weights or ""
        files = dict.fromkeys(pattern.format(seed=seed) for seed in settings.seeds)
        precisions = study.training_of(run).precision, {study.samplers[name].precision for name in settings.samplers}
        guided, trial = (settings.guidance, study.models[settings.model], precisions), None
        if is_own(settings.guidance.strategy) and guided not in tried:
            tried.append(guided)
            trial = partial(try_strategy, study, run)
        yield f"runs.{run}", "mar", partial(MAR.from_study, study, run), files, trial


def _look_at_network(
    where: str,
    kind: str | None,
    build: Callable[[], nn.Module],
    files: Iterable[str | None],
    trial: Callable[[nn.Module], None] | None,
) -> None:
    """Raise ValueError if a network cannot be built, an existing weights file does not fit it, or its trial fails.

    where: the network's section in the study. kind: the kind of its released file; None for a custom network. trial:
    is given the network.
    """
    try:
        with torch.device("meta" if kind else "cpu"):  # a custom tokenizer may need real tensors to be built
            network = build()
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    except (RuntimeError, MemoryError) as error:  # what torch raises for a size that no tensor has
        reason = str(error).partition("\n")[0]
        if kind is None:
            raise ValueError(f"{where}: the network cannot be built: {type(error).__name__}: {reason}") from None
        raise ValueError(f"{where}: no network can have these sizes ({reason}); use smaller ones") from None
    for path in (resolve(file) for file in files if file and locate(file).exists()):
        if kind:
            state = released.read_state(kind, path, values=False)
            found = [*state.problems, *differences(state.tensors, network, values=False)]
        else:
            found = differences(read_weights(path), network, values=False)
        if found:
            raise ValueError(f"{where}: {path} {misfit(network, found)}")
    if trial:
        trial(network)


def _look_at_statistics(study: Study) -> None:
    file = study.continuous.statistics
    if file and locate(file).exists():
        read_statistics(resolve(file), study.continuous.latent_channels)


def _look_at_extractor(study: Study) -> None:
    settings = study.scoring.extractor
    if settings.weights is None:
        build = partial(build_network, settings, study.data.num_classes, study.data.image_size)
        _look_at_network("scoring.extractor", settings.network, build, [], None)
    elif locate(settings.weights).exists():
        extractor = load_extractor(settings, resolve(settings.weights))
        if is_own(settings.network):
            try_extractor("scoring.extractor.network", extractor, study.data.image_size, layers=2)


def _look_at_further(study: Study) -> None:
    """Networks of the study's own beside the protocol's; the others are looked at when their files are fetched."""
    for name, value in study.scoring.further.items():
        if is_own(name) and locate(value).exists():
            try_extractor("scoring.further", load_further(name, resolve(value)), study.data.image_size, layers=1)


# Data and device


def _gpu_problems(study: Study) -> list[str]:
    h, there = study.hardware, torch.cuda.device_count() if torch.cuda.is_available() else 0
    advice = "give --elsewhere where the jobs run on other machines"
    if h.device == "cuda" and not there:
        return [f"hardware.device: 'cuda', but no GPU is visible here; use 'auto' or 'cpu', or {advice}"]
    trained = [name for name, run in study.runs.items() if run.weights is None]
    needed = {name: study.hardware_of(name).gpus_per_node for name in trained}
    return [
        f"{key}: {gpus} GPUs per node, but {there} are visible here; lower gpus, or {advice}"
        for key, gpus in {_key_of_gpus(study, name): gpus for name, gpus in needed.items()}.items()
        if gpus > there
    ]


def _key_of_gpus(study: Study, run: str) -> str:
    return f"hardware.runs.{run}.gpus" if {"gpus", "nodes"} & set(study.hardware.runs.get(run, {})) else "hardware.gpus"


def _data_problems(study: Study) -> list[str]:
    data = study.data
    if any(key.startswith("data.") for key in external.missing(study)):
        return []
    try:
        if is_own(data.source):
            try_source(data)
        return list(_size_problems(study, **count_images(data)))
    except (ValueError, OSError) as error:
        return [str(error)]


def _trainings(study: Study) -> Iterator[tuple[str, Training]]:
    """Every training of the study, and the section that holds its batch size."""
    sections: list[tuple[str, Any]] = [
        ("continuous", study.continuous),
        ("discrete", study.discrete),
        ("generator", study.generator),
    ]
    for where, section in [*sections, ("scoring.extractor", study.scoring.extractor)]:
        if section.weights is None and section.train:
            yield f"{where}.train", section.train
    for name, run in study.runs.items():
        if run.weights is None:
            yield f"runs.{name}.training" if "batch_size" in run.training else "training", study.training_of(name)


def _size_problems(study: Study, train: int, held_out: int) -> Iterator[str]:
    """Settings that ask for more images than the data have. train, held_out: images of the splits."""
    for where, settings in _trainings(study):
        if settings.batch_size > train:
            yield f"{where}.batch_size: {settings.batch_size}, but there are only {train:,} training images; lower it"
    s, source = study.scoring, PROTOCOLS.get(study.scoring.protocol)
    reference = min(train, (source and source.reference_images) or train)
    named = set()  # precision and recall lack the same images
    for metric, minimum, _ in shortages(metrics_of(s), s, study.evaluation.num_images, reference):
        if minimum.key not in named:
            named.add(minimum.key)
            yield (
                f"scoring.{minimum.key}: {metric.name!r} needs {minimum.needed(s)} reference images, but there are "
                f"{reference:,}; {minimum.advice}"
            )
    if study.data.num_shards > held_out:
        yield f"data.num_shards: {study.data.num_shards} shards for {held_out:,} held-out images; ask for fewer"
    if s.jackknife_groups > held_out:
        yield (
            f"scoring.jackknife_groups: {s.jackknife_groups}, but there are only {held_out:,} held-out images to score "
            "reconstructions with; lower it"
        )
