"""VA-VAE: images to continuous latents and back (Eq. 7, left).

Layer structure and parameter names follow LightningDiT's AutoencoderKL f16d32, so released weights load as they
are; MAR's KL-16 is the same network with 16 latent channels and no attention in the decoder.

x latents [B, C, h, w]; images [B, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixar.study import sections
from mixar.tokens.norms import Norm, wide


class ResBlock(nn.Module):
    """Two normalised convolutions around a skip from the input."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.norm1 = Norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2 = Norm(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        if width_in != width_out:
            self.nin_shortcut = nn.Conv2d(width_in, width_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        shortcut = self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x
        return h + shortcut.to(self.norm1.weight.dtype)  # under autocast the sum of residuals stays in float32


class Attention(nn.Module):
    """Single-head self-attention over all positions, residual."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = Norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2) for f in (self.q, self.k, self.v))
        out = F.scaled_dot_product_attention(q, k, v)
        return x.to(self.norm.weight.dtype) + self.proj_out(out.transpose(1, 2).reshape_as(x))


class Downsample(nn.Module):
    """Halve the resolution; the odd pixel of padding goes right and below."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if the level has it. Coders may append a layer."""

    downsample: nn.Module
    upsample: nn.Module

    def __init__(self, width_in: int, width_out: int, num_blocks: int, has_attention: bool):
        super().__init__()
        self.block = nn.ModuleList(ResBlock(width_in if i == 0 else width_out, width_out) for i in range(num_blocks))
        self.attn = nn.ModuleList(Attention(width_out) for _ in range(num_blocks if has_attention else 0))

    def forward(self, h: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            h = block(h)
            if len(self.attn):
                h = self.attn[i](h)
        return h


def _middle(width: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"block_1": ResBlock(width, width), "attn_1": Attention(width), "block_2": ResBlock(width, width)}
    )


class Encoder(nn.Module):
    """Images [B, 3, H, W] to moments before `quant_conv` [B, 2C, h, w]."""

    def __init__(self, s: sections.VaVae):
        super().__init__()
        widths = [s.channels * m for m in s.multipliers]
        self.conv_in = nn.Conv2d(3, s.channels, 3, padding=1)
        self.down = nn.ModuleList()
        width = s.channels
        for level, out in enumerate(widths):
            stage = Level(width, out, s.num_res_blocks, level in s.attention_levels)
            if level < len(widths) - 1:
                stage.downsample = Downsample(out)
            self.down.append(stage)
            width = out
        self.mid = _middle(width)
        self.norm_out = Norm(width)
        self.conv_out = nn.Conv2d(width, 2 * s.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for stage in cast("Iterable[Level]", self.down):
            h = stage(h)
            if hasattr(stage, "downsample"):
                h = stage.downsample(h)
        for part in self.mid.values():
            h = part(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    """Latents after `post_quant_conv` to images; `up` is indexed by level, the coarsest runs first."""

    def __init__(self, s: sections.VaVae):
        super().__init__()
        widths = [s.channels * m for m in s.multipliers]
        width = widths[-1]
        self.conv_in = nn.Conv2d(s.latent_channels, width, 3, padding=1)
        self.mid = _middle(width)
        stages: list[Level] = []
        for level in reversed(range(len(widths))):
            has_attention = s.decoder_attention and level in s.attention_levels
            stage = Level(width, widths[level], s.num_res_blocks + 1, has_attention)
            if level > 0:
                stage.upsample = Upsample(widths[level])
            stages.insert(0, stage)
            width = widths[level]
        self.up = nn.ModuleList(stages)
        self.norm_out = Norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.conv_in(z)
        for part in self.mid.values():
            h = part(h)
        for stage in cast("Iterable[Level]", reversed(self.up)):
            h = stage(h)
            if hasattr(stage, "upsample"):
                h = stage.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class VaVae(nn.Module):
    """The whole autoencoder."""

    def __init__(self, s: sections.VaVae):
        super().__init__()
        self.encoder = Encoder(s)
        self.decoder = Decoder(s)
        self.quant_conv = nn.Conv2d(2 * s.latent_channels, 2 * s.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(s.latent_channels, s.latent_channels, 1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and log variance, [B, C, h, w] each, of images in [-1, 1]."""
        moments = self.quant_conv(self.encoder(images.to(self.quant_conv.weight.dtype)))
        mean, logvar = wide(moments).chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0) + 0 * logvar  # adds nothing, but what is not finite stays so

    def decode(self, z: Tensor) -> Tensor:
        """Images around [-1, 1], not clamped."""
        return wide(self.decoder(self.post_quant_conv(z.to(self.post_quant_conv.weight.dtype))))

    def training_loss(
        self, images: Tensor, settings: sections.TokenizerTraining, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """`loss` (squared and absolute pixel error and KL) and `mse`, for images [B, 3, H, W] in [0, 1]."""
        target = images * 2.0 - 1.0
        mean, logvar = self.encode(target)
        noise = torch.randn(mean.shape, generator=rng, device=mean.device)
        error = self.decode(sample_posterior(mean, logvar, noise)) - target
        mse, kl = error.square().mean(), kl_divergence(mean, logvar).mean()
        loss = mse + settings.l1_weight * error.abs().mean() + settings.kl_weight * kl
        return {"loss": loss, "mse": mse / 4.0}  # of pixels in [0, 1]


def sample_posterior(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """One draw from the posterior: mean + std * noise."""
    return mean + (0.5 * logvar).exp() * noise


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL to the standard normal, summed over each latent map: [B], nats."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).flatten(1).sum(1)
