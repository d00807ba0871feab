"""The diffusion head: a small adaptive-norm MLP that draws a token's latent from its condition (Eq. 5; MAR's DiffLoss).

Symbols: z condition [R, D], x latents [R, C], t timestep [R] int64, h hidden [R, W], s SiLU of the time and condition
embedding [R, W]; R rows (any positions of any images), D width of the transformer, C channels, W width of the head.
Parameter names follow MAR's `diffloss`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import is_autocast_available
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mixar.model.diffusion import NUM_TIMESTEPS, Diffusion
from mixar.model.layers import normalised, recomputed, wide

NORM_EPS = 1e-6
NUM_FREQUENCIES = 128  # of the sinusoidal time embedding


class TimeEmbedding(nn.Module):
    """Timesteps to vectors [R, W]: a sinusoid (cosines, then sines) and a two-layer MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2 * NUM_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        steps = torch.arange(NUM_FREQUENCIES, dtype=torch.float32, device=t.device)
        angles = t[:, None].float() * torch.exp(-math.log(10000) * steps / NUM_FREQUENCIES)
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.mlp(waves.to(next(self.mlp.parameters()).dtype))


class ResBlock(nn.Module):
    """A residual MLP whose input is shifted and scaled, and whose output is gated, by s."""

    def __init__(self, width: int):
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, h: Tensor, s: Tensor, modulation: Tensor | None = None) -> Tensor:
        """modulation [R, 3W]: that of an earlier s instead of this one's."""
        # The SiLU of adaLN_modulation is the same for all blocks: s has passed it already. Under autocast h is float32,
        # and what the linear layers return bfloat16. They are kept so: 18 bytes a row and channel, and not 34.
        modulation = self.adaLN_modulation[1](s) if modulation is None else modulation
        shift, scale, gate = modulation.chunk(3, dim=1)
        change = self.mlp(recomputed(modulated, h, self.in_ln, shift, scale))
        return recomputed(gated, h, gate, change)


class FinalLayer(nn.Module):
    """The last hidden state to the output [R, 2C], shifted and scaled by s."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, h: Tensor, s: Tensor, modulation: Tensor | None = None) -> Tensor:
        """modulation [R, 2W]: that of an earlier s instead of this one's."""
        modulation = self.adaLN_modulation[1](s) if modulation is None else modulation
        shift, scale = modulation.chunk(2, dim=1)
        return self.linear(recomputed(modulated, h, normalised, shift, scale))


def modulated(h: Tensor, norm: Callable[[Tensor], Tensor], shift: Tensor, scale: Tensor) -> Tensor:
    """shift + norm(h) * (1 + scale), in h's precision."""
    return torch.addcmul(shift.to(h.dtype), norm(h), 1 + scale.to(h.dtype))


def gated(h: Tensor, gate: Tensor, change: Tensor) -> Tensor:
    """h + gate * change, in h's precision."""
    return torch.addcmul(h, gate.to(h.dtype), change.to(h.dtype))


class HeadNetwork(nn.Module):
    """Predicted noise and variance place [R, 2C] of noised latents."""

    def __init__(self, channels: int, cond_width: int, width: int, depth: int):
        super().__init__()
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(cond_width, width)
        self.input_proj = nn.Linear(channels, width)
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """MAR's initialisation: Xavier-uniform, small time MLP, and zeros where a block or the output starts."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for layer in self.time_embed.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        modulated = [*self.res_blocks, self.final_layer]
        for layer in [block.adaLN_modulation[1] for block in modulated] + [self.final_layer.linear]:
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """The plain evaluation, row by row."""
        return self.denoise(x, self.time_embed(t) + self.cond_embed(z))

    def modulations(self, y: Tensor) -> list[Tensor]:
        """What y [R, W] shifts, scales and gates: [R, 3W] of every block, and [R, 2W] of the last layer."""
        s = F.silu(y)
        return [layer.adaLN_modulation[1](s) for layer in (*self.res_blocks, self.final_layer)]

    def denoise(self, x: Tensor, y: Tensor, modulations: Sequence[Tensor] | None = None) -> Tensor:
        """The output [R, 2C] for latents x and the summed time and condition embedding y [R, W].

        x may have fewer rows: the same in each part of y, as the branches of guidance. modulations: those of an earlier
        y instead of this one's.
        """
        dtype = self.input_proj.weight.dtype
        h, s = self.input_proj(x.to(dtype)).to(dtype), F.silu(y)
        h = h if len(h) == len(s) else h.repeat(len(s) // len(h), 1)
        own: list[Tensor | None] = [None] * (len(self.res_blocks) + 1)
        *of_blocks, of_last = modulations or own
        for block, modulation in zip(self.res_blocks, of_blocks, strict=True):
            h = block(h, s, modulation)
        return wide(self.final_layer(h, s, of_last))  # guidance, loss and steps are computed in float32


def _in_float32(device: torch.device) -> AbstractContextManager:
    """Without autocast. The meta device, where FLOPs are counted, has none to switch off."""
    return torch.autocast(device.type, enabled=False) if is_autocast_available(device.type) else nullcontext()


def draw_noise(rng: torch.Generator, repeats: int, images: int, rows: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Timesteps [repeats, images, rows] and noise [repeats, images, rows, C] for rows of latents like x [..., C]."""
    size = (repeats, images, rows)
    t = torch.randint(NUM_TIMESTEPS, size, generator=rng, device=rng.device)
    dtype = torch.promote_types(x.dtype, torch.float32)
    return t, torch.randn(*size, x.shape[-1], generator=rng, device=rng.device, dtype=dtype)


def _given_or_drawn(
    t: Tensor | None, noise: Tensor | None, rng: torch.Generator | None, repeats: int, x: Tensor
) -> tuple[Tensor, Tensor]:
    """t [repeats * R] and noise [repeats * R, C] for latents x [R, C]; what is None is drawn."""
    if t is not None and noise is not None:
        return t, noise
    assert rng is not None, "neither rng nor t and noise"
    drawn, normal = draw_noise(rng, repeats, 1, len(x), x)
    return drawn.flatten() if t is None else t, normal.flatten(0, 2) if noise is None else noise


class DiffusionHead(nn.Module):
    """Learns and draws p(x given z) for single tokens. channels C, cond_width D, width W, depth in residual blocks.

    sequential_draws: `mean_loss` keeps the activations of one noise draw at a time.
    """

    sequential_draws = False

    def __init__(self, channels: int, cond_width: int, width: int, depth: int):
        super().__init__()
        self.channels = channels
        self.diffusion = Diffusion()
        self.net = HeadNetwork(channels, cond_width, width, depth)

    def loss(
        self,
        z: Tensor,
        x: Tensor,
        rng: torch.Generator | None = None,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        repeats: int = 1,
    ) -> Tensor:
        """The loss (noise error + variational bound) of `repeats` draws of t and noise per row: [repeats * R].

        Draw r of row i is at index r * R + i, as in MAR; t and noise come in that layout, or are drawn from rng.
        """
        t, noise = _given_or_drawn(t, noise, rng, repeats, x)
        x = wide(x).repeat(repeats, 1)
        y = self._embed_times(t) + self.net.cond_embed(z).repeat(repeats, 1)
        output = self.net.denoise(self.diffusion.add_noise(x, t, noise), y)
        mse, bound = self.diffusion.loss_terms(output, x, t, noise)
        return mse + bound

    def mean_loss(
        self,
        z: Tensor,
        x: Tensor,
        rng: torch.Generator | None = None,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        repeats: int = 1,
    ) -> Tensor:
        """The mean of `loss`, a scalar."""
        if repeats == 1 or not self.sequential_draws or not torch.is_grad_enabled():
            return self.loss(z, x, rng, t, noise, repeats).mean()
        t, noise = _given_or_drawn(t, noise, rng, repeats, x)
        weights = [p for p in self.parameters() if p.requires_grad]
        return _LossInTurn.apply(self, x, t.chunk(repeats), noise.chunk(repeats), z, *weights)

    def _embed_times(self, t: Tensor) -> Tensor:
        """Time embeddings [R, W]; with more rows than timesteps each timestep is embedded once."""
        if len(t) <= self.diffusion.num_steps:
            return self.net.time_embed(t)
        return F.embedding(t, self.net.time_embed(torch.arange(self.diffusion.num_steps, device=t.device)))

    @torch.no_grad()
    def sample(
        self,
        z: Tensor,
        steps: int,
        rng: torch.Generator | None = None,
        cfg: float = 1.0,
        temperature: float = 1.0,
        clip: float | None = None,
        modulation_every: int = 1,
        draws: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Latents x [R, C] drawn with `steps` reverse steps, each step's noise scaled by temperature.

        clip bounds the latents that every step predicts: an undertrained head is off by a little where the first
        steps magnify errors most, and its latents would run away. modulation_every: steps that share a modulation, the
        first one's.

        With cfg != 1, z holds the R conditional rows, then their R unconditional ones, and the predicted noise is
        guided: unconditional + cfg * (conditional - unconditional). draws: noise to replay instead of rng's, the
        initial [R, C] and that of each step in order of execution [steps, at least R, C].
        """
        diffusion = self.diffusion.respaced(steps)
        rows = len(z) if cfg == 1 else len(z) // 2
        initial, noises = draws or (None, None)
        x = self._noise(rows, z, rng) if initial is None else initial
        condition = self.net.cond_embed(z)
        with _in_float32(z.device):
            times = self.net.time_embed(diffusion.timesteps_on(z.device)).to(condition.dtype)
        shared: list[Tensor] | None = None
        for done, index in enumerate(reversed(range(steps))):
            y = times[index] + condition
            if modulation_every > 1 and done % modulation_every == 0:
                shared = self.net.modulations(y)
            output = self._guided(x, y, cfg, shared)
            noise = self._noise(rows, z, rng) if noises is None else noises[done, :rows]
            x = diffusion.step(output, x, index, noise, temperature, clip)
        return x

    def _noise(self, rows: int, z: Tensor, rng: torch.Generator | None) -> Tensor:
        dtype = torch.promote_types(self.net.cond_embed.weight.dtype, torch.float32)
        return torch.randn(rows, self.channels, generator=rng, device=z.device, dtype=dtype)

    def _guided(self, x: Tensor, y: Tensor, cfg: float, modulations: Sequence[Tensor] | None = None) -> Tensor:
        """The output [R, 2C] under guidance of the predicted noise; the variance stays the conditional one's."""
        if cfg == 1:
            return self.net.denoise(x, y, modulations)
        conditional, unconditional = self.net.denoise(x, y, modulations).chunk(2)
        noise, v = conditional.chunk(2, dim=1)
        return torch.cat([torch.lerp(unconditional[:, : self.channels], noise, cfg), v], dim=1)


class _LossInTurn(torch.autograd.Function):
    """The head's mean loss, one noise draw after another.

    The forward pass computes each draw's gradients at once and keeps their sums; the backward pass only scales these.
    So the weights get their gradients when the whole network does, as DDP needs it.
    """

    @staticmethod
    def forward(
        ctx: Any, head: DiffusionHead, x: Tensor, ts: Sequence[Tensor], noises: Sequence[Tensor], *inputs: Tensor
    ) -> Tensor:
        """ts [R] and noises [R, C]: of each draw. inputs: z [R, D] and the weights that get gradients."""
        z, *weights = inputs
        losses, z = [], z.detach().requires_grad_()
        sums: list[Tensor] = []
        for t, noise in zip(ts, noises, strict=True):
            with torch.enable_grad():
                loss = head.loss(z, x, t=t, noise=noise).mean() / len(ts)
            found = torch.autograd.grad(loss, [z, *weights])
            losses.append(loss.detach())
            sums = [a.add_(b) for a, b in zip(sums, found, strict=True)] if sums else list(found)
        ctx.save_for_backward(*sums)
        return torch.stack(losses).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *(each * grad for each in ctx.saved_tensors)
