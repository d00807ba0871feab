"""Optimizers and their groups, learning-rate schedule and the moving average of weights.

An optimizer is a function (parameter groups, settings) -> torch.optim.Optimizer, settings being the study's training
section; the loop sets the learning rate before every step. For one of your own, name it there: `optimizer:
"my_module:my_optimizer"`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mixar.study import choices, sections


def learning_rate(s: sections.Training, epoch: float, restarted: float = 1.0) -> float:
    """Learning rate at a fractional epoch: linear warm-up from 0, then constant or half a cosine (as in MAR).

    restarted: below 1 in the first steps of a training that continues weights without their moments; a factor.
    """
    peak = s.learning_rate * s.batch_size / 256 * min(restarted, 1.0)
    if epoch < s.warmup_epochs:
        return peak * epoch / s.warmup_epochs
    if s.schedule == "constant":
        return peak
    progress = min((epoch - s.warmup_epochs) / max(s.epochs - s.warmup_epochs, 1e-12), 1.0)
    return peak * (s.final_rate + (1.0 - s.final_rate) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: without weight decay (vectors, biases and the whole diffusion head) and with (MAR, released code)."""
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (plain if p.ndim == 1 or name.endswith(".bias") or "diffloss" in name else decayed).append(p)
    return [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]


def build_optimizer(model: nn.Module, s: sections.Training) -> torch.optim.Optimizer:
    """The optimizer that the settings name, over `parameter_groups`. Raises ValueError if it cannot be loaded or
    returns something else."""
    optimizer = choices.OPTIMIZERS.load_function(s.optimizer)(parameter_groups(model, s.weight_decay), s)
    if not isinstance(optimizer, torch.optim.Optimizer):
        found = type(optimizer).__name__
        raise ValueError(f"optimizer {s.optimizer!r}: returned a {found}; expected a torch.optim.Optimizer")
    return optimizer


def adamw(parameters: list[dict], s: sections.Training) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019)."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=s.betas, fused=True)


def muon(parameters: list[dict], s: sections.Training) -> torch.optim.Optimizer:
    """timm's Muon (Jordan et al., 2024): orthogonalises the updates of matrices, and of kernels as matrices
    [out, in * k * k], at a step as large as AdamW's; vectors keep AdamW. Both with Nesterov's momentum."""
    from timm.optim import Muon  # imported here: timm takes two seconds, and few studies name it

    return Muon(parameters, lr=0.0, betas=s.betas, nesterov=True)


def average_decay(s: sections.Training, steps: float) -> float:
    """Decay of the moving average's next update after `steps` earlier ones: s.ema_decay, reached by a warm-up.

    Until then (1 + t) / (10 + t), so that the average spans about the last tenth of the steps made and forgets the
    random initial weights. As in TensorFlow's ExponentialMovingAverage. steps: infinite for no warm-up.
    """
    return min(s.ema_decay, 1 - 9 / (10 + steps))


def step_if_finite(optimizer: torch.optim.Optimizer, norm: Tensor, lr: float) -> Tensor:
    """Step at this learning rate if the gradient's norm is finite; else leave weights and moments as they are.

    Returns whether it is, a tensor on the norm's device. The device decides by itself where the optimizer takes
    `found_inf`, as torch's fused ones do for its GradScaler; for others the host waits for the norm.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    is_finite = norm.isfinite()
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.grad_scale, optimizer.found_inf = None, (~is_finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif is_finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return is_finite


def update_average(average: nn.Module, model: nn.Module, decay: float, is_finite: Tensor) -> None:
    """Move the average towards the model, each parameter and buffer once, unless is_finite, a scalar on their device,
    is False; whole numbers are copied."""
    # not by state_dict: it lists a shared tensor under each of its names, which would then move more than once
    pairs: list[tuple[Tensor, Tensor]] = [*zip(average.parameters(), model.parameters(), strict=True)]
    pairs += zip(average.buffers(), model.buffers(), strict=True)
    with torch.no_grad():
        for mean, value in pairs:
            if not mean.is_floating_point():
                mean.copy_(value)
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        share = {dtype: is_finite.to(dtype) * (1 - decay) for dtype in {mean.dtype for mean, _ in floating}}
        means, values = map(list, zip(*floating, strict=True))
        torch._foreach_lerp_(means, values, [share[mean.dtype] for mean in means])
