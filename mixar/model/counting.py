"""FLOPs by torch's own counter, on the same networks as in cost.py: the check of its formulas.

Networks are on the meta device: every operation is dispatched and counted, and none is computed.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mixar.model.cost import BACKWARD, QUANTILES
from mixar.model.decode import Draws, sample_latents, steps_of
from mixar.model.mar import MAR
from mixar.model.masking import mask_rate_at
from mixar.study.sections import Sampler, Study

META = torch.device("meta")
FEW = 2  # steps of the head that are dispatched; each further one costs as much as the last


def counted_train(study: Study, run: str) -> float:
    """What `cost.flops_train` computes: three counted forward passes, on average over the mask rates of the recipe.

    A forward pass is a quadratic function of the masked tokens, so that three of their numbers are counted. A counted
    backward pass is not used: attention computes its scores again there, which is no work of the model.
    Raises the errors of a strategy that does not run on the meta device.
    """
    settings = study.training_of(run)
    rates = [mask_rate_at((i + 0.5) / QUANTILES, settings.mask_rate_min) for i in range(QUANTILES)]
    masked = Counter(math.ceil(study.num_tokens * rate) for rate in rates)
    points = sorted({min(masked), (min(masked) + max(masked)) // 2, max(masked)})
    model = _on_meta(study, run).train()
    found = [_forward(model, settings.batch_size, n, settings.head_batch_multiplier) for n in points]
    curve = np.polynomial.Polynomial.fit(points, found, deg=len(points) - 1) if len(points) > 1 else lambda _: found[0]
    total = sum(share * float(curve(n)) for n, share in masked.items())
    return BACKWARD * total / QUANTILES / settings.batch_size


def counted_sample(study: Study, run: str, sampler: Sampler) -> float:
    """What `cost.flops_sample` computes, counted in a draw of one batch of the study's evaluation.

    Raises the errors of a strategy that does not run on the meta device.
    """
    model, size = _on_meta(study, run).eval(), study.evaluation.batch_size
    few = sampler.model_copy(update={"head_steps": FEW, "head_schedule": "constant"})
    q, steps = _empty(size, study.num_tokens, dtype=torch.long), list(steps_of(study.num_tokens, sampler))
    noises = [_noises(size * (step.missing - step.left), FEW, model.channels) for step in steps]
    with FlopCounterMode(display=False) as counter:
        sample_latents(model, q, q[:, 0], few, None, Draws(q, noises))
    total = counter.get_total_flops()
    every, head_step = sampler.modulation_every, functools.cache(partial(_head_step, model))  # few differ
    for step in steps:
        rows = size * (step.missing - step.left)
        whole, sharing = (head_step(rows, step.branches, shared) for shared in (1, FEW + 1))
        modulated = math.ceil(step.head_steps / every) - math.ceil(FEW / every)
        total += (step.head_steps - FEW) * sharing + modulated * (whole - sharing)
    return total / size


def _on_meta(study: Study, run: str) -> MAR:
    with META:
        return MAR.from_study(study, run)


def _forward(model: MAR, size: int, masked: int, repeats: int) -> int:
    """FLOPs of a training step's forward pass over `size` images."""
    x, q = _empty(size, model.num_tokens, model.channels), _empty(size, model.num_tokens, dtype=torch.long)
    rows = repeats * size * masked
    t, noise = _empty(rows, dtype=torch.long), _empty(rows, model.channels)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(x, q, q.bool(), q[:, 0], q[:, 0].bool(), None, repeats, t, noise, masked)
    return counter.get_total_flops()


def _head_step(model: MAR, rows: int, branches: int, every: int) -> int:
    """FLOPs of the step after FEW that draws `rows` latents, where `every` steps share a modulation."""
    z, found = _empty(branches * rows, model.decoder_embed.out_features), []
    cfg = float(branches)  # any but 1 guides
    for steps in (FEW, FEW + 1):
        with FlopCounterMode(display=False) as counter:
            noises = _noises(rows, steps, model.channels)
            model.diffloss.sample(z, steps, None, cfg, modulation_every=every, draws=noises)
        found.append(counter.get_total_flops())
    return found[1] - found[0]


def _noises(rows: int, steps: int, channels: int) -> tuple[Tensor, Tensor]:
    return _empty(rows, channels), _empty(steps, rows, channels)


def _empty(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*size, dtype=dtype, device=META)
