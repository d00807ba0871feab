"""One training step of a MAR run: what is masked, which class labels are dropped, which tokens guide, and the loss.

Everything around it (optimizer, average, checkpoints) is in loop.py and does not know which network it trains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixar.model.head import draw_noise
from mixar.model.masking import mask_first, sample_mask_rate, sample_orders
from mixar.model.ti_mix import TokenGenerator, draw_tokens, guidance_rate, mix_tokens
from mixar.study.sections import MarTraining, TiMix
from mixar.training.draws import Draws


def training_step(
    model: nn.Module,
    batch: dict[str, Tensor],
    settings: MarTraining,
    draws: Draws,
    guide: Guide | None = None,
) -> Tensor:
    """The loss of one micro-batch (Eq. 3, 5, 8–12), a scalar with gradient.

    batch: x [B, L, C] latents, q [B, L] tokens, c [B] classes. guide: TI-Mix at this point of the run, or None.
    One mask rate serves a whole group, as in MAR: rows keep equal lengths.
    """
    x, q, c = batch["x"], batch["q"], batch["c"]
    size, part = draws.group
    length, repeats = q.shape[1], settings.head_batch_multiplier
    missing = math.ceil(sample_mask_rate(settings.mask_rate_min, draws.mask_rate) * length)
    m = mask_first(sample_orders(size, length, draws)[part], missing)
    drop = torch.rand(size, generator=draws, device=draws.device)[part] < settings.label_drop_rate
    if guide is not None:
        q = guide(q, m, c, draws, missing)
    t, noise = draw_noise(draws, repeats, size, missing, x)
    t, noise = t[:, part].flatten(), noise[:, part].flatten(0, 2)
    return model(x, q, m, c, drop, head_batch_multiplier=repeats, t=t, noise=noise, missing=missing)


@dataclass(frozen=True)
class Guide:
    """TI-Mix for one step: mixes tokens drawn by the frozen generator into the masked ones (Eq. 10–12)."""

    generator: TokenGenerator  # tokens.generator.BitTransformer in eval mode
    ti_mix: TiMix
    progress: float  # share of this run that is done, in [0, 1]

    @property
    def rate(self) -> float:
        """λ now: the share of masked positions that keep their ground-truth token."""
        return guidance_rate(self.ti_mix, self.progress)

    def __call__(self, q: Tensor, m: Tensor, c: Tensor, draws: Draws, missing: int) -> Tensor:
        """Tokens [B, L] that guide the step; visible positions keep theirs. missing: tokens of each row of m.

        While λ = 1 the generator does not run and nothing is drawn, so the step equals one without TI-Mix bit for bit.
        """
        if self.rate == 1:
            return q
        drawn = draw_tokens(self.generator, q, m, c, self.ti_mix.temperature, draws, draws.group, missing)
        return mix_tokens(q, drawn, m, self.rate, draws, draws.group)
