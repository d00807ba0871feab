"""The table of external files: what each is, its licence, size, hash and source.

`mixar.assets.check` finds and checks them, `mixar.assets.fetch` downloads them. Sizes and hashes are here only where
their source states them.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from mixar.storage.files import expanded

PREFIX = "asset:"  # a study names a row of the table as `asset:NAME`


def folder() -> Path:
    """The folder of all assets: MIXAR_ASSETS, in which `~` and variables are filled in as in a study's paths, or
    mixar/assets in the user's cache.

    Raises ValueError for an unknown user or variable, and where no home folder is known.
    """
    if given := os.environ.get("MIXAR_ASSETS"):
        try:
            return Path(expanded(given))
        except ValueError as error:
            raise ValueError(f"MIXAR_ASSETS: {error}; found {given!r}") from None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixar" / "assets"
    except RuntimeError:
        raise ValueError("MIXAR_ASSETS: is not set, and no home folder is known; set it to a folder") from None


@dataclass(frozen=True)
class Hub:
    """A file of a Hugging Face repository, at one commit where its hash is known."""

    repository: str
    file: str
    revision: str = "main"


@dataclass(frozen=True)
class Address:
    """A file behind an HTTPS address; redirects are followed."""

    url: str


@dataclass(frozen=True)
class ByHand:
    """Words for what a person must do; {folder} is the folder of all assets."""

    steps: str


@dataclass(frozen=True)
class Asset:
    """One external file or folder. `num_bytes` and the hashes are filled where they are known exactly."""

    name: str
    file_name: str
    what: str
    licence: str
    source: str
    way: Hub | Address | ByHand
    num_bytes: int | None = None
    about_bytes: int | None = None  # as its source rounds it, where the exact size is unknown; right to 1 %
    sha256: str | None = None  # or the beginning of it, where its source states no more
    git_blob: str | None = None  # as `git hash-object FILE` prints it
    num_folders: int | None = None  # the asset is a folder of so many folders
    protocols: tuple[str, ...] = ()  # scoring protocols that need it; no study names it

    @property
    def path(self) -> Path:
        """Where this asset is looked for."""
        return folder() / self.file_name

    @property
    def is_folder(self) -> bool:
        return self.num_folders is not None

    @property
    def is_there(self) -> bool:
        return self.path.is_dir() if self.is_folder else self.path.is_file()

    @property
    def known_hash(self) -> tuple[str, str] | None:
        """The hash to compare with: its name in `mixar.assets.check.HASHES` and its value."""
        known = {"sha256": self.sha256, "git_blob": self.git_blob}
        return next(((name, value) for name, value in known.items() if value), None)

    @property
    def size(self) -> str:
        """Its size as text: exact, rounded after a ~, or ? if unknown."""
        if self.num_bytes:
            return f"{self.num_bytes / 2**20:,.1f} MiB" if self.num_bytes > 2**20 else f"{self.num_bytes:,} bytes"
        if self.about_bytes:
            return f"~{self.about_bytes / 2**20:,.0f} MiB"
        return "" if self.is_folder else "?"

    @property
    def command(self) -> str:
        """A command that downloads it without mixar and can resume; otherwise the steps by hand."""
        way, quoted = self.way, shlex.quote
        if isinstance(way, ByHand):
            return way.steps.format(folder=folder())
        if isinstance(way, Address):
            return f"curl -L -C - --create-dirs -o {quoted(str(self.path))} {quoted(way.url)}"
        to = quoted(str(self.path.parent))
        return f"hf download {way.repository} {way.file} --revision {way.revision} --local-dir {to}"


_DROPBOX = "https://www.dropbox.com/scl/fi/"
_VAVAE = "hustvl/vavae-imagenet256-f16d32-dinov2"
_VAVAE_COMMIT = "15cf70a3ed5e893123de422a817391eafde83ec9"
# The copy that MAR's README links, at the commit that still holds the original files. Their sizes in MiB are those of
# the files on Dropbox, as MAR's util/download.py states them; hashes are stated of the copy alone.
_MAR, _MAR_COMMIT = "jadechoghari/mar", "773c9bdcd98740c7b876ce0d66f684a0e2468990"
_MAR_CODE = "https://raw.githubusercontent.com/LTH14/mar/fe470ac24afbee924668d8c5c83e9fec60af3a73/"
_MASKBIT_CODE = "https://raw.githubusercontent.com/markweberdev/maskbit/5ea3d733c62625eaf86dab8364bdb7e6e71def99/"
_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/"

# Bits -> what Hugging Face states of the tokenizer's file. Of the one with 10 bits and of the generators nothing was
# found; there `mixar assets get` compares with what the Hub announces.
_TOKENIZERS: dict[int, dict] = {
    10: {},
    12: {
        "revision": "aa302c0afb6a5e06f264542843157583c9e7d215",
        "about_bytes": 218_000_000,
        "sha256": "3dde024443d68a10295a518d9e851f61e0527c85f1197aa41405237153182170",
    },
    14: {
        "revision": "67eb4c7c63018b8d519b95da8ef64190cc83a557",
        "about_bytes": 219_000_000,
        "sha256": "ca9209fbd55ec467c7151b1f863b99ba2675a5229f6f86f27cfe79152671f310",
    },
    16: {
        "revision": "cf17f8ef1a6495fbb0c95a3bb7678fc177c7dd5d",
        "num_bytes": 222_258_958,
        "sha256": "44e3ff7c3bf15eda4e1e25586ff8f657be9291d5e2bf3b755505394e11765b06",
    },
    18: {
        "revision": "825f2ea21f7e02008aa16f35c4b07f86e8578586",
        "num_bytes": 236_979_982,
        "sha256": "6c672c2508e14c4d7cd8621c1cb8939610478632725bb26521cf3c4bb6fc3f78",
    },
}


def _maskbit(part: str, bits: int, what: str, revision: str = "main", **known) -> Asset:
    name = f"maskbit_{part}_{bits}bit"
    way = Hub(f"markweber/{name}", f"{name}.bin", revision)
    source = "GitHub markweberdev/maskbit, README: Hugging Face " + way.repository
    return Asset(name.replace("_", "-"), way.file, what, "Apache-2.0", source, way, **known)


def _imagenet(split: str, archive: str, what: str) -> Asset:
    steps = (
        f"register at image-net.org; put {archive} and ILSVRC2012_devkit_t12.tar.gz into {{folder}}/imagenet; then: "
        f"""python -c "from torchvision.datasets import ImageNet; ImageNet('{{folder}}/imagenet', '{split}')" """
        f"(or link a folder of class folders to {{folder}}/imagenet/{split})"
    )
    licence, source = "ImageNet terms: non-commercial research", "image-net.org, after registration"
    name, path = f"imagenet-{split}", f"imagenet/{split}"
    return Asset(name, path, what, licence, source, ByHand(steps), num_folders=1000)


_TABLE = (
    Asset(
        "vavae-f16d32",
        "vavae-imagenet256-f16d32-dinov2.pt",
        "continuous tokenizer: 256 tokens of 32 channels",
        "MIT",
        f"GitHub hustvl/LightningDiT, README: Hugging Face {_VAVAE}",
        Hub(_VAVAE, "vavae-imagenet256-f16d32-dinov2.pt", _VAVAE_COMMIT),
        about_bytes=2_150_000_000,
        sha256="2088e07378d26047e7bfcbae669feb5d4eab37276f23621db3eebdacc7d82b6b",
    ),
    Asset(
        "vavae-f16d32-statistics",
        "latents_stats.pt",
        "mean and standard deviation of the VA-VAE latents",
        "MIT",
        f"GitHub hustvl/LightningDiT, README: Hugging Face {_VAVAE}",
        Hub(_VAVAE, "latents_stats.pt", _VAVAE_COMMIT),
        num_bytes=1_788,
        sha256="fb96ba21f7f423ae9b0d1e732b0eac16d386f0653bf21608df682138c2fa5ee7",
    ),
    Asset(
        "kl16",
        "kl16.ckpt",
        "MAR's own continuous tokenizer, 16 channels",
        "MIT",
        f"GitHub LTH14/mar, README: Dropbox and Hugging Face {_MAR}",
        Hub(_MAR, "kl16.ckpt", _MAR_COMMIT),
        num_bytes=265_900_046,
        sha256="34ce001bcfffb7af67ec8af1e683a30d7bd45760855ddc7deedc1330f2cfd38f",
    ),
    *(_maskbit("tokenizer", b, f"discrete tokenizer: 256 tokens of {b} bits", **_TOKENIZERS[b]) for b in _TOKENIZERS),
    *(_maskbit("generator", b, f"generator of tokens of {b} bits, 305 M parameters") for b in _TOKENIZERS),
    Asset(
        "mar-b",
        "mar_base/checkpoint-last.pth",
        "MAR-B after 800 epochs, on KL-16 latents",
        "MIT",
        f"GitHub LTH14/mar, README: Dropbox and Hugging Face {_MAR}",
        Hub(_MAR, "checkpoint-last.pth", _MAR_COMMIT),
        num_bytes=1_663_614_946,
        sha256="7e970a33bc90353e2fabe3498ed1f2d194dd8d17cd387665f80b2984dfca538c",
    ),
    Asset(
        "mar-l",
        "mar_large/checkpoint-last.pth",
        "MAR-L after 800 epochs, on KL-16 latents",
        "MIT",
        "GitHub LTH14/mar, README: Dropbox",
        Address(_DROPBOX + "pxacc5b2mrt3ifw4cah6k/checkpoint-last.pth?rlkey=m48ovo6g7ivcbosrbdaz0ehqt&dl=1"),
        about_bytes=3650 * 2**20,
    ),
    Asset(
        "mar-h",
        "mar_huge/checkpoint-last.pth",
        "MAR-H after 800 epochs, on KL-16 latents",
        "MIT",
        "GitHub LTH14/mar, README: Dropbox",
        Address(_DROPBOX + "1qmfx6fpy3k7j9vcjjs3s/checkpoint-last.pth?rlkey=4lae281yzxb406atp32vzc83o&dl=1"),
        about_bytes=7191 * 2**20,
    ),
    Asset(
        "inception",
        "weights-inception-2015-12-05-6726825d.pth",
        "Inception-v3 of 2015-12-05 behind FID, IS and KID",
        "Apache-2.0",
        "GitHub toshas/torch-fidelity, releases",
        Address(
            "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth"
        ),
        num_bytes=95_628_359,
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    Asset(
        "dinov2-vitl14",
        "dinov2_vitl14_pretrain.pth",
        "DINOv2's ViT-L/14 behind FD-DINOv2, for scoring.further",
        "Apache-2.0",
        "GitHub facebookresearch/dinov2, README",
        Address("https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"),
    ),
    Asset(
        "vgg16",
        "vgg16-397923af.pth",
        "VGG16 behind the precision and recall of their paper, for scoring.further; its name ends in its hash's start",
        "BSD-3-Clause",
        "GitHub pytorch/vision, models/vgg.py",
        Address("https://download.pytorch.org/models/vgg16-397923af.pth"),
        sha256="397923af",
    ),
    Asset(
        "adm-statistics",
        "adm_in256_stats.npz",
        "Inception mean and covariance of the ImageNet-256 training set, from the ADM evaluator",
        "MIT",
        "GitHub LTH14/mar, fid_stats/",
        Address(_MAR_CODE + "fid_stats/adm_in256_stats.npz"),
        git_blob="1da4c17607fe959d54999fd098105649a0c05e15",
        protocols=("adm256-gfid", "mar-train-rfid"),
    ),
    Asset(
        "adm-reference",
        "VIRTUAL_imagenet256_labeled.npz",
        "the ADM evaluator's own file: those statistics and 10,000 images; for a protocol of your own",
        "MIT; its images under ImageNet's terms",
        "GitHub openai/guided-diffusion, evaluations/",
        Address(_ADM + "VIRTUAL_imagenet256_labeled.npz"),
        num_bytes=2_037_122_530,
        sha256="b32732719497e42660a9affb4a966068cba0855ac449b82015e34ec376d20758",
    ),
    Asset(
        "maskbit-statistics",
        "train_imagenet256_stats.npz",
        "MaskBit's Inception mean and covariance of the ImageNet-256 training set; for a protocol of your own",
        "Apache-2.0",
        "GitHub markweberdev/maskbit, metrics/stats/",
        Address(_MASKBIT_CODE + "metrics/stats/train_imagenet256_stats.npz"),
        git_blob="b46459400346586eff8c115622e9da1dc6ca6813",
    ),
    _imagenet("train", "ILSVRC2012_img_train.tar", "ILSVRC-2012 training images, one folder per class"),
    _imagenet("val", "ILSVRC2012_img_val.tar", "ILSVRC-2012 validation images, one folder per class"),
)
ASSETS = {asset.name: asset for asset in _TABLE}
