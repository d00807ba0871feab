"""torch-fidelity's Inception: the network behind FID, with both resizes that protocols name, and the layer of sFID.

How an image comes to 299 pixels is part of a score. Symbols: B images in a batch, uint8 [B, 3, H, W].
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from mixar.assets.table import ASSETS
from mixar.process.failures import is_shortage
from mixar.scoring.extractors import Extractor
from mixar.storage.files import file_sha256
from mixar.study import sections
from mixar.weights import as_file, read_metadata, read_weights, tensors_sha256

INCEPTION_NAME = "inception-v3-compat"  # torch-fidelity's own name for it
INCEPTION_LAYERS = ("2048", "logits_unbiased")
INCEPTION_SHA256 = ASSETS["inception"].sha256
# Whoever gives a file one of these names means those weights: torch-fidelity's and pytorch-fid's, byte for byte alike.
INCEPTION_FILES = (ASSETS["inception"].file_name, "pt_inception-2015-12-05-6726825d.pth")
INCEPTION_SIZE = 299
TRUNK = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)
SPATIAL_CHANNELS = 7  # of mixed_6/conv, in ADM's evaluator: 17 * 17 * 7 = 2023 features


def tensorflow_resize(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to [B, 3, 299, 299] about [-1, 1], as TensorFlow 1 did: top left on top left. ADM, MAR."""
    size = (INCEPTION_SIZE, INCEPTION_SIZE)
    return (interpolate_bilinear_2d_like_tensorflow1x(images.float(), size, align_corners=False) - 128) / 128


def half_pixel_resize(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to [B, 3, 299, 299] in [-1, 1], pixel centres on pixel centres. pytorch-fid, VA-VAE."""
    unit = images.float() / 255
    return F.interpolate(unit, (INCEPTION_SIZE, INCEPTION_SIZE), mode="bilinear", align_corners=False) * 2 - 1


class HalfPixelInception(FeatureExtractorInceptionV3):
    """The same network and layers behind the other resize."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = half_pixel_resize(images)
        for name in TRUNK:
            x = getattr(self, name)(x)
        pool = x.flatten(1)
        return pool, pool @ self.fc.weight.T


USUAL = "tensorflow-1"
# By the resize that a protocol names.
INCEPTIONS = {USUAL: FeatureExtractorInceptionV3, "half-pixel": HalfPixelInception}


class SpatialInception(FeatureExtractorInceptionV3):
    """Features [B, 2023] for sFID: seven channels of a 17 x 17 layer, channels last, as in ADM's evaluator."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = tensorflow_resize(images)
        for name in TRUNK[: TRUNK.index("Mixed_6d")]:
            x = getattr(self, name)(x)
        return (self.Mixed_6d.branch1x1(x)[:, :SPATIAL_CHANNELS].movedim(1, -1).flatten(1),)


def load(path: Path, settings: sections.Extractor, resize: str | None = None, owner: str = "own") -> Extractor:
    """Inception behind the resize of a protocol. Raises ValueError as `read_inception` does.

    Only the released weights behind TensorFlow's resize have torch-fidelity's name, and so may make an FID.
    """
    resize = resize or USUAL
    network, sha256 = read_inception(path, INCEPTIONS[resize])
    name = INCEPTION_NAME if resize == USUAL else f"{settings.network}-{resize}"
    return Extractor(name if sha256 == INCEPTION_SHA256 else f"{name}-{sha256[:8]}", sha256, network)


def load_spatial(path: Path) -> Extractor:
    """The network of sFID. Raises ValueError as `read_inception` does."""
    network, sha256 = read_inception(path, SpatialInception)
    return Extractor("inception-spatial", sha256, network)


def read_inception(path: Path, build: type) -> tuple[nn.Module, str]:
    """The network, and the SHA-256 of the file that its weights were released in.

    build: the class. path: the released file, the safetensors file that `extractor` made of it, or other weights of the
    same layout.
    Raises ValueError for a missing, damaged or unfit file, and for other bytes under a released name.
    """
    path, asset = Path(path), ASSETS["inception"]
    wanted = f"{asset.file_name}, {asset.num_bytes} bytes, sha256 {INCEPTION_SHA256}"
    if not path.is_file():
        raise ValueError(f"{path}: Inception weights are missing; put {wanted} there, or set scoring.extractor.weights")
    imported = read_metadata(path) if path.suffix == ".safetensors" else None
    sha256 = file_sha256(path) if imported is None else imported.get("sha256", "")
    if path.name in INCEPTION_FILES and sha256 != INCEPTION_SHA256:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, sha256 {sha256}; a file of this name must be {wanted}")
    try:
        tensors = read_weights(path)
        if imported is not None and not (sha256 and imported.get("tensors_sha256") == tensors_sha256(tensors)):
            raise ValueError("its weights do not match the source that it names; import them again with `extractor`")
        weights = as_file(tensors, path)
        return build(INCEPTION_NAME, list(INCEPTION_LAYERS), feature_extractor_weights_path=weights), sha256
    except (RuntimeError, ValueError) as error:
        if is_shortage(error):
            raise
        raise ValueError(f"{path}: not Inception weights ({str(error).splitlines()[0]}); expected {wanted}") from None
