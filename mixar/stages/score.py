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
from torch import Tensor

from mixar.assets import check as assets
from mixar.data.images import iter_images, read_images
from mixar.data.manifest import SPLITS, read_manifest
from mixar.data.sources import open_parquet
from mixar.failures import naming, needs_memory
from mixar.files import file_sha256
from mixar.reporting.results import make_rows, write_rows
from mixar.scoring.extractors import Extractor, extract_all, load_extractor, load_further
from mixar.scoring.features import FeatureSet
from mixar.scoring.files import PSNR, Scored, check_fresh, read_features, write_features
from mixar.scoring.protocols import Protocol, distance_name, is_of_its_data, protocol_of, row_id, with_ids
from mixar.scoring.statistics import load_statistics
from mixar.scoring.values import further_hashes, further_values, reconstruction_values, sample_values
from mixar.stages.device import device_of
from mixar.stages.progress import Progress
from mixar.study.digests import Digests
from mixar.study.identity import seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study

BATCH = 64  # images per forward pass
RECONSTRUCTED = "reconstructed"  # the images that scoring.reconstructions names, where it names a protocol
MASKBIT = "maskbit"
KINDS = ("continuous", "discrete")


# Images to features


@needs_memory(lambda study, _, images_path: (
    f"score {images_path}",
    f"Lower evaluation.shard_size, the images of a file (now {study.evaluation.shard_size})",
))  # fmt: skip
def score_features(study: Study, layout: Layout, images_path: str | Path) -> None:
    """Write layout.features(images_path): index, label, features and logits of one Parquet file of images.

    Raises ValueError for a file of images that is missing, damaged or not of this study, and for unfit images.
    """
    path = Path(images_path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of images; run `sample` or `reconstruct` first")
    if not path.is_relative_to(layout.root):
        raise ValueError(f"{path}: no file of this study; its images lie below {layout.root}")
    is_reconstruction = PSNR in open_parquet(path, ["image"]).schema_arrow.names
    source = "reconstruct" if is_reconstruction else "sample"
    require_assets(study, source)
    extractor, further = _extractor(study, layout, source), further_networks(study)
    index, labels, images = read_images(path)
    batches = (torch.from_numpy(np.ascontiguousarray(images[i : i + BATCH])) for i in range(0, len(images), BATCH))
    psnr = pq.read_table(path, columns=[PSNR])[PSNR] if is_reconstruction else None
    with naming(f"score {path}"):
        outputs, others = extract_all(extractor, further, _announced(f"score {path.name}", batches, len(images)))
    others = {name: (values, further[name].sha256) for name, values in others.items()}
    header = header_of(study, extractor, source)
    write_features(layout.features(path), index, labels, outputs, header, psnr, further=others, images=path)


@needs_memory(lambda study, _, split: (f"score {split} images", "Leave networks out of scoring.further"))
def reference_features(study: Study, layout: Layout, split: str) -> None:
    """Write layout.reference_features(split): what scores are measured against.

    split: train, held_out, or reconstructed where the study names a protocol of its own for reconstructions.
    """
    if split not in (*SPLITS, RECONSTRUCTED):
        raise ValueError(f"split {split!r} is unknown; choose from {', '.join((*SPLITS, RECONSTRUCTED))}")
    source = "reconstruct" if split == RECONSTRUCTED else "sample"
    require_assets(study, source)
    extractor, further = _extractor(study, layout, source), further_networks(study)
    rows = reference_rows(study, layout, split)
    images = iter_images(rows, study.data.image_size, protocol_of(study, source).crop)
    batches = (torch.from_numpy(np.stack(part)) for part in iter(lambda: list(itertools.islice(images, BATCH)), []))
    with naming(f"score {split} images"):
        outputs, others = extract_all(extractor, further, _announced(f"score {split} images", batches, len(rows)))
    others = {name: (values, further[name].sha256) for name, values in others.items()}
    header = header_of(study, extractor, source)
    path, made_of = layout.reference_features(split), _rows_sha256(study, split, rows)
    write_features(path, rows["index"], rows["label"], outputs, header, further=others, images=made_of)


def read_reference(study: Study, layout: Layout, split: str) -> Scored:
    """What `reference_features` wrote. Raises ValueError as `read_features` does, and where the manifest now has other
    images in that split, or the study takes them otherwise; the manifest may also be gone."""
    path = layout.reference_features(split)
    found = read_features([path])
    if layout.manifest.is_file():
        now = _rows_sha256(study, split, reference_rows(study, layout, split))
        if found.images != (now,):
            raise ValueError(f"{path}: features of other images than the study's {split} images are now; run "
                             f"`score --reference {split}` again")  # fmt: skip
    return found


def _rows_sha256(study: Study, split: str, rows: pa.Table) -> str:
    """Which images of the manifest a reference is made of, and how they are cropped."""
    source = "reconstruct" if split == RECONSTRUCTED else "sample"
    parts = [str(study.data.image_size), protocol_of(study, source).crop]
    parts += [repr(rows[column].to_pylist()) for column in ("index", "label", "name", "content")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def other_data_of(study: Study, layout: Layout, protocol: Protocol, data: str | None) -> str | None:
    """`data`, the hash of the reference images, where the protocol is defined for other images, else None.

    data: None if a statistics file replaces the images.
    """
    counts = None
    if layout.manifest.is_file():
        found = read_manifest(layout.manifest, columns=["split"])["split"]
        counts = {split: pc.sum(pc.equal(found, split)).as_py() or 0 for split in SPLITS}
    return None if data is None or is_of_its_data(protocol, study, counts) else data


def reference_rows(study: Study, layout: Layout, split: str) -> pa.Table:
    """Manifest rows of a split, as `reference_features` takes it; of the training split at most as many as the protocol
    takes, at random."""
    protocol = protocol_of(study, "reconstruct" if split == RECONSTRUCTED else "sample")
    split = protocol.reference if split == RECONSTRUCTED else split
    rows = read_manifest(layout.manifest, split)
    limit = protocol.reference_images if split == "train" else None
    if limit is None or limit >= len(rows):
        return rows
    rng = torch.Generator().manual_seed(seed_of("reference", split))
    return rows.take(torch.randperm(len(rows), generator=rng)[:limit].sort().values.numpy())


def require_assets(study: Study, source: str) -> None:
    """Statistics are read at the very end, but a missing file must stop the study here, not after all features."""
    s = study.scoring
    assets.require(protocol_of(study, source).statistics, *s.further.values(), *s.further_statistics.values())


def _extractor(study: Study, layout: Layout, source: str) -> Extractor:
    protocol = protocol_of(study, source)
    device = device_of(study)
    return load_extractor(study.scoring.extractor, layout.extractor(), device, protocol.resize, study.study)


def further_networks(study: Study) -> dict[str, Extractor]:
    """The networks of scoring.further, by name. Raises ValueError for files that are missing or unfit."""
    files = {name: assets.resolve(value) for name, value in study.scoring.further.items()}
    return {name: load_further(name, path, device_of(study)) for name, path in files.items()}


def _announced(name: str, batches: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    progress, done = Progress(name, "images"), 0
    progress(0, total)
    for batch in batches:
        yield batch
        done += len(batch)
        progress(done, total)


def header_of(study: Study, extractor: Extractor, source: str = "sample") -> dict[str, str]:
    """Who makes features, and under which protocol of the study: feature files with another header are not mixed."""
    own = study.scoring.reconstructions if source == "reconstruct" else None
    return {"extractor": extractor.name, "sha256": extractor.sha256, "protocol": own or study.scoring.protocol}


# Features to scores


@needs_memory(lambda _, layout, source, run, seed=None, sampler=None: (
    f"score {source} {run} {'' if seed is None else f'seed {seed} {sampler}'}".strip(),
    "Leave out metrics of scoring.metrics, or lower scoring.jackknife_groups",
))  # fmt: skip
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
    assets.require(protocol.statistics, *study.scoring.further_statistics.values())
    values, scored, hashes = SOURCES[source](study, layout, protocol, run, seed, sampler)
    hashes |= {"extractor": scored.header["sha256"], "extractor_name": scored.header["extractor"]}
    other_data = other_data_of(study, layout, protocol, hashes["data"])
    identity = row_id(protocol, study, hashes["extractor"], len(scored.features), other_data=other_data)
    digests = Digests(study)
    rows = make_rows(
        study,
        run,
        source=source,
        values=with_ids(values, identity, hashes, digests.metric_code()),
        seed=seed,
        sampler=sampler,
        digest=digests.score(),
        device="cpu",
        hashes=hashes,
    )
    write_rows(layout.scores(source, run, seed, sampler), rows)
    name = distance_name(identity, hashes["extractor_name"], study.study)
    print(f"score {run} (fd = {name}, n = {len(scored.features)}, {identity})")
    for v in values:
        print(f"  {v['metric']:<12} {v['value']:10.4f}   [{v['low']:.4f}, {v['high']:.4f}] {v['unit'] or ''}".rstrip())


def _score_samples(study: Study, layout: Layout, protocol: Protocol, run: str, seed, sampler: str):
    _check_names(study, run, seed, sampler)
    shards = range(study.evaluation.num_shards)
    scored = _read_fresh(layout, [layout.samples(run, seed, sampler, i) for i in shards])
    _check_complete(scored.features.index, np.arange(study.evaluation.num_images), f"samples of {run!r}")
    references = {split: read_reference(study, layout, split) for split in SPLITS}
    for split, reference in references.items():
        _check_same_network(scored, reference, f"the {split} reference")
    train, held_out = (references[split].features for split in SPLITS)
    hashes = {"reference": hash_of(train), "reference_held_out": hash_of(held_out)}
    hashes["data"] = references["train"].images[0]
    if protocol.statistics:
        path = assets.resolve(protocol.statistics)
        train, hashes["statistics"] = train.standing_for(load_statistics(path)), file_sha256(path)
    train, held_out = (reference.keeping_root_in(roots_of(layout)) for reference in (train, held_out))
    if run != MASKBIT and layout.weights(run, seed).is_file():
        hashes["weights"] = file_sha256(layout.weights(run, seed))
    values = sample_values(study.scoring, scored.features, train, held_out)
    values += further_values(study.scoring, scored, references["train"])
    return values, scored, hashes | further_hashes(study.scoring, scored.further_sha256)


def _read_fresh(layout: Layout, images: list[Path]) -> Scored:
    """Merged features of files of images. Raises ValueError where a file is missing, or older than changed images."""
    scored = read_features([layout.features(path) for path in images])
    for path in images:
        check_fresh(layout.features(path), path)
    return scored


def roots_of(layout: Layout) -> Path:
    return layout.reference_features("train").parent / "roots"


def _score_reconstructions(study: Study, layout: Layout, protocol: Protocol, kind: str, _seed, _sampler):
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown; choose from {', '.join(KINDS)}")
    scored = _read_fresh(layout, [layout.reconstruction(kind, i) for i in range(study.data.num_shards)])
    split = layout.reconstruction_split
    reference = read_reference(study, layout, split)
    _check_same_network(scored, reference, f"the {split} reference")
    _check_complete(scored.features.index, reference.features.index, f"{kind} reconstructions")
    if scored.psnr is None:
        raise ValueError(f"{layout.reconstruction(kind, 0)}: no column {PSNR!r}; run `reconstruct` again, then `score`")
    originals = reference.features
    hashes = {"reference": hash_of(reference.features), "data": reference.images[0]}
    if protocol.statistics:
        path = assets.resolve(protocol.statistics)
        originals, hashes["statistics"] = originals.standing_for(load_statistics(path)), file_sha256(path)
    values = reconstruction_values(study.scoring, scored.features, originals, scored.psnr)
    return values, scored, hashes


SOURCES = {"sample": _score_samples, "reconstruct": _score_reconstructions}


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


def hash_of(features: FeatureSet) -> str:
    """SHA-256 of indices and features: which reference a score is against."""
    content = hashlib.sha256(features.index.tobytes())
    content.update(np.ascontiguousarray(features.features.numpy()))  # no copy: 0.4 GB of 50,000 Inception features
    return content.hexdigest()
