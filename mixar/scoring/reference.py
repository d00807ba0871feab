"""What scores are measured against: which images of the manifest, their features, and the hashes that identify both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from mixar.scoring.features import FeatureSet
from mixar.scoring.files import Scored, read_features
from mixar.scoring.protocols import Protocol, is_of_its_data, protocol_of
from mixar.study.layout import Layout
from mixar.study.sections import Study

# Splits of the images that scoring.reconstructions names, where it names a protocol -> the tokenizer that it is for
RECONSTRUCTED = {
    "reconstructed": "continuous",  # and discrete
    "reconstructed_continuous": "continuous",
    "reconstructed_discrete": "discrete",
}


def source_of(split: str) -> str:
    """Which images are scored against this split, and so which protocol holds: sample, continuous or discrete."""
    return RECONSTRUCTED.get(split, "sample")


def reference_of(study: Study, split: str) -> tuple[str, int | None]:
    """The manifest's split that a reference is made of, and how many images of it at most; None: all.

    split: train, held_out, or of RECONSTRUCTED where reconstructions have a protocol of their own.
    """
    protocol = protocol_of(study, source_of(split))
    split = protocol.reference if split in RECONSTRUCTED else split
    return split, protocol.reference_images if split == "train" else None


def rows_sha256(study: Study, split: str, rows: pa.Table) -> str:
    """Hash (hex) of the manifest rows that a reference is made of, and of how they are cropped."""
    parts = [str(study.data.image_size), protocol_of(study, source_of(split)).crop]
    parts += [repr(rows[column].to_pylist()) for column in ("index", "label", "name", "content")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_reference(study: Study, layout: Layout, split: str, rows: pa.Table | None) -> Scored:
    """The features of a reference, as `mixar features --reference` wrote them.

    rows: the manifest rows that the reference has now; None if the manifest is gone.
    Raises ValueError as `read_features` does, and where the features are of other images than `rows`.
    """
    path = layout.reference_features(split)
    found = read_features([path])
    if rows is not None and found.images != (rows_sha256(study, split, rows),):
        raise ValueError(f"{path}: not the features of the study's current {split} images; run "
                         f"`features --reference {split}` again")  # fmt: skip
    return found


def other_data_of(study: Study, protocol: Protocol, data: str | None, counts: Mapping[str, int] | None) -> str | None:
    """`data`, the hash of the reference images, where the protocol is defined for other images, else None.

    data: None if a statistics file replaces the images. counts: images of each split; None if the manifest is gone.
    """
    return None if data is None or is_of_its_data(protocol, study, counts) else data


def hash_of(features: FeatureSet) -> str:
    """SHA-256 of indices and features: which reference a score is against."""
    content = hashlib.sha256(features.index.tobytes())
    content.update(np.ascontiguousarray(features.features.numpy()).data)  # no copy: 0.4 GB of 50,000 Inception features
    return content.hexdigest()


def roots_of(layout: Layout) -> Path:
    return layout.reference_features("train").parent / "roots"
