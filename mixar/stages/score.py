"""`score`: images to features, one Parquet file for each file of images, and features to scores with intervals.

The features of all shards are merged by image index, so neither their order nor the jobs that made them matter.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from rich import print
from torch import Tensor

from mixar import assets
from mixar.assets import file_sha256
from mixar.data.images import iter_images, read_images
from mixar.layout import Digests, Layout
from mixar.reporting.results import make_rows, write_rows
from mixar.scoring.features import Extractor, extract, load_extractor
from mixar.scoring.files import PSNR, Scored, read_features, write_features
from mixar.scoring.intervals import interval, jackknife, jackknife_groups
from mixar.scoring.metrics import BOUNDS, METRICS, REPLICATED, FeatureSet, check_sizes
from mixar.scoring.protocols import Protocol, distance_name, load_statistics, protocol_of
from mixar.spec import Scoring, Study, seed_of
from mixar.stages.device import device_of
from mixar.stages.progress import Progress

BATCH = 64  # images per forward pass
SPLITS = ("train", "held_out")
MASKBIT = "maskbit"
KINDS = ("continuous", "discrete")
UNITS = {"psnr": "dB"}


# Images to features


def score_features(study: Study, layout: Layout, images_path: str | Path) -> None:
    """Write layout.features(images_path): index, label, features and logits of one Parquet file of images.

    Raises ValueError for a file of images that is missing, damaged or not of this study, and for unfit images.
    """
    path = Path(images_path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of images; run `sample` or `reconstruct` first")
    if not path.is_relative_to(layout.root):
        raise ValueError(f"{path}: no file of this study; its images lie below {layout.root}")
    extractor = _extractor(study, layout)
    index, labels, images = read_images(path)
    batches = (torch.from_numpy(np.ascontiguousarray(images[i : i + BATCH])) for i in range(0, len(images), BATCH))
    psnr = pq.read_table(path, columns=[PSNR])[PSNR] if PSNR in pq.read_schema(path).names else None
    outputs = extract(extractor, _announced(f"score {path.name}", batches, len(images)))
    write_features(layout.features(path), index, labels, outputs, _header(study, extractor), psnr)


def reference_features(study: Study, layout: Layout, split: str) -> None:
    """Write layout.reference_features(split), split 'train' or 'held_out': what scores are measured against."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose from {', '.join(SPLITS)}")
    extractor = _extractor(study, layout)
    rows = _reference_rows(study, layout, split)
    images = iter_images(rows, study.data.image_size)
    batches = (torch.from_numpy(np.stack(part)) for part in iter(lambda: list(itertools.islice(images, BATCH)), []))
    outputs = extract(extractor, _announced(f"score {split} images", batches, len(rows)))
    write_features(layout.reference_features(split), rows["index"], rows["label"], outputs, _header(study, extractor))


def _reference_rows(study: Study, layout: Layout, split: str) -> pa.Table:
    """Manifest rows of a split; of the training split at most as many as the protocol takes, at random."""
    rows = _manifest(layout, split)
    limit = protocol_of(study, "sample").reference_images if split == "train" else None
    if limit is None or limit >= len(rows):
        return rows
    rng = torch.Generator().manual_seed(seed_of("reference", split))
    return rows.take(torch.randperm(len(rows), generator=rng)[:limit].sort().values.numpy())


def _manifest(layout: Layout, split: str) -> pa.Table:
    if not layout.manifest.is_file():
        raise ValueError(f"{layout.manifest}: no manifest yet; run `ingest` first")
    rows = pq.read_table(layout.manifest)
    return rows.filter(pc.equal(rows["split"], split))


def _extractor(study: Study, layout: Layout) -> Extractor:
    protocol = protocol_of(study, "sample")
    if protocol.statistics:
        assets.resolve(protocol.statistics)  # a missing file must stop the study here, not after all features
    return load_extractor(study.scoring.extractor, layout.extractor(), device_of(study))


def _announced(name: str, batches: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    progress, done = Progress(name, "images"), 0
    for batch in batches:
        yield batch
        done += len(batch)
        progress(done, total)


def _header(study: Study, extractor: Extractor) -> dict[str, str]:
    return {"extractor": extractor.name, "sha256": extractor.sha256, "protocol": study.scoring.protocol}


# Features to scores


def score(
    study: Study, layout: Layout, source: str, run: str, seed: int | None = None, sampler: str | None = None
) -> None:
    """Write layout.scores(source, run, seed, sampler): one row a metric, with n, protocol and a 95 % interval.

    source 'sample': run is a run of the study or 'maskbit', with seed and sampler; 'reconstruct': 'continuous' or
    'discrete', with neither.
    Raises ValueError for unknown names, incomplete or mixed features, and too few images, before anything is computed.
    """
    if source not in SOURCES:
        raise ValueError(f"source {source!r} is unknown; choose from {', '.join(SOURCES)}")
    protocol = protocol_of(study, source)
    values, scored, hashes = SOURCES[source](study, layout, protocol, run, seed, sampler)
    rows = make_rows(
        study,
        run,
        source=source,
        values=values,
        seed=seed,
        sampler=sampler,
        protocol=protocol.name,
        digest=Digests(study).score(),
        device="cpu",
        hashes={"extractor": scored.header["sha256"], "extractor_name": scored.header["extractor"], **hashes},
    )
    write_rows(layout.scores(source, run, seed, sampler), rows)
    name = distance_name(scored.header["extractor"])
    print(f"score {run} ({protocol.name}, n = {len(scored.features)}, fd = {name})")
    for v in values:
        print(f"  {v['metric']:<12} {v['value']:10.4f}   [{v['low']:.4f}, {v['high']:.4f}] {v['unit'] or ''}".rstrip())


def _score_samples(study: Study, layout: Layout, protocol: Protocol, run: str, seed, sampler: str):
    _check_names(study, run, seed, sampler)
    shards = range(study.evaluation.num_shards)
    scored = read_features([layout.features(layout.samples(run, seed, sampler, i)) for i in shards])
    _check_complete(scored.features.index, np.arange(study.evaluation.num_images), f"samples of {run!r}")
    references = {split: read_features([layout.reference_features(split)]) for split in SPLITS}
    for split, reference in references.items():
        _check_same_network(scored, reference, f"the {split} reference")
    train, held_out = (references[split].features for split in SPLITS)
    hashes = {"reference": _hash_of(train), "reference_held_out": _hash_of(held_out)}
    if protocol.statistics:
        path = assets.resolve(protocol.statistics)
        train, hashes["statistics"] = train.standing_for(load_statistics(path)), file_sha256(path)
    if run != MASKBIT and layout.weights(run, seed).is_file():
        hashes["weights"] = file_sha256(layout.weights(run, seed))
    return sample_values(study.scoring, scored.features, train, held_out), scored, hashes


def sample_values(scoring: Scoring, sample: FeatureSet, train: FeatureSet, held_out: FeatureSet) -> list[dict]:
    """The study's metrics of drawn images against the training images, with intervals over the drawn images.

    `fd_held_out`, against images that no training saw, rises where the drawn images repeat training images.
    """
    names = list(scoring.metrics)
    check_sizes(names, sample, train, scoring)
    against = [(name, name, train) for name in names]
    if "fd" in names:
        check_sizes(["fd"], sample, held_out, scoring)
        against.append(("fd_held_out", "fd", held_out))
    groups = jackknife_groups(sample.index, scoring.jackknife_groups, sample.labels)

    def estimates(keep: np.ndarray) -> list[float]:
        part = sample.take(keep)
        return [REPLICATED[metric](part, reference, scoring) for _, metric, reference in against]

    replicates = jackknife(estimates, groups)
    return [
        _value(row, METRICS[metric](sample, reference, scoring), replicates[:, i], len(sample), BOUNDS[metric])
        for i, (row, metric, reference) in enumerate(against)
    ]


def _score_reconstructions(study: Study, layout: Layout, protocol: Protocol, kind: str, _seed, _sampler):
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; choose from {', '.join(KINDS)}")
    shards = range(study.data.num_shards)
    scored = read_features([layout.features(layout.reconstruction(kind, i)) for i in shards])
    reference = read_features([layout.reference_features(protocol.reference)])
    _check_same_network(scored, reference, f"the {protocol.reference} reference")
    _check_complete(scored.features.index, reference.features.index, f"{kind} reconstructions")
    if scored.psnr is None:
        raise ValueError(f"{layout.reconstruction(kind, 0)}: no column {PSNR!r}; run `reconstruct` again, then `score`")
    values = reconstruction_values(study.scoring, scored.features, reference.features, scored.psnr)
    return values, scored, {"reference": _hash_of(reference.features)}


def reconstruction_values(scoring: Scoring, made: FeatureSet, originals: FeatureSet, psnr: np.ndarray) -> list[dict]:
    """rfd and psnr of reconstructions; original and reconstruction leave the jackknife together."""
    check_sizes(["fd"], made, originals, scoring)
    groups = jackknife_groups(made.index, scoring.jackknife_groups, made.labels)

    def estimates(keep: np.ndarray) -> list[float]:
        return [METRICS["fd"](made.take(keep), originals.take(keep), scoring), psnr[keep].mean()]

    replicates = jackknife(estimates, groups)
    return [
        _value("rfd", METRICS["fd"](made, originals, scoring), replicates[:, 0], len(made), BOUNDS["fd"]),
        _value("psnr", float(psnr.mean()), replicates[:, 1], len(made), (0, np.inf)),
    ]


SOURCES = {"sample": _score_samples, "reconstruct": _score_reconstructions}


def _value(metric: str, value: float, replicates: np.ndarray, n: int, bounds: tuple[float, float]) -> dict:
    return {"metric": metric, **interval(value, replicates, bounds)._asdict(), "n": n, "unit": UNITS.get(metric)}


def _check_names(study: Study, run: str, seed, sampler: str) -> None:
    if run != MASKBIT and run not in study.runs:
        raise ValueError(f"run {run!r} is unknown; choose from {', '.join([*study.runs, MASKBIT])}")
    if run != MASKBIT and seed not in study.runs[run].seeds:
        raise ValueError(f"run {run!r} has no seed {seed}; it has {list(study.runs[run].seeds)}")
    if run != MASKBIT and sampler not in study.samplers:
        raise ValueError(f"sampler {sampler!r} is unknown; choose from {', '.join(study.samplers)}")


def _check_complete(index: np.ndarray, expected: np.ndarray, what: str) -> None:
    missing, surplus = np.setdiff1d(expected, index), np.setdiff1d(index, expected)
    if len(missing) or len(surplus):
        raise ValueError(
            f"{what}: {len(missing)} of {len(expected)} images are missing (first {missing[:3].tolist()}), and "
            f"{len(surplus)} do not belong (first {surplus[:3].tolist()}); run `sample` or `reconstruct` again"
        )


def _check_same_network(scored: Scored, reference: Scored, what: str) -> None:
    if scored.header != reference.header:
        raise ValueError(f"{what} was made with {reference.header}, the images with {scored.header}; run `score` again")


def _hash_of(features: FeatureSet) -> str:
    """SHA-256 of indices and features: which reference a score is against."""
    return hashlib.sha256(features.index.tobytes() + features.features.numpy().tobytes()).hexdigest()
