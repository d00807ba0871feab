"""Optimizer groups, learning-rate schedule and the moving average of weights."""

from __future__ import annotations

import math

import torch
from timm.optim import Muon
from torch import nn

from mixar import spec


def learning_rate(s: spec.Training, epoch: float) -> float:
    """Learning rate at a fractional epoch: linear warm-up from 0, then constant or half a cosine (as in MAR)."""
    peak = s.learning_rate * s.batch_size / 256
    if epoch < s.warmup_epochs:
        return peak * epoch / s.warmup_epochs
    if s.schedule == "constant":
        return peak
    progress = min((epoch - s.warmup_epochs) / max(s.epochs - s.warmup_epochs, 1e-12), 1.0)
    return peak * (s.final_rate + (1.0 - s.final_rate) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: without weight decay (vectors, biases and the whole diffusion head) and with (MAR, released code)."""
    plain, decayed = [], []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (plain if p.ndim == 1 or name.endswith(".bias") or "diffloss" in name else decayed).append(p)
    return [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]


def build_optimizer(model: nn.Module, s: spec.Training) -> torch.optim.Optimizer:
    """AdamW over `parameter_groups`, or timm's Muon; the loop sets the learning rate before every step.

    Muon (Jordan et al., 2024) orthogonalises the updates of matrices, and of kernels as matrices [out, in * k * k], at
    a step as large as AdamW's; vectors keep AdamW. Both with Nesterov's momentum.
    """
    if s.optimizer == "muon":
        return Muon(parameter_groups(model, s.weight_decay), lr=0.0, betas=s.betas, nesterov=True)
    return torch.optim.AdamW(parameter_groups(model, s.weight_decay), lr=0.0, betas=s.betas, fused=True)
