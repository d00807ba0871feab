"""Released feature networks, from files that are named, checked and never unpickled: Inception, DINOv2, VGG16.

Symbols: B images in a batch. Every network takes uint8 [B, 3, H, W] and resizes them itself, each in its own way: how
an image comes to 299 or 224 pixels is part of a score. The small network of the demo lives in features.py.
"""

from __future__ import annotations

import io
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity import FeatureExtractorInceptionV3
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from mixar.assets.table import ASSETS
from mixar.failures import is_shortage
from mixar.files import file_sha256
from mixar.weights import check_finite, load_module, read_metadata, read_weights, tensors_sha256, unwrapped

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
DINOV2_SIZE, DINOV2_OFFSET = 224, 0.1  # pixels; added to the number of patches a side when positions are resampled
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# Inception


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


# By the resize that a protocol names.
INCEPTIONS = {"tensorflow-1": FeatureExtractorInceptionV3, "half-pixel": HalfPixelInception}


class SpatialInception(FeatureExtractorInceptionV3):
    """Features [B, 2023] for sFID: seven channels of a 17 x 17 layer, channels last, as in ADM's evaluator."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        x = tensorflow_resize(images)
        for name in TRUNK[: TRUNK.index("Mixed_6d")]:
            x = getattr(self, name)(x)
        return (self.Mixed_6d.branch1x1(x)[:, :SPATIAL_CHANNELS].movedim(1, -1).flatten(1),)


def load_inception(path: Path, build: type = FeatureExtractorInceptionV3) -> tuple[nn.Module, str]:
    """The network and the SHA-256 of the file that its weights were released in.

    path: the released file, the safetensors file that `extractor` made of it, or other weights of the same layout.
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
            raise ValueError("not the weights that it says it was made from; import them again with `extractor`")
        weights = _buffer(tensors, path)
        return build(INCEPTION_NAME, list(INCEPTION_LAYERS), feature_extractor_weights_path=weights), sha256
    except (RuntimeError, ValueError) as error:
        if is_shortage(error):
            raise
        raise ValueError(f"{path}: no Inception weights ({str(error).splitlines()[0]}); expected {wanted}") from None


def _buffer(tensors: dict[str, Tensor], path: Path) -> io.BytesIO:
    """The library unpickles whatever it is given, so it gets these checked tensors, and no path of a user's file."""
    check_finite(tensors, path)
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    buffer.seek(0)
    return buffer


# DINOv2 and VGG16


class DINOv2(nn.Module):
    """Class token of DINOv2's ViT-L/14, [B, 1024], behind dgm-eval's preparation as EDM2 has it for FD-DINOv2.

    Bicubic with antialiasing to 224 pixels, ImageNet mean and deviation.
    """

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.trunk = trunk
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        size = (DINOV2_SIZE, DINOV2_SIZE)
        x = F.interpolate(images.float(), size, mode="bicubic", antialias=True) / 255
        return (self.trunk((x - self.mean) / self.std),)


def resample_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings [1, 1 + L, D] of a class token and a square grid, for a grid of side * side.

    As DINOv2's own code: bicubic without antialiasing, and a factor a tenth of a patch too large. timm resamples with
    antialiasing, which moves the features.
    """
    first, grid = positions[:, :1], positions[:, 1:]
    found = round(grid.shape[1] ** 0.5)
    if found == side:
        return positions
    square = grid.reshape(1, found, found, -1).movedim(-1, 1)
    factor = (side + DINOV2_OFFSET) / found
    square = F.interpolate(square, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([first, square.movedim(1, -1).flatten(1, 2)], dim=1)


def load_dinov2(path: Path, model: str = "vit_large_patch14_dinov2") -> tuple[DINOv2, str]:
    """The network from `dinov2_vitl14_pretrain.pth` or safetensors of the same keys, and the SHA-256 of the file.

    model: timm's name. Raises ValueError for a missing, damaged or unfit file.
    """
    with torch.device("meta"):
        trunk = timm.create_model(model, pretrained=False, img_size=DINOV2_SIZE, num_classes=0)
    tensors = unwrapped(read_weights(path), {"pos_embed"})
    tensors.pop("mask_token", None)
    if "pos_embed" not in tensors:
        raise ValueError(f"{path}: no DINOv2 weights, for pos_embed is missing; expected dinov2_vitl14_pretrain.pth")
    tensors["pos_embed"] = resample_positions(tensors["pos_embed"], trunk.patch_embed.grid_size[0])
    return DINOv2(load_module(trunk, tensors)).requires_grad_(False).eval(), file_sha256(path)


def load_vgg16(path: Path) -> tuple[FeatureExtractorVGG16, str]:
    """torch-fidelity's VGG16, features after the second hidden layer [B, 4096], and the SHA-256 of the file.

    Raises ValueError for a missing, damaged or unfit file.
    """
    try:
        weights = _buffer(read_weights(path), path)
        return FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=weights), file_sha256(path)
    except RuntimeError as error:
        if is_shortage(error):
            raise
        raise ValueError(
            f"{path}: no VGG16 weights ({str(error).splitlines()[0]}); expected vgg16-397923af.pth"
        ) from None


# Networks beside the protocol's own: scoring.further. Each gives the metrics of its name in metrics.FURTHER.
FURTHER = {
    "dinov2-vitl14": load_dinov2,
    "vgg16": load_vgg16,
    "inception-spatial": lambda path: load_inception(path, SpatialInception),
}
