"""DINOv2's ViT-L/14 behind dgm-eval's preparation, as EDM2 has it for FD-DINOv2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixar.scoring.extractors import Extractor
from mixar.storage.files import file_sha256
from mixar.weights import load_module, read_weights, unwrapped

DINOV2_SIZE, DINOV2_OFFSET = 224, 0.1  # pixels; added to the number of patches per side when positions are resampled
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DINOv2(nn.Module):
    """Class token of DINOv2's ViT-L/14, [B, 1024], behind dgm-eval's preparation as EDM2 has it for FD-DINOv2.

    Bicubic with antialiasing to 224 pixels, ImageNet mean and deviation.
    """

    mean: Tensor
    std: Tensor

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


def load(path: Path, model: str = "vit_large_patch14_dinov2") -> Extractor:
    """The network from `dinov2_vitl14_pretrain.pth` or safetensors of the same keys.

    model: timm's name. Raises ValueError for a missing, damaged or unfit file.
    """
    with torch.device("meta"):
        trunk: Any = timm.create_model(model, pretrained=False, img_size=DINOV2_SIZE, num_classes=0)
    tensors = unwrapped(read_weights(path), {"pos_embed"})
    tensors.pop("mask_token", None)
    if "pos_embed" not in tensors:
        raise ValueError(f"{path}: not DINOv2 weights (pos_embed is missing); expected dinov2_vitl14_pretrain.pth")
    tensors["pos_embed"] = resample_positions(tensors["pos_embed"], trunk.patch_embed.grid_size[0])
    network = DINOv2(load_module(trunk, tensors)).requires_grad_(False).eval()
    return Extractor("dinov2-vitl14", file_sha256(path), network)
