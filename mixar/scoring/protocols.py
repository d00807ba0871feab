"""What a score is measured against, and how: one record for each way of scoring, under the id that every row carries.

Two numbers are comparable only under one protocol. `FID` is the name of an Inception distance; other networks give FD.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixar.scoring.features import INCEPTION_NAME
from mixar.spec import SpecError, Study

INCEPTION_WIDTH = 2048


@dataclass(frozen=True)
class Protocol:
    """One way of scoring. `statistics` is an asset that stands for the whole reference in the Fréchet distance."""

    name: str
    source: str  # sample or reconstruct
    network: str  # as scoring.extractor.network
    reference: str  # split: train or held_out
    description: str
    reconstruction: str | None = None  # the protocol for the same study's reconstructions
    statistics: str | None = None
    reference_images: int | None = None  # of the training split, drawn at random; null: all of it


_TABLE = (
    Protocol(
        "emoji-gfd",
        "sample",
        "subgroup-cnn",
        "train",
        "Drawn images against all training images, in the features of a small network trained on the emoji subgroups. "
        "PNG, pixel values rounded. Not comparable with an ImageNet FID.",
        reconstruction="emoji-rfd",
    ),
    Protocol(
        "emoji-rfd",
        "reconstruct",
        "subgroup-cnn",
        "held_out",
        "Reconstructions of the held-out images against the same images; network and rounding as in emoji-gfd.",
    ),
    Protocol(
        "adm256-gfid",
        "sample",
        "inception-v3",
        "train",
        "50,000 drawn images, equally many a class, against ADM's mean and covariance of the ImageNet-256 training "
        "images; torch-fidelity's Inception with TensorFlow-compatible resize; PNG, rounded; Inception Score over 10 "
        "splits shuffled with seed 2020. Precision, recall and KID against 10,000 training images. As MAR.",
        reconstruction="val256-rfid",
        statistics="asset:adm-statistics",
        reference_images=10_000,
    ),
    Protocol(
        "val256-rfid",
        "reconstruct",
        "inception-v3",
        "held_out",
        "Reconstructions of the ImageNet validation images against the same images after the same ADM centre crop; "
        "torch-fidelity's Inception. Not comparable with MAR's own 1.22, which is against the training statistics.",
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _TABLE}


def protocol_of(study: Study, source: str) -> Protocol:
    """The protocol of a study's samples or reconstructions (source: sample or reconstruct). Raises SpecError."""
    name = study.scoring.protocol
    choices = [p.name for p in _TABLE if p.source == "sample"]
    if name not in choices:
        raise SpecError(f"scoring.protocol: {name!r} is unknown; choose from {', '.join(choices)}")
    protocol = PROTOCOLS[name]
    if protocol.network != study.scoring.extractor.network:
        raise SpecError(
            f"scoring.protocol: {name!r} is defined for the network {protocol.network!r}, and "
            f"scoring.extractor.network is {study.scoring.extractor.network!r}"
        )
    return protocol if source == "sample" else PROTOCOLS[protocol.reconstruction]


def distance_name(extractor: str) -> str:
    """What the Fréchet distance of an extractor is called in print: FID for Inception, else FD- and its name."""
    return "FID" if extractor == INCEPTION_NAME else f"FD-{extractor}"


def load_statistics(path: Path) -> dict[str, np.ndarray]:
    """Mean `mu` [2048] and covariance `sigma` [2048, 2048], float64, of an ADM statistics file (.npz).

    Raises ValueError for a file without them, other shapes, values not finite, or an asymmetric covariance.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            found = {key: content[key].astype(np.float64) for key in ("mu", "sigma")}
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"{path}: no statistics file with arrays mu and sigma ({error})") from None
    shapes = {key: value.shape for key, value in found.items()}
    if shapes != {"mu": (INCEPTION_WIDTH,), "sigma": (INCEPTION_WIDTH,) * 2}:
        raise ValueError(f"{path}: mu {shapes['mu']} and sigma {shapes['sigma']}; expected 2048 Inception features")
    if not all(np.isfinite(value).all() for value in found.values()):
        raise ValueError(f"{path}: holds values that are not finite")
    if not np.allclose(found["sigma"], found["sigma"].T, atol=1e-6):
        raise ValueError(f"{path}: sigma is not symmetric, so it is no covariance")
    return found
