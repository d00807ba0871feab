"""Latents as a sequence of tokens, and back; apart from the layers, whose library takes seconds to import."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def patchify(z: Tensor, patch: int = 1) -> Tensor:
    """Latents [B, C, h * patch, w * patch] as tokens [B, h * w, C * patch²], row-major; channels (C, row, column)."""
    return F.pixel_unshuffle(z, patch).flatten(2).transpose(1, 2)


def unpatchify(x: Tensor, height: int, patch: int = 1) -> Tensor:
    """The inverse of `patchify`; height: rows of tokens."""
    return F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (height, -1)), patch)
