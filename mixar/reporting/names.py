"""Printed names of runs and tokenizers: from the study's labels, classes, released weights and sizes."""

from __future__ import annotations

from mixar.assets.table import ASSETS, PREFIX
from mixar.study.choices import is_own
from mixar.study.sections import Autoencoder, MaskBit, Study, VaVae

# Rows that belong to no run of the study: images decoded from the discrete tokens that guide every run, and the two
# tokenizers' reconstructions.
OTHERS = ("maskbit", "continuous", "discrete")
OWN = "own_"  # prefix of the run name of images from outside the study; their rows carry a label
FAMILIES = {"vavae": "VAE", "maskbit": "MaskBit"}  # of a built-in tokenizer, where it is not its row in the table
RELEASED = {"vavae-f16d32": "VA-VAE f16d32", "kl16": "KL-16"}  # continuous tokenizers by asset; others go by size


def label_of(study: Study, run: str) -> str:
    """How a run, or one of OTHERS, is printed. Raises KeyError for another name."""
    if run in (networks := study.networks):
        return networks[run].label
    return {
        "maskbit": f"{of(family(study.discrete))} own images",
        "continuous": tokenizer(study.continuous),
        "discrete": tokenizer(study.discrete),
    }[run]


def tokenizer(section: Autoencoder) -> str:
    """A tokenizer by its class where it is the study's own, by its released weights, or by family and size."""
    if is_own(section.network):
        return family(section)
    if isinstance(section, MaskBit):
        return f"{section.bits}-bit {family(section)} tokenizer"
    assert isinstance(section, VaVae)
    return _released(section) or f"{family(section)} f{section.stride}d{section.latent_channels}"


def family(section: Autoencoder) -> str:
    """What the architecture of a tokenizer is called; for the study's own its class."""
    return FAMILIES.get(section.network) or section.network.rpartition(":")[2]


def of(name: str) -> str:
    """The genitive: MaskBit's, Patches'."""
    return f"{name}'" if name.endswith("s") else f"{name}'s"


def _released(section: VaVae) -> str | None:
    weights = section.weights or ""
    return next(
        (title for asset, title in RELEASED.items()
         if weights == PREFIX + asset or weights.rpartition("/")[2] == ASSETS[asset].file_name),
        None,
    )  # fmt: skip
