"""`check`: whether a study can run, before anything does: its protocols, networks, metrics and the files that it names.

The study alone is validated by mixar.spec. Here stands what needs torch or opens files; missing files are told apart,
for a plan can be made without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import nn

from mixar import assets
from mixar.model.mar import MAR
from mixar.scoring.features import load_network
from mixar.scoring.metrics import metric_of
from mixar.scoring.protocols import protocol_of
from mixar.spec import Study
from mixar.tokens import pretrained, tokenizers
from mixar.tokens.generator import BitTransformer
from mixar.weights import differences, misfit, read_weights


def problems(study: Study) -> list[str]:
    """What would stop the study later, each in words: a protocol, a network that cannot be built, an unfit file,
    a metric of its own that cannot be loaded.

    Files that are not there are left to `assets.missing`.
    """
    looks = [partial(protocol_of, study, source) for source in ("sample", "reconstruct")]
    looks += [partial(_look_at_network, *part) for part in _networks(study)]
    looks += [partial(_look_at_extractor, study)]
    looks += [partial(metric_of, name, study.scoring) for name in study.scoring.own_metrics]
    return [message for look in looks if (message := _message(look))]


def _message(look: Callable[[], object]) -> str | None:
    try:
        look()
    except ValueError as error:
        return str(error)
    return None


def _networks(study: Study) -> Iterator[tuple[str, str | None, Callable[[], nn.Module], Iterable[str | None]]]:
    """Where each network stands in the study, its kind of released file (None: a network of one's own), what builds it,
    and the files that must fit it."""
    g, sizes = study.generator, (study.discrete.bits, study.num_tokens, study.data.num_classes)
    for kind in ("continuous", "discrete"):
        s = getattr(study, kind)
        file = None if s.network else pretrained.tokenizer_kind(s)
        yield kind, file, partial(tokenizers.build, kind, s), [s.weights]
    yield "generator", "maskbit-generator", partial(BitTransformer, g, *sizes), [g.weights]
    for run, settings in study.runs.items():
        pattern = settings.start or settings.weights or ""
        files = dict.fromkeys(pattern.format(seed=seed) for seed in settings.seeds)
        yield f"runs.{run}", "mar", partial(MAR.from_study, study, run), files


def _look_at_network(where: str, kind: str | None, build: Callable[[], nn.Module], files: Iterable[str | None]) -> None:
    """Raise ValueError where the network cannot be built, or one of its files that are there does not fit it."""
    try:
        with torch.device("meta" if kind else "cpu"):  # one's own tokenizer may need real tensors to be built
            network = build()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    except (RuntimeError, MemoryError) as error:  # what torch raises for a size that no tensor has
        if kind is None:  # a network of one's own: its traceback tells more
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{where}: no network can have these sizes ({reason}); use smaller ones") from None
    for path in (assets.resolve(file) for file in files if file and assets.locate(file).exists()):
        if kind:
            state = pretrained.read_state(kind, path, values=False)
            found = [*state.problems, *differences(state.tensors, network, values=False)]
        else:
            found = differences(read_weights(path), network, values=False)
        if found:
            raise ValueError(f"{where}: {path} {misfit(network, found)}")


def _look_at_extractor(study: Study) -> None:
    settings = study.scoring.extractor
    if settings.weights and assets.locate(settings.weights).exists():
        load_network(settings, assets.resolve(settings.weights))
