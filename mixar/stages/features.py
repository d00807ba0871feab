"""`features`: images to features, one Parquet file for each file of images and one for each reference."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from mixar.data.images import Drawn, iter_images, read_images
from mixar.data.manifest import SPLITS
from mixar.data.selection import reference_rows
from mixar.data.sources import open_parquet
from mixar.device import device_of
from mixar.process.failures import naming, needs_memory
from mixar.process.progress import Progress
from mixar.scoring.extractors import BATCH, Networks, load_networks, require_assets
from mixar.scoring.files import PSNR, is_made_of, write_features
from mixar.scoring.protocols import protocol_of
from mixar.scoring.reference import RECONSTRUCTED, reference_of, rows_sha256, source_of
from mixar.study.layout import Layout
from mixar.study.names import KINDS
from mixar.study.sections import Study


@needs_memory(lambda study, _, images_path: (
    f"features of {images_path}",
    f"Lower evaluation.shard_size, the images of a file (now {study.evaluation.shard_size})",
))  # fmt: skip
def image_features(study: Study, layout: Layout, images_path: str | Path) -> None:
    """Write layout.features(images_path): index, label, features and logits of one Parquet file of images.

    Raises ValueError for a file of images that is missing, damaged or not of this study, and for unfit images.
    """
    extraction(study, layout)(Path(images_path))


def extraction(study: Study, layout: Layout) -> Callable[..., None]:
    """`image_features` of one file after another; the networks are loaded once.

    Takes the path, and for a file of drawn images that does not hold all: index, labels and images uint8 [n, H, W, 3].
    """
    load = functools.cache(lambda source: load_networks(study, layout, source, device_of(study)))
    return partial(_extract, study, layout, load)


def _extract(
    study: Study, layout: Layout, load: Callable[[str], Networks], path: Path, drawn: Drawn | None = None
) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file of images; run `sample` or `reconstruct` first")
    if not path.is_relative_to(layout.root):
        raise ValueError(f"{path}: not a file of this study, whose images are below {layout.root}")
    is_reconstruction = PSNR in open_parquet(path, ["image"]).schema_arrow.names
    source = _source_of(layout, path) if is_reconstruction else "sample"
    keep = study.evaluation.keep_images
    if source == "sample" and drawn is None and keep != "all":
        raise ValueError(f"{path}: holds the first {keep} of its images (evaluation.keep_images); their features are "
                         "made where they are drawn: run `sample --with-features` again")  # fmt: skip
    require_assets(study, source)
    networks = load(source)
    index, labels, images = drawn or read_images(path)
    batches = (torch.from_numpy(np.ascontiguousarray(images[i : i + BATCH])) for i in range(0, len(images), BATCH))
    psnr = pq.read_table(path, columns=[PSNR])[PSNR] if is_reconstruction else None
    with naming(f"features of {path}"):
        outputs, others = networks.extract(_announced(f"features of {path.name}", batches, len(images)))
    write_features(layout.features(path), index, labels, outputs, networks.header, psnr, further=others, images=path)


def _source_of(layout: Layout, path: Path) -> str:
    """The tokenizer behind a file of reconstructions. Raises ValueError where it is in neither's folder."""
    for kind in KINDS:
        if path.parent == layout.reconstruction(kind, 0).parent:
            return kind
    folders = " or ".join(str(layout.reconstruction(kind, 0).parent) for kind in KINDS)
    raise ValueError(f"{path}: reconstructions are in {folders}; run `reconstruct` again")


@needs_memory(lambda study, _, split, **__: (f"features of {split} images", "Leave networks out of scoring.further"))
def reference_features(study: Study, layout: Layout, split: str, batch_size: int = BATCH) -> None:
    """Write layout.reference_features(split): what scores are measured against. What is there and fits stays as it is.

    split: train, held_out, or a key of RECONSTRUCTED where the study names a protocol of its own for reconstructions.
    batch_size: images per forward pass.
    """
    if split not in (*SPLITS, *RECONSTRUCTED):
        raise ValueError(f"--reference: {split!r} is unknown; choose from {', '.join((*SPLITS, *RECONSTRUCTED))}")
    source = source_of(split)
    require_assets(study, source)
    networks = load_networks(study, layout, source, device_of(study))
    rows = reference_rows(layout.manifest, *reference_of(study, split))
    path, made_of = layout.reference_features(split), rows_sha256(study, split, rows)
    if is_made_of(path, networks.header, networks.further_sha256, made_of):
        os.utime(path)  # for Snakemake, newer than what it was made from
        return
    images = iter_images(rows, study.data.image_size, protocol_of(study, source).crop)
    parts = iter(lambda: list(itertools.islice(images, batch_size)), [])
    batches = (torch.from_numpy(np.stack(part)) for part in parts)
    with naming(f"features of {split} images"):
        outputs, others = networks.extract(_announced(f"features of {split} images", batches, len(rows)))
    write_features(path, rows["index"], rows["label"], outputs, networks.header, further=others, images=made_of)


def _announced(name: str, batches: Iterable[Tensor], total: int) -> Iterator[Tensor]:
    progress, done = Progress(name, "images"), 0
    progress(0, total)
    for batch in batches:
        yield batch
        done += len(batch)
        progress(done, total)
