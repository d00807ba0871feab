"""The diffusion process behind the head: noise schedule, loss and one reverse step (Eq. 5; MAR, released code).

Symbols: x latents [R, C], x_t noised latents [R, C], t step [R] int64, output [R, 2C] of the head (predicted noise,
then v, which places the log variance between its two bounds); R rows, C channels. No network here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NUM_TIMESTEPS = 1000  # of the process that the head learns
BETA_MAX = 0.999  # cosine schedule: the last steps would otherwise wipe out everything
BIN_HALF_WIDTH = 1 / 255  # of the discretised likelihood at t = 0; MAR keeps the 8-bit bins of pixels for latents
EDGE = 0.999  # targets beyond it belong to the open-ended outer bins
PROBABILITY_MIN = 1e-12


class Coefficients(NamedTuple):
    """What a step needs, as numbers or as columns [R, 1]."""

    signal: float | Tensor  # x_t = signal * x + spread * noise
    spread: float | Tensor
    mean_x: float | Tensor  # mean of x_{t-1} = mean_x * x_t - mean_noise * predicted noise
    mean_noise: float | Tensor
    log_variance_mid: float | Tensor  # log variance = mid + half * v, so v = -1 and 1 are its bounds
    log_variance_half: float | Tensor
    is_random: float | Tensor  # 0 for the last reverse step (index 0), which adds no noise


class Diffusion:
    """A cosine-schedule process of `num_steps` steps, or the shorter one over some of its `timesteps`.

    The tables are float64 arrays, one entry a kept step; they become float32 only where a step uses them.
    """

    def __init__(self, num_steps: int = NUM_TIMESTEPS, timesteps: list[int] | None = None):
        self.num_steps = num_steps
        self.timesteps = list(range(num_steps)) if timesteps is None else timesteps
        self.betas = cosine_betas(num_steps)
        if timesteps is not None:
            kept = np.cumprod(1 - self.betas)[timesteps]
            self.betas = 1 - kept / np.append(1.0, kept[:-1])
        # Recomputed from the betas, as in MAR: with few steps the last entry is sensitive to rounding.
        self.alphas_cumprod = np.cumprod(1 - self.betas)
        previous = np.append(1.0, self.alphas_cumprod[:-1])
        self.sqrt_recip_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod)
        self.sqrt_recipm1_alphas_cumprod = np.sqrt(1 / self.alphas_cumprod - 1)
        missing = 1 - self.alphas_cumprod
        self.posterior_variance = self.betas * (1 - previous) / missing
        self.posterior_log_variance_clipped = np.log(np.append(self.posterior_variance[1], self.posterior_variance[1:]))
        self.posterior_mean_coef1 = self.betas * np.sqrt(previous) / missing
        self.posterior_mean_coef2 = (1 - previous) * np.sqrt(1 - self.betas) / missing
        self._table = np.stack(self._coefficients(), axis=1)
        self._numbers = [Coefficients(*row) for row in self._table.tolist()]
        self._on_device: dict[torch.device, Tensor] = {}
        self._timesteps_on: dict[torch.device, Tensor] = {}
        self._respaced: dict[int, Diffusion] = {}

    def _coefficients(self) -> Coefficients:
        """The tables combined into what a step needs; predicting x from the noise is folded into the mean."""
        low, high = self.posterior_log_variance_clipped, np.log(self.betas)
        return Coefficients(
            signal=np.sqrt(self.alphas_cumprod),  # type: ignore[arg-type]  # arrays, stacked by the caller
            spread=np.sqrt(1 - self.alphas_cumprod),
            mean_x=self.posterior_mean_coef1 * self.sqrt_recip_alphas_cumprod + self.posterior_mean_coef2,
            mean_noise=self.posterior_mean_coef1 * self.sqrt_recipm1_alphas_cumprod,
            log_variance_mid=(high + low) / 2,
            log_variance_half=(high - low) / 2,
            is_random=np.arange(len(low)) > 0,  # type: ignore[arg-type]
        )

    def at(self, index: int | Tensor) -> Coefficients:
        """The coefficients of one step, as numbers, or of a step for each row [R], as columns [R, 1]."""
        if isinstance(index, int):
            return self._numbers[index]
        if index.device not in self._on_device:
            self._on_device[index.device] = torch.tensor(self._table, dtype=torch.float32, device=index.device)
        return Coefficients(*self._on_device[index.device][index].split(1, dim=1))

    def respaced(self, steps: int) -> Diffusion:
        """The process over `steps` evenly spaced timesteps, first and last included. Raises ValueError."""
        if not 2 <= steps <= self.num_steps:
            raise ValueError(f"head_steps: {steps} is out of range; the process allows 2 to {self.num_steps}")
        if steps not in self._respaced:
            self._respaced[steps] = Diffusion(self.num_steps, spaced_timesteps(self.num_steps, steps))
        return self._respaced[steps]

    def timesteps_on(self, device: torch.device) -> Tensor:
        """The timesteps, int64 on a device; copied there once, because the host waits for a copy."""
        if device not in self._timesteps_on:
            self._timesteps_on[device] = torch.tensor(self.timesteps, device=device)
        return self._timesteps_on[device]

    def add_noise(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t: the latents after t + 1 steps of noise."""
        c = self.at(t)
        return c.signal * x + c.spread * noise

    def loss_terms(self, output: Tensor, x: Tensor, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The two losses of each row [R], to be added: squared error of the noise (Eq. 5), and the variational bound.

        The bound, in bits per channel, trains only v: the predicted noise enters it detached. Differs from the paper:
        Eq. 5 has the first term alone; MAR, on which it builds, trains with both.
        """
        c = self.at(t)
        predicted, v = output.to(x.dtype).chunk(2, dim=1)
        mse = (noise - predicted).square().mean(dim=1)
        # x_t is the same for both, so true mean - model mean needs only the error of the noise.
        error = c.mean_noise * (predicted.detach() - noise)
        log_variance = c.log_variance_mid + c.log_variance_half * v
        widening = c.log_variance_half * (v + 1)  # log variance above the true posterior's
        kl = 0.5 * (widening + torch.expm1(-widening) + error.square() * torch.exp(-log_variance))
        # Of every row, because to pick those at t = 0 the host would wait for the device. Where kl is finite, so is the
        # gradient here, and other rows get zeros.
        first, nll = t == 0, discretised_nll(x, error, log_variance)
        bound = torch.where(first, nll.mean(dim=1), kl.mean(dim=1))
        return mse, bound / math.log(2)

    def step(
        self,
        output: Tensor,
        x_t: Tensor,
        index: int,
        noise: Tensor,
        temperature: float = 1.0,
        clip: float | None = None,
    ) -> Tensor:
        """x_{t-1} [R, C] drawn with `noise` [R, C]; index counts this process's own steps, the last one drawn is 0.

        temperature scales the noise of the step. clip bounds the latents that the predicted noise implies to ±clip;
        None leaves them, as MAR does.
        """
        c = self.at(index)
        predicted, v = output.to(x_t.dtype).chunk(2, dim=1)
        if clip is not None:
            reach = c.signal * clip
            bounded = torch.clamp(predicted, (x_t - reach) / c.spread, (x_t + reach) / c.spread)
            predicted = bounded + 0 * predicted  # adds nothing, but what is not finite stays so
        # as few operations as can be: with few rows, the time of a step is their number
        mean = torch.sub(c.mean_x * x_t, predicted, alpha=float(c.mean_noise))
        std = torch.exp(c.log_variance_half / 2 * v + c.log_variance_mid / 2)
        std = torch.add(std, v, alpha=0)  # -inf would become 0
        return torch.addcmul(mean, std, noise, value=temperature * float(c.is_random))


def cosine_betas(num_steps: int) -> np.ndarray:
    """Noise variance added by each step, float64 [num_steps]."""
    u = np.arange(num_steps + 1) / num_steps
    kept = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - kept[1:] / kept[:-1], BETA_MAX)


def spaced_timesteps(num_steps: int, steps: int) -> list[int]:
    """`steps` timesteps from 0 to num_steps - 1. The stride accumulates and is rounded half to even, as in MAR."""
    stride, current, kept = (num_steps - 1) / (steps - 1), 0.0, []
    for _ in range(steps):
        kept.append(round(current))
        current += stride
    return kept


def discretised_nll(x: Tensor, error: Tensor, log_variance: Tensor) -> Tensor:
    """-log probability (nats) [R, C] of x's bin under a Gaussian; error: x minus its mean."""
    inverse_std = torch.exp(-0.5 * log_variance)
    below = gaussian_cdf(inverse_std * (error + BIN_HALF_WIDTH))
    above = gaussian_cdf(inverse_std * (error - BIN_HALF_WIDTH))
    inside = torch.where(x > EDGE, 1 - above, below - above)
    return -torch.where(x < -EDGE, below, inside).clamp(min=PROBABILITY_MIN).log()


def gaussian_cdf(x: Tensor) -> Tensor:
    """The normal distribution function by MAR's tanh approximation."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
