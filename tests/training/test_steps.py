"""One training step: what it masks, drops and mixes before the model sees it."""

from __future__ import annotations

from pathlib import Path

import torch
from toy_runs import toy_study

from mixar.model.masking import Group
from mixar.training.draws import Draws
from mixar.training.steps import Guide, training_step


class Recorder(torch.nn.Module):
    """Stands for the model: keeps what a training step hands over."""

    def forward(self, x, q, m, c, drop, head_batch_multiplier, t, noise, missing):
        self.q, self.m, self.drop, self.repeats = q, m, drop, head_batch_multiplier
        return x.mean()


class Sevens(torch.nn.Module):
    """Stands for the generator: sure that every group of two bits is 3 (and so every token 15)."""

    mask_value = 4

    def split(self, q):
        return torch.stack([q % 4, q // 4], dim=-1)

    def join(self, t):
        return t[..., 0] + 4 * t[..., 1]

    def forward(self, t, c, drop=None):
        return torch.nn.functional.one_hot(torch.full_like(t, 3), 4) * 1e4


def step_of(rate: float | None, seed: int = 0) -> tuple[Recorder, torch.Tensor]:
    study, model = toy_study(Path("unused")), Recorder()
    draws = Draws.of(torch.device("cpu"), (seed, 0), 0, Group(64, slice(0, 64)), equal_rates=False)
    q = torch.zeros(64, 16, dtype=torch.long)
    batch = {"x": torch.zeros(64, 16, 8), "q": q, "c": torch.zeros(64, dtype=torch.long)}
    ti_mix = study.runs["ti"].ti_mix
    guide = None if rate is None else Guide(Sevens(), ti_mix, progress=1 - rate)
    training_step(model, batch, study.training_of("ti"), draws, guide)
    return model, q


def test_one_mask_rate_serves_a_batch_and_one_label_in_ten_is_dropped():
    steps = [step_of(None, seed)[0] for seed in range(100)]

    masked = torch.stack([s.m.sum(1) for s in steps])
    dropped = torch.stack([s.drop.float() for s in steps]).mean()

    assert (masked == masked[:, :1]).all() and masked.min() == 12 and masked.max() == 16  # ceil(0.7 * 16) to 16
    assert abs(dropped - 0.1) < 0.02 and steps[0].repeats == 4


def test_ti_mix_replaces_only_masked_tokens_and_all_of_them_at_rate_zero():
    model, q = step_of(rate=0.0)

    assert (model.q[model.m] == 15).all() and torch.equal(model.q[~model.m], q[~model.m])
    half, _ = step_of(rate=0.5)
    assert abs((half.q[half.m] == 15).float().mean() - 0.5) < 0.1
