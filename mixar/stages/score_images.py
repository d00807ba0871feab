"""`score-images`: images that any program drew, scored under a study's protocol as one more row of its Table 1.

Bad files, sizes, modes, names and references are refused before the first feature is computed. Features are written in
shards, so an interrupted call resumes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mixar.assets.check import resolve
from mixar.data.collection import UNLABELLED, checked, iter_pixels, open_collection
from mixar.data.manifest import SPLITS, count_rows
from mixar.data.selection import reference_rows
from mixar.device import device_of
from mixar.process.failures import naming, needs_memory
from mixar.process.progress import Progress
from mixar.reporting.names import OTHERS, OWN, label_of
from mixar.reporting.results import make_rows, read_rows, write_rows
from mixar.reporting.summary import summarise
from mixar.reporting.tables import quality_table
from mixar.reporting.writers import to_text
from mixar.scoring.catalogue import metric_of, network_of
from mixar.scoring.extractors import BATCH, Extractor, Networks, extract, load_networks, require_assets
from mixar.scoring.features import FeatureSet
from mixar.scoring.files import Scored, read_features, write_features
from mixar.scoring.protocols import Protocol, protocol_of, row_id, with_ids
from mixar.scoring.reference import hash_of, other_data_of, read_reference, reference_of, roots_of
from mixar.scoring.statistics import load_statistics
from mixar.scoring.values import check_sizes, further_hashes, further_values, is_given, metrics_of, sample_values
from mixar.storage.files import file_sha256, json_mapping, write_text
from mixar.storage.listing import check_name, counted
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.study.sections import Scoring, Study
from mixar.study.values import check_label

SHARD = 2000  # images per feature file: the most that an interruption loses


@dataclass(frozen=True)
class Reference:
    """What brought images are measured against. images: None if only statistics are known."""

    train: FeatureSet
    held_out: FeatureSet | None
    images: Scored | None
    scoring: Scoring
    hashes: dict[str, str]


@needs_memory(lambda study, layout, path, *_, **__: (f"score-images {path}", "Leave out metrics of scoring.metrics"))
def score_images(
    study: Study,
    layout: Layout,
    path: Path,
    label: str | None,
    protocol: str | None,
    replace: bool,
    shard_size: int = SHARD,
) -> str:
    """Score the images at `path` and write layout.scores("own", name); returns the row's name, made of the label.

    label: as Table 1 prints it; default: the path's last part. protocol: must be the study's, whose references, feature
    networks and folder are used. replace: drop what an earlier call with this label made of other images,
    except features of shards that are the same.
    shard_size: images per feature file.
    Raises ValueError for all that is unfit, before any feature is computed.
    """
    label = (label or Path(os.path.abspath(path)).stem).strip()  # `.` has a name there
    check_name(label, label)
    name, used = _name(study, label), _protocol(study, protocol)
    require_assets(study, "sample")
    collection = open_collection(path)
    networks = _networks(study, layout)
    reference = _reference(study, layout, used, networks)
    _check_count(len(collection.index), reference)
    progress = Progress(f"check {label}", "images")
    sha256, parts, lossy = checked(collection, study.data.image_size, shard_size, progress)
    _claim(layout, name, {"images": sha256, "n": len(collection.index), "path": str(path)}, replace)
    scored = _features(layout, name, collection, networks, parts, shard_size)
    values = sample_values(reference.scoring, scored.features, reference.train, reference.held_out)
    values += further_values(reference.scoring, scored, reference.images)
    labels = _labels(collection.labels, study.data.num_classes)
    hashes = {"extractor": networks.main.sha256, "extractor_name": networks.main.name, "images": sha256}
    hashes |= reference.hashes | further_hashes(reference.scoring, networks.further_sha256)
    other_data = other_data_of(study, used, hashes.get("data"), count_rows(layout.manifest))
    formats, count = "+".join(sorted(lossy)), len(scored.features)
    protocol_id = row_id(used, study, networks.main.sha256, count, labels, formats, other_data)
    digests = Digests(study)
    rows = make_rows(
        study,
        name,
        source="sample",
        values=with_ids(values, protocol_id, hashes, digests.metric_code()),
        digest=digests.score(),
        device=str(device_of(study)),
        hashes=hashes,
        label=label,
    )
    write_rows(layout.scores("own", name), rows)
    _tell(study, layout, label, used, collection.labels, lossy)
    return name


def _name(study: Study, label: str) -> str:
    try:
        check_label(label)
    except ValueError as error:
        raise ValueError(f"--label: {label!r}: {error}") from None
    slug = re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")
    if not slug:
        raise ValueError(f"--label: {label!r} has no letter or digit; give one that has")
    taken = {label_of(study, run).casefold(): run for run in (*study.networks, *OTHERS)}
    if label.casefold() in taken:
        raise ValueError(f"--label: {label!r} is the label of the study's own row {taken[label.casefold()]!r}; Table 1 "
                         "would have two rows of that name; give another")  # fmt: skip
    return OWN + slug


def _protocol(study: Study, name: str | None) -> Protocol:
    protocol = protocol_of(study, "sample")
    if name not in (None, protocol.name):
        raise ValueError(f"--protocol: {name!r}, but the study {study.study!r} scores under {protocol.name!r}; give "
                         "the study of that protocol with --study")  # fmt: skip
    return protocol


def _labels(labels: np.ndarray, num_classes: int) -> str:
    """balanced: each class of the study equally often, give or take one; unknown: images without labels; or uneven."""
    if (labels <= UNLABELLED).any():
        return "unknown"
    if labels.max() >= num_classes:
        return "uneven"
    return "balanced" if np.ptp(np.bincount(labels, minlength=num_classes)) <= 1 else "uneven"


def _networks(study: Study, layout: Layout) -> Networks:
    path = layout.extractor()
    if not path.is_file():
        raise ValueError(f"{path}: the study's feature network is missing; run `extractor` for this study first")
    return load_networks(study, layout, "sample", device_of(study))


def _reference(study: Study, layout: Layout, protocol: Protocol, networks: Networks) -> Reference:
    """The study's reference features; without them the protocol's statistics alone, for the metrics that need no more.

    Raises ValueError where there are neither, or where other networks made them.
    """
    paths = [layout.reference_features(split) for split in SPLITS]
    images, held_out, hashes = None, None, {}
    if all(path.is_file() for path in paths):
        images, other = (_of_same_networks(study, layout, split, networks) for split in SPLITS)
        train, held_out, scoring = images.features, other.features.keeping_root_in(roots_of(layout)), study.scoring
        hashes = {"reference": hash_of(train), "reference_held_out": hash_of(held_out), "data": images.images[0]}
    elif protocol.statistics:
        train, scoring = _nothing(networks.main, study.data.image_size), _without_images(study.scoring)
    else:
        missing = next(path for path in paths if not path.is_file())
        raise ValueError(f"{missing}: no reference features yet; run `features --reference train` and `features "
                         "--reference held_out` for this study first")  # fmt: skip
    if protocol.statistics:
        path = resolve(protocol.statistics)
        statistics = load_statistics(path, width=train.width)
        train, hashes["statistics"] = train.standing_for(statistics), file_sha256(path)
    return Reference(train.keeping_root_in(roots_of(layout)), held_out, images, scoring, hashes)


def _of_same_networks(study: Study, layout: Layout, split: str, networks: Networks) -> Scored:
    rows = reference_rows(layout.manifest, *reference_of(study, split)) if layout.manifest.is_file() else None
    found = read_reference(study, layout, split, rows)
    if not _is_made_by(networks, found, networks.header):
        raise ValueError(f"{layout.reference_features(split)}: made with {found.header}, and the study now uses "
                         f"{networks.header}; run `features --reference` again")  # fmt: skip
    return found


def _is_made_by(networks: Networks, found: Scored, header: dict[str, str]) -> bool:
    """Whether a file says what `header` does, and comes from the same further networks; it also names its format."""
    same = all(found.header.get(key) == value for key, value in header.items())
    return same and found.further_sha256 == networks.further_sha256


def _nothing(extractor: Extractor, size: int) -> FeatureSet:
    """No images, in the widths of a network's features and logits, which one black image tells."""
    features, logits = extract(extractor, [torch.zeros(1, size, size, 3, dtype=torch.uint8)])
    none = np.zeros(0, np.int64)
    return FeatureSet(none, none, features[:0], logits[:0])


def _without_images(scoring: Scoring) -> Scoring:
    """The metrics and further networks that need no reference images; says which are left out."""
    metrics = {entry: metric_of(entry) for entry in scoring.metrics}
    left_out = [metric.name for metric in metrics.values() if metric.against == "images"]
    kept = tuple(entry for entry, metric in metrics.items() if metric.against != "images")
    further = {name: file for name, file in scoring.further.items() if is_given(scoring, name)}
    left_out += [metric.name for name in scoring.further if name not in further for metric in network_of(name).metrics]
    if left_out:
        print(f"score-images: no {', '.join(left_out)} without reference images; run `features --reference` for them")
    return scoring.model_copy(update={"metrics": kept, "further": further})


def _check_count(count: int, reference: Reference) -> None:
    """Refuse a number of images that the metrics cannot be computed from, before there is any feature."""
    keys, width = np.arange(count), reference.train.width
    stub = FeatureSet(keys, keys, torch.zeros(1, width).expand(count, width), torch.zeros(count, 1))
    check_sizes(metrics_of(reference.scoring), stub, reference.train, reference.scoring)


def _claim(layout: Layout, name: str, record: dict, replace: bool) -> None:
    """Give the name to these images. Raises ValueError where others have it and may not be replaced."""
    file = layout.own_images(name)
    if file.is_file() and (others := _others(file, record)):
        if not replace:
            raise ValueError(f"{name}: {others}; give another --label, or replace them with --replace")
        shutil.rmtree(file.parent)
    write_text(file, json.dumps(record, indent=2) + "\n")


def _others(file: Path, record: dict) -> str:
    """In words, which other images `file` gives the name to; empty where they are the same."""
    try:
        before = json_mapping(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{file} is damaged ({error}), so it is unknown which images have this name"
    if missing := record.keys() - before.keys():
        return f"{file} is damaged (no {', '.join(sorted(missing))}), so it is unknown which images have this name"
    same = before["images"] == record["images"]
    return "" if same else f"holds {before['n']} other images, from {before['path']}"


def _features(
    layout: Layout, name: str, collection, networks: Networks, hashes: Sequence[str], shard_size: int
) -> Scored:
    """Features of all images, shard by shard; a whole shard of the same images and networks is kept.

    hashes: of the images of each shard.
    """
    total, progress, paths = len(collection.index), Progress(f"features of {name}", "images"), []
    for shard, images in enumerate(hashes):
        start, path = shard * shard_size, layout.own_features(name, shard)
        stop = min(start + shard_size, total)
        paths.append(path)
        if not _is_done(path, networks, images):
            index, labels = collection.index[start:stop], collection.labels[start:stop]
            batches = _batches(collection, start, stop, progress)
            with naming(f"features of {name} shard {shard}"):
                outputs, others = networks.extract(batches)
            write_features(path, index, labels, outputs, networks.header, further=others, images=images)
    for left_over in set(paths[0].parent.glob("*.parquet")) - set(paths):  # of more images
        left_over.unlink()
    return read_features(paths)


def _is_done(path: Path, networks: Networks, images: str) -> bool:
    try:
        found = read_features([path])
    except ValueError:
        return False
    return _is_made_by(networks, found, networks.header) and found.images == (images,)


def _batches(collection, start: int, stop: int, progress: Progress):
    batch, total = [], len(collection.index)
    progress(start, total)  # what was there before counts in no estimate
    for done, (_, pixels, _) in enumerate(iter_pixels(collection, start, stop), start + 1):
        batch.append(torch.from_numpy(pixels.copy()))
        if len(batch) == BATCH or done == stop:
            yield torch.stack(batch)
            progress(done, total)
            batch = []


def _tell(
    study: Study, layout: Layout, label: str, protocol: Protocol, labels: np.ndarray, lossy: Mapping[str, int]
) -> None:
    print(to_text(quality_table(summarise(study, read_rows(layout.root)))))
    usual = protocol.num_images or study.evaluation.num_images
    if len(labels) != usual:
        print(f"{label}: n = {len(labels)}, but {protocol.name} takes {usual}; not comparable with rows of that n.")
    if protocol.labels and (found := _labels(labels, study.data.num_classes)) != protocol.labels:
        print(f"{label}: its labels are {found}; {protocol.name} expects equally many images of each class.")
    if outside := int((labels >= study.data.num_classes).sum()):
        last = study.data.num_classes - 1
        print(f"{label}: {counted(outside, 'label')} outside the study's classes 0 to {last}; number them as it does.")
    if lossy:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(lossy.items()))
        print(f"{label}: {counts} of {len(labels)} images are in a lossy format, which changes the scores; give PNG.")
    print(f"Rows in {layout.root}; `report` (or snakemake) puts them into the report's Table 1.")
