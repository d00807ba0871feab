"""What a score is measured against, and how: one record per protocol, under the id that every row carries.

Scores are comparable only under the same protocol. A protocol belongs to its images and its feature network; rows of
others say so in their id. A Fréchet distance is an FID only under the bare id of an Inception protocol. A further
protocol is one record in the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

from mixar.assets.check import locate
from mixar.assets.table import ASSETS
from mixar.scoring.catalogue import DRAWINGS_NETWORK_SHA256, EMOJI_NETWORK_SHA256, metric_of, network_of
from mixar.storage.files import file_sha256
from mixar.study.errors import SpecError
from mixar.study.sections import Study

# How the field computes them; a study that differs says so in the protocol id of its rows.
USUAL = MappingProxyType({"is_splits": 10, "kid_subsets": 100, "kid_subset_size": 1000, "neighbours": 3})
OTHER_DATA = "data="  # in the id of rows that were scored against other images than their protocol is defined for
SHA256 = {  # of the embedded drawings' files, by their source
    "emoji": "bc260b9175632280e230585504551f25954b9c4165f44a2675fecaca920382dd",  # resources/noto-emoji-32.parquet
    "drawings": "bb8d128af7e70dfec2676a0449e42e73359e3e29475a6f4be24087440b279ffa",  # resources/drawings-32.parquet
}
SPLIT = MappingProxyType({"held_out_path": None, "held_out_rate": 0.2, "held_out_designer": None, "limit": None})
IMAGENET = MappingProxyType({"train": 1_281_167, "held_out": 50_000})  # images of its splits
DEMO = MappingProxyType({"is_splits": 5, "kid_subsets": 50, "kid_subset_size": 200, "neighbours": 3})


@dataclass(frozen=True)
class Protocol:
    """One way of scoring. `statistics` is an asset that replaces the reference images in the Fréchet distance."""

    name: str
    source: str  # sample or reconstruct
    network: str | None  # as scoring.extractor.network; null: whichever the study has
    reference: str  # split: train or held_out
    description: str
    data: str = "own"  # the images it is defined for, a key of DATA
    num_classes: int | None = None  # null: the study's
    reconstruction: str | None = None  # the protocol for the same study's reconstructions
    statistics: str | None = None
    reference_images: int | None = None  # of the training split, drawn at random; null: all of it
    rounding: str = "half-even"  # of the images' pixels, a key of data.images.ROUNDINGS; MAR's
    crop: str = "adm"  # of the originals, a key of data.images.CROPS
    resize: str | None = None  # inside the network, a key of networks.inception.INCEPTIONS; null: none
    image_size: int | None = None  # pixels; null: the study's
    extractor_sha256: str | None = None  # of the network's weights; null: whichever the study has, and the id names it
    labels: str | None = None  # of drawn images: balanced; null: whichever the study has, or a whole split
    order: str = "by image index; the Inception Score's splits after one permutation, seed 2020"
    num_images: int | None = None  # drawn or reconstructed; null: the study's
    metrics: Mapping[str, int] = field(default_factory=dict)  # settings of `scoring` that it fixes


_EMOJI: dict[str, Any] = {"data": "emoji", "num_classes": 9, "image_size": 32, "extractor_sha256": EMOJI_NETWORK_SHA256}
_DRAWINGS: dict[str, Any] = _EMOJI | {"data": "drawings", "extractor_sha256": DRAWINGS_NETWORK_SHA256}
_INCEPTION: dict[str, Any] = {
    "data": "imagenet",
    "num_classes": 1000,
    "network": "inception-v3",
    "resize": "tensorflow-1",
    "image_size": 256,
    "extractor_sha256": ASSETS["inception"].sha256,
    "num_images": 50_000,
}
_TABLE = (
    Protocol(
        "emoji-gfd",
        "sample",
        "subgroup-cnn",
        "train",
        "Drawn images against all training images, in the features of a small network trained on the emoji subgroups. "
        "PNG, pixels rounded half to even. Not comparable with an ImageNet FID.",
        reconstruction="emoji-rfd",
        metrics=DEMO,
        **_EMOJI,
    ),
    Protocol(
        "emoji-rfd",
        "reconstruct",
        "subgroup-cnn",
        "held_out",
        "Reconstructions of the held-out images against the same images; network and rounding as in emoji-gfd.",
        **_EMOJI,
    ),
    Protocol(
        "drawings-gfd",
        "sample",
        "subgroup-cnn",
        "train",
        "Drawn images against all training drawings, in the features of a small network trained on the emoji subgroups "
        "and the designers. PNG, pixels rounded half to even. Not comparable with an ImageNet FID.",
        reconstruction="drawings-rfd",
        metrics=USUAL,
        **_DRAWINGS,
    ),
    Protocol(
        "drawings-rfd",
        "reconstruct",
        "subgroup-cnn",
        "held_out",
        "Reconstructions of the held-out drawings against the same images; network and rounding as in drawings-gfd.",
        **_DRAWINGS,
    ),
    Protocol(
        "own-gfd",
        "sample",
        None,
        "train",
        "Drawn images against all training images of the study, in the features of the study's network. PNG, pixels "
        "rounded half to even. The id names the images and the network; comparable within one study.",
        reconstruction="own-rfd",
        metrics=USUAL,
    ),
    Protocol(
        "own-rfd",
        "reconstruct",
        None,
        "held_out",
        "Reconstructions of the study's held-out images against the same images; network and rounding as in own-gfd.",
    ),
    Protocol(
        name="adm256-gfid",
        source="sample",
        reference="train",
        description="50,000 drawn images, equally many a class, against ADM's mean and covariance of the ImageNet-256 "
        "training images; torch-fidelity's Inception with TensorFlow-compatible resize; PNG, pixels rounded half to "
        "even; Inception Score over 10 splits shuffled with seed 2020. Precision, recall and KID against 10,000 "
        "training images. As MAR.",
        reconstruction="val256-rfid",
        statistics="asset:adm-statistics",
        reference_images=10_000,
        labels="balanced",
        metrics=USUAL,
        **_INCEPTION,
    ),
    Protocol(
        name="val256-rfid",
        source="reconstruct",
        reference="held_out",
        description="Reconstructions of the ImageNet validation images against the same images after the same ADM "
        "centre crop; torch-fidelity's Inception; pixels rounded half to even. Not comparable with MAR's own 1.22, "
        "which is against the training statistics.",
        **_INCEPTION,
    ),
    Protocol(
        name="mar-train-rfid",
        source="reconstruct",
        reference="train",
        description="Reconstructions of 50,000 training images, drawn at random, against ADM's mean and covariance of "
        "all training images; else as val256-rfid. What MAR's 1.22 was measured with (GitHub LTH14/mar, issues 3 and "
        "8); the same tokenizer has 0.53 against validation images.",
        statistics="asset:adm-statistics",
        reference_images=50_000,
        **_INCEPTION,
    ),
    Protocol(
        name="vavae-val-rfid",
        source="reconstruct",
        reference="held_out",
        description="Reconstructions of the ImageNet validation images against the same images, shorter side 256 by "
        "bilinear interpolation of the tensor, then the centre; Inception with half-pixel bilinear resize, as "
        "pytorch-fid has it; latents drawn from the posterior; pixels 127.5 x + 128, truncated. What VA-VAE's 0.28 "
        "was measured with (GitHub hustvl/LightningDiT, evaluate_tokenizer.py).",
        crop="bilinear",
        rounding="half-up",
        **(_INCEPTION | {"resize": "half-pixel"}),
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _TABLE}


def row_id(
    protocol: Protocol,
    study: Study,
    extractor_sha256: str,
    n: int,
    labels: str | None = None,
    lossy: str = "",
    other_data: str | None = None,
) -> str:
    """The id that rows carry: the protocol's name where the study keeps to it, else with what differs in brackets.

    n: images scored. labels: of the images, where they are not the study's own. lossy: the formats of their files that
    change pixels. other_data: SHA-256 of the reference images, where the protocol is defined for others (see
    `is_of_its_data`). Only the bare name earns the name FID.
    """
    labels = labels or study.evaluation.labels
    found = {key: getattr(study.scoring, key) for key in protocol.metrics}
    differs = [f"{key}={value}" for key, value in found.items() if value != protocol.metrics[key]]
    if protocol.num_images and n != protocol.num_images:
        differs.append(f"n={n}")
    if protocol.labels and labels != protocol.labels:
        differs.append(f"labels={labels}")
    if lossy:
        differs.append(f"format={lossy}")
    if protocol.image_size and study.data.image_size != protocol.image_size:
        differs.append(f"image_size={study.data.image_size}")
    if protocol.num_classes and study.data.num_classes != protocol.num_classes:
        differs.append(f"num_classes={study.data.num_classes}")
    if other_data:
        differs.append(f"{OTHER_DATA}{other_data[:8]}")
    if extractor_sha256 != protocol.extractor_sha256:
        differs.append(f"extractor={extractor_sha256[:8]}")
    return _bracketed(protocol.name, differs)


def is_of_its_data(protocol: Protocol, study: Study, counts: Mapping[str, int] | None) -> bool:
    """Whether a study's images are those that its protocol is defined for; `own` protocols are defined for none.

    counts: images of each split, where they are known.
    """
    return DATA[protocol.data](study, counts)


def _are_drawings(source: str, study: Study, _counts: Mapping[str, int] | None) -> bool:
    """Whether a study has the embedded file of a source, with the usual split."""
    if study.data.source != source or any(getattr(study.data, key) != value for key, value in SPLIT.items()):
        return False
    path = locate(study.data.path)
    return path.is_file() and file_sha256(path) == SHA256[source]


def _is_imagenet(study: Study, counts: Mapping[str, int] | None) -> bool:
    if counts is not None:
        return dict(counts) == IMAGENET
    named = study.data.path, study.data.held_out_path
    return named == ("asset:imagenet-train", "asset:imagenet-val") and study.data.limit is None


DATA: dict[str, Callable[[Study, Mapping[str, int] | None], bool]] = {
    "emoji": partial(_are_drawings, "emoji"),
    "drawings": partial(_are_drawings, "drawings"),
    "imagenet": _is_imagenet,
    "own": lambda _study, _counts: False,
}


def with_ids(values: list[dict], row_id: str, hashes: Mapping[str, str], code: Mapping[str, str]) -> list[dict]:
    """The values, each with the protocol id of its row: `row_id`, and in brackets what its metric does otherwise.

    hashes: of the rows. NETWORK: the file of a further network; statistics_NETWORK: what replaces its reference images.
    code: of the study's own metrics, by name, so that no column mixes values of two versions.
    """
    return [{**value, "protocol": _id_of(value["metric"], row_id, hashes, code)} for value in values]


def _id_of(metric: str, row_id: str, hashes: Mapping[str, str], code: Mapping[str, str]) -> str:
    record = metric_of(metric, further=[name for name in hashes if not name.startswith("statistics_")])
    otherwise = ["reference=held_out"] if record.split == "held_out" else []
    otherwise += [f"code={code[metric][:8]}"] if metric in code else []
    if record.network:
        otherwise.append(f"network={record.network}:{hashes[record.network][:8]}")
        if statistics := hashes.get(f"statistics_{record.network}"):
            otherwise.append(f"statistics={statistics[:8]}")
    return _bracketed(row_id, otherwise)


def _bracketed(name: str, differs: list[str]) -> str:
    """`name`, or a name that has brackets already, with more in its brackets."""
    name, _, before = name.removesuffix("]").partition("[")
    differs = ([before] if before else []) + differs
    return f"{name}[{', '.join(differs)}]" if differs else name


def protocol_of(study: Study, source: str) -> Protocol:
    """The protocol of a study's samples, or of a tokenizer's reconstructions. Raises SpecError.

    source: sample, continuous or discrete.
    """
    name = study.scoring.protocol
    choices = [p.name for p in PROTOCOLS.values() if p.source == "sample"]
    if name not in choices:
        raise SpecError(f"scoring.protocol: {name!r} is unknown; choose from {', '.join(choices)}")
    protocol = PROTOCOLS[name]
    if protocol.network not in (None, study.scoring.extractor.network):
        raise SpecError(
            f"scoring.protocol: {name!r} is defined for the network {protocol.network!r}, but "
            f"scoring.extractor.network is {study.scoring.extractor.network!r}"
        )
    return protocol if source == "sample" else _of_reconstructions(study, protocol, source)


def _of_reconstructions(study: Study, protocol: Protocol, kind: str) -> Protocol:
    name = study.scoring.reconstruction_protocol(kind) or protocol.reconstruction
    choices = [p.name for p in PROTOCOLS.values() if p.source == "reconstruct" and p.network == protocol.network]
    if name not in choices:
        raise SpecError(
            f"scoring.reconstructions: {name!r} does not suit the network {protocol.network!r}; choose from "
            f"{', '.join(choices)}"
        )
    return PROTOCOLS[name]


def is_fid(protocol_id: str) -> bool:
    """Whether the protocol defines FID and the row differs from it in nothing, such as the number of images.

    The rows of a further network name it and its statistics in their brackets, which does not count as a difference.
    """
    name, _, brackets = protocol_id.removesuffix("]").partition("[")
    differs = [part for part in brackets.split(", ") if part and not part.startswith(("network=", "statistics="))]
    network = PROTOCOLS[name].network if name in PROTOCOLS else None
    return not differs and network is not None and network_of(network).fid is not None


def distance_name(protocol_id: str, extractor: str, study: str) -> str:
    """A Fréchet distance in print: FID where `is_fid`, else FD- and the feature network's name.

    extractor: the network's name as rows have it; the hash at its end is left out. Distances to images that the
    protocol is not defined for carry the name of their study instead.
    """
    if is_fid(protocol_id):
        return "FID"
    name = re.sub(r"-[0-9a-f]{8}$", "", extractor)
    is_own = OTHER_DATA in protocol_id and not name.startswith(study)
    return f"FD-{study if is_own else name}"
