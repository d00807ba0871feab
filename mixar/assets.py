"""External files that a study may need: what each is, where it is looked for, how it is recognised.

`ASSETS` is the one table. A study names a file of its own by path, or a row of the table as `asset:NAME`. Rows are
looked for under MIXAR_ASSETS (default: mixar/assets in the user's cache). Nothing here downloads; no torch here.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from mixar.spec import Study

PREFIX = "asset:"


@dataclass(frozen=True)
class Asset:
    """One external file or folder. `num_bytes` and the hashes are filled where they are known exactly."""

    name: str
    file_name: str
    what: str
    licence: str
    source: str
    num_bytes: int | None = None
    sha256: str | None = None
    git_blob: str | None = None  # as `git hash-object FILE` prints it
    is_folder: bool = False
    protocols: tuple[str, ...] = ()  # scoring protocols that need it; no study names it

    @property
    def path(self) -> Path:
        """Where this asset is looked for."""
        return folder() / self.file_name

    @property
    def is_there(self) -> bool:
        return self.path.is_dir() if self.is_folder else self.path.is_file()


_TABLE = (
    Asset(
        "vavae-f16d32",
        "vavae-imagenet256-f16d32-dinov2.pt",
        "continuous tokenizer: 256 tokens of 32 channels",
        "MIT",
        "Hugging Face hustvl/vavae-imagenet256-f16d32-dinov2 (LightningDiT)",
    ),
    Asset(
        "vavae-f16d32-statistics",
        "latents_stats.pt",
        "mean and standard deviation of the VA-VAE latents",
        "MIT",
        "Hugging Face hustvl/vavae-imagenet256-f16d32-dinov2 (LightningDiT)",
    ),
    Asset("kl16", "kl16.ckpt", "MAR's own continuous tokenizer, 16 channels", "MIT", "GitHub LTH14/mar, README"),
    Asset(
        "maskbit-tokenizer-14bit",
        "maskbit_tokenizer_14bit.bin",
        "discrete tokenizer: 256 tokens of 14 bits",
        "Apache-2.0",
        "Hugging Face markweber/maskbit_tokenizer_14bit",
    ),
    Asset(
        "maskbit-generator-14bit",
        "maskbit_generator_14bit.bin",
        "generator of the discrete tokens, 305 M parameters",
        "Apache-2.0",
        "Hugging Face markweber/maskbit_generator_14bit",
    ),
    Asset(
        "mar-b",
        "mar_base/checkpoint-last.pth",
        "MAR-B after 800 epochs, on KL-16 latents; about 1587 MiB",
        "MIT",
        "GitHub LTH14/mar, README",
    ),
    Asset(
        "mar-l",
        "mar_large/checkpoint-last.pth",
        "MAR-L after 800 epochs, on KL-16 latents; about 3650 MiB",
        "MIT",
        "GitHub LTH14/mar, README",
    ),
    Asset(
        "mar-h",
        "mar_huge/checkpoint-last.pth",
        "MAR-H after 800 epochs, on KL-16 latents; about 7191 MiB",
        "MIT",
        "GitHub LTH14/mar, README",
    ),
    Asset(
        "inception",
        "weights-inception-2015-12-05-6726825d.pth",
        "Inception-v3 of 2015-12-05 behind FID, IS and KID",
        "Apache-2.0",
        "GitHub toshas/torch-fidelity, releases",
        num_bytes=95_628_359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    Asset(
        "adm-statistics",
        "adm_in256_stats.npz",
        "Inception mean and covariance of the ImageNet-256 training set, from the ADM evaluator",
        "MIT",
        "GitHub LTH14/mar, fid_stats/",
        git_blob="1da4c17607fe959d54999fd098105649a0c05e15",
        protocols=("adm256-gfid",),
    ),
    Asset(
        "imagenet-train",
        "imagenet/train",
        "ILSVRC-2012 training images, one folder a class",
        "ImageNet terms: non-commercial research",
        "image-net.org, after registration",
        is_folder=True,
    ),
    Asset(
        "imagenet-val",
        "imagenet/val",
        "ILSVRC-2012 validation images, one folder a class",
        "ImageNet terms: non-commercial research",
        "image-net.org, after registration",
        is_folder=True,
    ),
)
ASSETS = {asset.name: asset for asset in _TABLE}


def folder() -> Path:
    """The folder of all assets: MIXAR_ASSETS, or mixar/assets in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("MIXAR_ASSETS") or cache / "mixar" / "assets")


def locate(value: str) -> Path:
    """The path behind `asset:NAME` or a plain path, there or not. Raises ValueError for an unknown name."""
    if not value.startswith(PREFIX):
        return Path(value)
    name = value.removeprefix(PREFIX)
    if name not in ASSETS:
        raise ValueError(f"{value!r}: no such asset; choose from {', '.join(ASSETS)}")
    return ASSETS[name].path


def resolve(value: str) -> Path:
    """The existing file or folder behind `asset:NAME` or a plain path.

    Raises ValueError where it is missing, or where its size or hash is not the table's: with what would do.
    """
    path = locate(value)
    asset = ASSETS.get(value.removeprefix(PREFIX)) if value.startswith(PREFIX) else None
    if not (asset.is_there if asset else path.exists()):
        raise ValueError(describe(asset) if asset else f"{path}: no such file or folder")
    if problem := asset and check(asset):
        raise ValueError(f"{path}: {problem}; fetch it again from: {asset.source}")
    return path


def check(asset: Asset) -> str | None:
    """What is wrong with an asset that is there: its size or its hash; None where nothing is, or nothing is known."""
    if asset.num_bytes is not None and (found := asset.path.stat().st_size) != asset.num_bytes:
        return f"expected {asset.num_bytes:,} bytes, found {found:,}"
    if asset.sha256 is not None and (found := file_sha256(asset.path)) != asset.sha256:
        return f"expected sha256 {asset.sha256}, found {found}"
    if asset.git_blob is not None and (found := _git_blob(asset.path)) != asset.git_blob:
        return f"expected git blob {asset.git_blob}, found {found}"
    return None


def describe(asset: Asset) -> str:
    """The asset's row in words, for a stage that misses it."""
    known = [f"{asset.num_bytes:,} bytes"] if asset.num_bytes else []
    known += [f"sha256 {asset.sha256}"] if asset.sha256 else []
    known += [f"git blob {asset.git_blob}"] if asset.git_blob else []
    return (
        f"asset {asset.name!r} is missing: {asset.what}\n"
        f"  expected at  {asset.path}{'/' if asset.is_folder else ''}\n"
        f"  get it from  {asset.source}\n"
        f"  licence      {asset.licence}\n" + (f"  recognised by {', '.join(known)}\n" if known else "")
    ).rstrip()


def references(study: Study) -> dict[str, str]:
    """Every external file or folder that the study names: key of the study -> `asset:NAME` or path."""
    named = {
        "data.path": study.data.path,
        "data.held_out_path": study.data.held_out_path,
        "continuous.weights": study.continuous.weights,
        "continuous.statistics": study.continuous.statistics,
        "discrete.weights": study.discrete.weights,
        "generator.weights": study.generator.weights,
        "scoring.extractor.weights": study.scoring.extractor.weights,
    }
    for name, run in study.runs.items():
        for seed in run.seeds if run.start else ():
            named[f"runs.{name}.start (seed {seed})"] = run.start.replace("{seed}", str(seed))
    for asset in ASSETS.values():
        if study.scoring.protocol in asset.protocols:
            named[f"scoring.protocol {study.scoring.protocol}"] = PREFIX + asset.name
    return {key: value for key, value in named.items() if value}


def missing(study: Study) -> dict[str, str]:
    """The part of `references` that is not there. Raises ValueError for an unknown asset name."""
    return {key: value for key, value in references(study).items() if not locate(value).exists()}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_blob(path: Path) -> str:
    content = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.hexdigest()
