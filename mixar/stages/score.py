"""`score`: the features of a run's samples, or of a tokenizer's reconstructions, to scores with intervals.

The features of all shards are merged by image index, so neither their order nor the jobs that made them matter.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixar.assets.check import require, resolve
from mixar.data.images import iter_images, read_images
from mixar.data.manifest import SPLITS, count_rows
from mixar.data.selection import reference_rows
from mixar.process.failures import needs_memory
from mixar.reporting.results import make_rows, write_rows
from mixar.scoring.catalogue import METRICS
from mixar.scoring.copies import copies_value, nearest, pixel_space, reach_of, write_nearest
from mixar.scoring.features import FeatureSet
from mixar.scoring.files import PSNR, Scored, check_fresh, read_features
from mixar.scoring.metrics.precision_recall import BLOCK
from mixar.scoring.protocols import Protocol, distance_name, protocol_of, row_id, with_ids
from mixar.scoring.reference import hash_of, other_data_of, read_reference, reference_of, roots_of
from mixar.scoring.statistics import load_statistics
from mixar.scoring.sweeps import choose, chosen, write_choice
from mixar.scoring.values import (
    check_sizes,
    further_hashes,
    further_values,
    measured,
    reconstruction_values,
    sample_values,
)
from mixar.storage.files import file_sha256
from mixar.study.arguments import check_drawn, check_kind, check_swept
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.study.names import MASKBIT
from mixar.study.names import split as split_name
from mixar.study.sections import Study
from mixar.weights import read_metadata

TOO_LARGE = "Leave out metrics of scoring.metrics, or lower scoring.jackknife_groups"


@needs_memory(lambda _, layout, run, seed, sampler: (f"score sample {run} seed {seed} {sampler}", TOO_LARGE))
def score_samples(study: Study, layout: Layout, run: str, seed: int, sampler: str) -> None:
    """Write layout.scores("sample", run, seed, sampler): one row per metric, with n, protocol and a 95 % interval.

    run: a run of the study, or 'maskbit'. With scoring.copies also layout.nearest(run, seed, sampler).
    Raises ValueError for unknown names, incomplete or mixed features, and too few images, before anything is computed.
    """
    check_drawn(study, run, seed, sampler)
    protocol = _protocol(study, "sample")
    shards = range(study.evaluation.num_shards)
    scored = _read_fresh(layout, [layout.samples(run, seed, sampler, i) for i in shards])
    _check_complete(scored.features.index, np.arange(study.evaluation.num_images), f"samples of {run!r}")
    references = {split: _reference(study, layout, split) for split in SPLITS}
    for split, reference in references.items():
        _check_same_network(scored, reference, f"the {split} reference")
    train, held_out = (references[split].features for split in SPLITS)
    hashes = {"reference": hash_of(train), "reference_held_out": hash_of(held_out)}
    hashes["data"] = references["train"].images[0]
    train = _against(protocol, train, hashes)
    train, held_out = (reference.keeping_root_in(roots_of(layout)) for reference in (train, held_out))
    if run != MASKBIT and layout.weights(run, seed).is_file():
        hashes["weights"] = file_sha256(layout.weights(run, seed))
        if changed := read_metadata(layout.weights(run, seed)).get("changed"):
            hashes["changed"] = changed
    values = sample_values(study.scoring, scored.features, train, held_out)
    values += further_values(study.scoring, scored, references["train"])
    hashes |= further_hashes(study.scoring, scored.further_sha256)
    if study.scoring.copies:
        values += _copies(study, layout, scored.features, references, (run, seed, sampler))
    key = {"source": "sample", "run": run, "seed": seed, "sampler": sampler, "digest": Digests(study).score()}
    cfg = None if run == MASKBIT else chosen(study, layout, run, sampler).cfg
    values = [{**value, "cfg": cfg} for value in values]
    _write(study, layout, protocol, scored, values, hashes, key)


@needs_memory(lambda _, layout, kind: (f"score reconstruct {kind}", TOO_LARGE))
def score_reconstructions(study: Study, layout: Layout, kind: str) -> None:
    """Write layout.scores("reconstruct", kind): rfd and psnr of a tokenizer, 'continuous' or 'discrete'.

    Raises ValueError as `score_samples` does.
    """
    check_kind(kind)
    protocol = _protocol(study, kind)
    scored = _read_fresh(layout, [layout.reconstruction(kind, i) for i in range(study.data.num_shards)])
    split = layout.reconstruction_split(kind)
    reference = _reference(study, layout, split)
    _check_same_network(scored, reference, f"the {split} reference")
    _check_complete(scored.features.index, reference.features.index, f"{kind} reconstructions")
    if scored.psnr is None:
        raise ValueError(f"{layout.reconstruction(kind, 0)}: no column {PSNR!r}; run `reconstruct` again, then `score`")
    hashes = {"reference": hash_of(reference.features), "data": reference.images[0]}
    originals = _against(protocol, reference.features, hashes)
    values = reconstruction_values(study.scoring, scored.features, originals, scored.psnr)
    key = {"source": "reconstruct", "run": kind, "digest": Digests(study).score_reconstruction()}
    _write(study, layout, protocol, scored, values, hashes, key)


@needs_memory(lambda _, layout, run, sampler: (f"score sweep {run} {sampler}", TOO_LARGE))
def score_sweep(study: Study, layout: Layout, run: str, sampler: str) -> None:
    """Write layout.sweep_scores(run, sampler), the distance at every scale, and layout.chosen_cfg with the smallest.

    The reference is that of the study's own `fd`: the training images, or the statistics of its protocol.
    Raises ValueError as `score_samples` does.
    """
    check_swept(study, run, sampler)
    sweep, seed, protocol = study.sweeps[run, sampler], study.networks[run].seeds[0], _protocol(study, "sample")
    paths = [layout.sweep_features(run, sampler, shard) for shard in range(study.shards_of(sweep.num_images))]
    reference = _reference(study, layout, "train")
    hashes = {"reference": hash_of(reference.features), "data": reference.images[0]}
    against = _against(protocol, reference.features, hashes).keeping_root_in(roots_of(layout))
    points: list[tuple[float, dict[str, Any]]] = []
    for cfg in sweep.cfg:
        scored = read_features(paths, cfg)
        _check_complete(scored.features.index, np.arange(sweep.num_images), f"sweep of {run!r} at cfg {cfg:g}")
        _check_same_network(scored, reference, "the train reference")
        check_sizes([METRICS["fd"]], scored.features, against, study.scoring)
        points += [(cfg, found) for found in measured(study.scoring, scored.features, [(METRICS["fd"], against)])]
    choice = choose(points)
    key = {"source": "sweep", "run": run, "seed": seed, "sampler": sampler, "digest": Digests(study).score_sweep()}
    values = [{**value, "cfg": cfg} for cfg, value in points]
    _write(study, layout, protocol, scored, values, hashes, key)
    write_choice(study, layout, run, sampler, choice)
    close = ", ".join(f"{scale:g}" for scale in choice["not_worse"])
    print(f"cfg {choice['cfg']:g} is chosen; not worse within the interval: {close}")
    if choice["at_edge"]:
        print(
            f"cfg {choice['cfg']:g} is the end of runs.{split_name(run)[0]}.sweep.cfg; a better scale may be beyond it"
        )


def _protocol(study: Study, source: str) -> Protocol:
    """The protocol of samples, or of a tokenizer's reconstructions. Raises ValueError where its files are missing."""
    protocol = protocol_of(study, source)
    require(protocol.statistics, *study.scoring.further_statistics.values())
    return protocol


def _against(protocol: Protocol, reference: FeatureSet, hashes: dict[str, str]) -> FeatureSet:
    """The reference, with the moments of the protocol's statistics where it has them; notes their hash."""
    if not protocol.statistics:
        return reference
    path = resolve(protocol.statistics)
    hashes["statistics"] = file_sha256(path)
    return reference.standing_for(load_statistics(path))


def _write(
    study: Study, layout: Layout, protocol: Protocol, scored: Scored, values: list[dict], hashes: dict, key: dict
) -> None:
    """Write the rows, and print them. key: source, run and digest; of drawn images also seed and sampler."""
    hashes = hashes | {"extractor": scored.header["sha256"], "extractor_name": scored.header["extractor"]}
    other_data = other_data_of(study, protocol, hashes["data"], count_rows(layout.manifest))
    identity = row_id(protocol, study, hashes["extractor"], len(scored.features), other_data=other_data)
    values = with_ids(values, identity, hashes, Digests(study).metric_code())
    rows = make_rows(study, values=values, device="cpu", hashes=hashes, **key)
    is_sweep = key["source"] == "sweep"
    path = layout.sweep_scores(key["run"], key["sampler"]) if is_sweep else None
    write_rows(path or layout.scores(key["source"], key["run"], key.get("seed"), key.get("sampler")), rows)
    name = distance_name(identity, hashes["extractor_name"], study.study)
    print(f"score {key['run']} (fd = {name}, n = {len(scored.features)}, {identity})")
    for v in values:
        scale = f" cfg {v['cfg']:<5g}" if is_sweep else ""
        found = f"{v['value']:10.4f}   [{v['low']:.4f}, {v['high']:.4f}] {v['unit'] or ''}"
        print(f"  {v['metric']:<15}{scale} {found}".rstrip())


def _copies(
    study: Study, layout: Layout, drawn: FeatureSet, references: Mapping[str, Scored], names: tuple[str, int, str]
) -> list[dict]:
    """The shares of copies, in features and in pixels; writes layout.nearest of the names (run, seed, sampler)."""
    sets = {split: references[split].features for split in SPLITS}
    spaces = {"features": (drawn.features, *(sets[split].features for split in SPLITS))}
    shards = [layout.samples(*names, shard) for shard in range(study.evaluation.num_shards)]
    spaces["pixels"] = (_pixels_of(shards), *(_pixels_of_reference(study, layout, split) for split in SPLITS))
    found, values = {}, []
    for space, (x, training, unseen) in spaces.items():
        found[space] = nearest(x, training)
        reach = reach_of(nearest(unseen, training))
        groups = study.scoring.jackknife_groups
        values.append(copies_value(space, found[space], reach, drawn.index, drawn.labels, groups))
    write_nearest(layout.nearest(*names), drawn.index, sets["train"].index, found)
    return values


def _pixels_of(shards: list[Path]) -> Tensor:
    """Drawn images in the space of pixels, in the order of their index."""
    parts = [(index, pixel_space(images)) for index, _, images in map(read_images, shards)]
    order = np.argsort(np.concatenate([index for index, _ in parts]), kind="stable")
    return torch.cat([pixels for _, pixels in parts])[torch.from_numpy(order)]


def _pixels_of_reference(study: Study, layout: Layout, split: str) -> Tensor:
    rows = reference_rows(layout.manifest, *reference_of(study, split)).sort_by("index")
    images = iter_images(rows, study.data.image_size, protocol_of(study, "sample").crop)
    parts = iter(lambda: list(itertools.islice(images, BLOCK)), [])
    return torch.cat([pixel_space(np.stack(part)) for part in parts])


def _reference(study: Study, layout: Layout, split: str) -> Scored:
    rows = reference_rows(layout.manifest, *reference_of(study, split)) if layout.manifest.is_file() else None
    return read_reference(study, layout, split, rows)


def _read_fresh(layout: Layout, images: list[Path]) -> Scored:
    """Merged features of files of images. Raises ValueError where a file is missing, or older than changed images."""
    scored = read_features([layout.features(path) for path in images])
    for path in images:
        check_fresh(layout.features(path), path)
    return scored


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
