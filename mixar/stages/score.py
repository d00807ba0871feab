"""`score`: the features of a run's samples, or of a tokenizer's reconstructions, to scores with intervals.

The features of all shards are merged by image index, so neither their order nor the jobs that made them matter.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mixar.assets.check import require, resolve
from mixar.data.manifest import SPLITS, count_rows
from mixar.data.selection import reference_rows
from mixar.failures import needs_memory
from mixar.files import file_sha256
from mixar.reporting.results import make_rows, write_rows
from mixar.scoring.files import PSNR, Scored, check_fresh, read_features
from mixar.scoring.protocols import Protocol, distance_name, protocol_of, row_id, with_ids
from mixar.scoring.reference import hash_of, other_data_of, read_reference, reference_of, roots_of
from mixar.scoring.statistics import load_statistics
from mixar.scoring.values import further_hashes, further_values, reconstruction_values, sample_values
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.study.names import MASKBIT, check_drawn, check_kind
from mixar.study.sections import Study
from mixar.weights import read_metadata


@needs_memory(lambda _, layout, source, run, seed=None, sampler=None: (
    f"score {source} {run} {'' if seed is None else f'seed {seed} {sampler}'}".strip(),
    "Leave out metrics of scoring.metrics, or lower scoring.jackknife_groups",
))  # fmt: skip
def score(
    study: Study, layout: Layout, source: str, run: str, seed: int | None = None, sampler: str | None = None
) -> None:
    """Write layout.scores(source, run, seed, sampler): one row per metric, with n, protocol and a 95 % interval.

    source 'sample': run is a run of the study or 'maskbit', with seed and sampler; 'reconstruct': 'continuous' or
    'discrete', with neither.
    Raises ValueError for unknown names, incomplete or mixed features, and too few images, before anything is computed.
    """
    if source not in SOURCES:
        raise ValueError(f"source {source!r} is unknown; choose from {', '.join(SOURCES)}")
    protocol = protocol_of(study, source if source == "sample" else run)
    require(protocol.statistics, *study.scoring.further_statistics.values())
    values, scored, hashes = SOURCES[source](study, layout, protocol, run, seed, sampler)
    hashes |= {"extractor": scored.header["sha256"], "extractor_name": scored.header["extractor"]}
    other_data = other_data_of(study, protocol, hashes["data"], count_rows(layout.manifest))
    identity = row_id(protocol, study, hashes["extractor"], len(scored.features), other_data=other_data)
    digests = Digests(study)
    rows = make_rows(
        study,
        run,
        source=source,
        values=with_ids(values, identity, hashes, digests.metric_code()),
        seed=seed,
        sampler=sampler,
        digest=digests.score() if source == "sample" else digests.score_reconstruction(),
        device="cpu",
        hashes=hashes,
    )
    write_rows(layout.scores(source, run, seed, sampler), rows)
    name = distance_name(identity, hashes["extractor_name"], study.study)
    print(f"score {run} (fd = {name}, n = {len(scored.features)}, {identity})")
    for v in values:
        print(f"  {v['metric']:<12} {v['value']:10.4f}   [{v['low']:.4f}, {v['high']:.4f}] {v['unit'] or ''}".rstrip())


def _score_samples(study: Study, layout: Layout, protocol: Protocol, run: str, seed, sampler: str):
    check_drawn(study, run, seed, sampler)
    shards = range(study.evaluation.num_shards)
    scored = _read_fresh(layout, [layout.samples(run, seed, sampler, i) for i in shards])
    _check_complete(scored.features.index, np.arange(study.evaluation.num_images), f"samples of {run!r}")
    references = {split: _reference(study, layout, split) for split in SPLITS}
    for split, reference in references.items():
        _check_same_network(scored, reference, f"the {split} reference")
    train, held_out = (references[split].features for split in SPLITS)
    hashes = {"reference": hash_of(train), "reference_held_out": hash_of(held_out)}
    hashes["data"] = references["train"].images[0]
    if protocol.statistics:
        path = resolve(protocol.statistics)
        train, hashes["statistics"] = train.standing_for(load_statistics(path)), file_sha256(path)
    train, held_out = (reference.keeping_root_in(roots_of(layout)) for reference in (train, held_out))
    if run != MASKBIT and layout.weights(run, seed).is_file():
        hashes["weights"] = file_sha256(layout.weights(run, seed))
        if changed := read_metadata(layout.weights(run, seed)).get("changed"):
            hashes["changed"] = changed
    values = sample_values(study.scoring, scored.features, train, held_out)
    values += further_values(study.scoring, scored, references["train"])
    return values, scored, hashes | further_hashes(study.scoring, scored.further_sha256)


def _score_reconstructions(study: Study, layout: Layout, protocol: Protocol, kind: str, _seed, _sampler):
    check_kind(kind)
    scored = _read_fresh(layout, [layout.reconstruction(kind, i) for i in range(study.data.num_shards)])
    split = layout.reconstruction_split(kind)
    reference = _reference(study, layout, split)
    _check_same_network(scored, reference, f"the {split} reference")
    _check_complete(scored.features.index, reference.features.index, f"{kind} reconstructions")
    if scored.psnr is None:
        raise ValueError(f"{layout.reconstruction(kind, 0)}: no column {PSNR!r}; run `reconstruct` again, then `score`")
    originals = reference.features
    hashes = {"reference": hash_of(reference.features), "data": reference.images[0]}
    if protocol.statistics:
        path = resolve(protocol.statistics)
        originals, hashes["statistics"] = originals.standing_for(load_statistics(path)), file_sha256(path)
    values = reconstruction_values(study.scoring, scored.features, originals, scored.psnr)
    return values, scored, hashes


def _reference(study: Study, layout: Layout, split: str) -> Scored:
    rows = reference_rows(layout.manifest, *reference_of(study, split)) if layout.manifest.is_file() else None
    return read_reference(study, layout, split, rows)


def _read_fresh(layout: Layout, images: list[Path]) -> Scored:
    """Merged features of files of images. Raises ValueError where a file is missing, or older than changed images."""
    scored = read_features([layout.features(path) for path in images])
    for path in images:
        check_fresh(layout.features(path), path)
    return scored


SOURCES: dict[str, Callable[..., tuple]] = {"sample": _score_samples, "reconstruct": _score_reconstructions}


def _check_complete(index: np.ndarray, expected: np.ndarray, what: str) -> None:
    missing, surplus = np.setdiff1d(expected, index), np.setdiff1d(index, expected)
    if len(missing) or len(surplus):
        raise ValueError(
            f"{what}: {len(missing)} of {len(expected)} images are missing (first {missing[:3].tolist()}), and "
            f"{len(surplus)} do not belong (first {surplus[:3].tolist()}); run `sample` or `reconstruct` again"
        )


def _check_same_network(scored: Scored, reference: Scored, what: str) -> None:
    if scored.header != reference.header:
        raise ValueError(
            f"{what} was made with {reference.header}, the images with {scored.header}; run `features` again"
        )
