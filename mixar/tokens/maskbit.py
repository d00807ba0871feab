"""MaskBit tokenizer: images to bit tokens and back (Eq. 7, right).

Layer structure and parameter names follow MaskBit's ConvVQModel with the lookup-free quantiser, so released
weights load as they are.

q discrete tokens [B, L]; z values before quantisation [B, K, h, w]; images [B, 3, H, W] in [0, 1]; K bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixar.process.failures import finite
from mixar.study import sections
from mixar.tokens.norms import Norm, wide


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: the smaller half goes to the top and left."""

    def forward(self, x: Tensor) -> Tensor:
        k, s = self.kernel_size[0], self.stride[0]
        totals = [max((math.ceil(n / s) - 1) * s + k - n, 0) for n in x.shape[-2:]]
        (top, bottom), (left, right) = ((t // 2, t - t // 2) for t in totals)
        if top == bottom == left == right:  # symmetric: let the kernel pad
            return F.conv2d(x, self.weight, self.bias, self.stride, top)
        return super().forward(F.pad(x, (left, right, top, bottom)))


class ResBlock(nn.Module):
    """Two normalised convolutions. Where the width changes, the 1x1 shortcut acts on the result, not on the input."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.norm1 = Norm(width_in)
        self.conv1 = SameConv(width_in, width_out, 3, bias=False)
        self.norm2 = Norm(width_out)
        self.conv2 = SameConv(width_out, width_out, 3, bias=False)
        if width_in != width_out:
            self.nin_shortcut = SameConv(width_out, width_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        shortcut = self.nin_shortcut(h) if hasattr(self, "nin_shortcut") else x
        return h + shortcut.to(self.norm1.weight.dtype)  # under autocast the sum of residuals stays in float32


class Level(nn.Module):
    """Residual blocks of one resolution. A coder adds what follows them, if anything does."""

    down_conv: nn.Module
    upsample_conv: nn.Module

    def __init__(self, width_in: int, width_out: int, num_blocks: int):
        super().__init__()
        self.res_blocks = nn.ModuleList(
            ResBlock(width_in if i == 0 else width_out, width_out) for i in range(num_blocks)
        )

    def forward(self, h: Tensor) -> Tensor:
        for block in self.res_blocks:
            h = block(h)
        return h


class Encoder(nn.Module):
    """Images [B, 3, H, W] to z [B, K, h, w]."""

    def __init__(self, s: sections.MaskBit):
        super().__init__()
        widths = [s.channels * m for m in s.multipliers]
        self.conv_in = SameConv(3, s.channels, 3, bias=False)
        self.down = nn.ModuleList()
        width = s.channels
        for level, out in enumerate(widths):
            stage = Level(width, out, s.num_res_blocks)
            if level < len(widths) - 1:
                stage.down_conv = SameConv(out, out, 3, stride=2)
            self.down.append(stage)
            width = out
        self.mid = Level(width, width, s.num_res_blocks)
        self.norm_out = Norm(width)
        self.conv_out = SameConv(width, s.bits, 1)

    def forward(self, images: Tensor) -> Tensor:
        h = self.conv_in(images.to(self.conv_in.weight.dtype))
        for stage in cast("Iterable[Level]", self.down):
            h = stage(h)
            if hasattr(stage, "down_conv"):
                h = stage.down_conv(h)
        return wide(self.conv_out(F.silu(self.norm_out(self.mid(h)))))


class Decoder(nn.Module):
    """Bits ±1 [B, K, h, w] to images; `up` is stored from coarse to fine."""

    def __init__(self, s: sections.MaskBit):
        super().__init__()
        widths = [s.channels * m for m in reversed(s.multipliers)]
        width = widths[0]
        self.conv_in = SameConv(s.bits, width, 3)
        self.mid = Level(width, width, s.num_res_blocks)
        self.up = nn.ModuleList()
        for level, out in enumerate(widths):
            stage = Level(width, out, s.num_res_blocks)
            if level < len(widths) - 1:
                stage.upsample_conv = SameConv(out, out, 3)
            self.up.append(stage)
            width = out
        self.norm_out = Norm(width)
        self.conv_out = SameConv(width, 3, 3)

    def forward(self, bits: Tensor) -> Tensor:
        h = self.mid(self.conv_in(bits.to(self.conv_in.weight.dtype)))
        for stage in cast("Iterable[Level]", self.up):
            h = stage(h)
            if hasattr(stage, "upsample_conv"):
                h = stage.upsample_conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return wide(self.conv_out(F.silu(self.norm_out(h))))


class Quantizer(nn.Module):
    """Lookup-free quantiser: each channel becomes the bit of its sign; channel 0 is the least significant bit."""

    bits_to_indices: Tensor
    codebook: Tensor

    def __init__(self, bits: int):
        super().__init__()
        powers = 2 ** torch.arange(bits)
        self.register_buffer("bits_to_indices", powers.to(torch.int32))
        self.register_buffer("codebook", self.bits_of(torch.arange(2**bits)))

    def tokens(self, z: Tensor) -> Tensor:
        """z [B, K, ...] to q [B, ...]; zero counts as -1."""
        powers = self.bits_to_indices.long().view(1, -1, *[1] * (z.dim() - 2))
        return ((z > 0).long() * powers).sum(1)

    def bits_of(self, q: Tensor) -> Tensor:
        """q [...] to ±1 [..., K]."""
        powers = self.bits_to_indices.long()
        return ((q.unsqueeze(-1) & powers) != 0).float() * 2.0 - 1.0


def straight_through(z: Tensor) -> Tensor:
    """±1 in the forward pass, the identity in the backward pass."""
    q = torch.where(z > 0, 1.0, -1.0)
    return z + (q - z).detach()


class MaskBit(nn.Module):
    """The whole tokenizer."""

    def __init__(self, s: sections.MaskBit):
        super().__init__()
        self.encoder = Encoder(s)
        self.decoder = Decoder(s)
        self.quantize = Quantizer(s.bits)

    def tokens(self, images: Tensor) -> Tensor:
        """q [B, L], row-major, of images in [0, 1]. Raises FloatingPointError where a bit's value is not finite."""
        return self.quantize.tokens(finite(self.encoder(images), "bits")).flatten(1)

    def decode_tokens(self, q: Tensor) -> Tensor:
        """Images in [0, 1] of q [B, L].

        Raises ValueError unless L is a square, FloatingPointError where a pixel is not finite.
        """
        side = math.isqrt(q.shape[1])
        if side**2 != q.shape[1]:
            raise ValueError(f"tokens: {q.shape[1]} positions do not form a square grid")
        bits = self.quantize.bits_of(q).view(len(q), side, side, -1).permute(0, 3, 1, 2)
        return finite(self.decoder(bits.contiguous()), "pixels").clamp(0.0, 1.0)

    def training_loss(
        self, images: Tensor, settings: sections.TokenizerTraining, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """`loss` (pixel error, commitment and entropy) and `mse`, for images [B, 3, H, W] in [0, 1]; draws nothing."""
        z = self.encoder(images)
        error = self.decoder(straight_through(z)) - images
        mse = error.square().mean()
        commitment, entropy = quantizer_losses(z, self.quantize.codebook, settings)
        loss = 4.0 * mse + 2.0 * settings.l1_weight * error.abs().mean() + commitment + entropy
        return {"loss": loss, "mse": mse}


def entropy_terms(z: Tensor, codebook: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Mean entropy of each position's code distribution, and the entropy of their mean (MaskBit, lookup-free).

    z [R, K] rows, codebook [V, K]. Both in nats. The distribution is a softmax of 2 z·code / temperature.
    """
    p = (2.0 * z @ codebook.T / temperature).softmax(-1)
    per_sample = -(p * p.clamp_min(1e-5).log()).sum(-1).mean()
    mean = p.mean(0)
    return per_sample, -(mean * mean.clamp_min(1e-5).log()).sum()


def quantizer_losses(z: Tensor, codebook: Tensor, s: sections.TokenizerTraining) -> tuple[Tensor, Tensor]:
    """Commitment and entropy losses of z [B, K, h, w], weighted."""
    z = z.float()
    quantized = torch.where(z > 0, 1.0, -1.0)
    commitment = s.commitment_weight * (quantized - z).square().mean()
    rows = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
    with torch.autocast(z.device.type, enabled=False):  # the small temperature magnifies every rounding error
        terms = [entropy_terms(part, codes, s.entropy_temperature) for part, codes in _grouped(rows, codebook, s)]
    per_sample, batch = (sum(values) for values in zip(*terms, strict=True))
    return commitment, s.entropy_weight * (per_sample - s.entropy_gamma * batch)


def _grouped(rows: Tensor, codebook: Tensor, s: sections.TokenizerTraining) -> list[tuple[Tensor, Tensor]]:
    """Each group's columns of the rows [R, K], and its codes.

    A code's probability is the product of its bits', so the groups' per-sample entropies add up to that of all bits;
    their batch entropies add up to an upper bound, at a cost of 2**(K / groups) instead of 2**K a row.
    """
    parts = rows.tensor_split(s.entropy_groups, dim=1)
    return [(part, codebook[: 2 ** part.shape[1], : part.shape[1]]) for part in parts]
