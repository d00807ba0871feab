"""Memory of training steps at full size, counted on tensors without values; see fake_cuda.py."""

from __future__ import annotations

from contextlib import ExitStack
from unittest.mock import patch

import torch
from fake_cuda import CUDA, INITIALISERS, CudaGenerator, FakeCuda, fake_cuda
from torch._subclasses.fake_tensor import FakeTensorMode

from mixar.device import autocast
from mixar.model.mar import MAR
from mixar.model.masking import Group
from mixar.tokens.generator import BitTransformer
from mixar.training.draws import Draws
from mixar.training.steps import Guide, training_step

GIB = 2**30
STATE_BYTES = 5 * 4  # of a parameter, float32: weight, gradient (a view of DDP's bucket), two moments, average
ALL, FEWEST = 1 - 1e-9, 1e-9  # quantiles of the mask rate: every token masked, and as few as may be


def draws_of(size: int) -> CudaGenerator:
    """Draws of a micro-batch that is a group of its own."""
    draws = CudaGenerator()
    draws.group, draws.host = Group(size, slice(0, size)), torch.Generator()
    draws.mask_rate = draws.host
    return draws


def measured(study, run, micro_batch, quantile=ALL):
    """GiB that a run's training step holds after its forward pass, and the places where the host waits in it.

    Returns (activations, state, waits). state: what is held between steps, a frozen generator included.
    """
    s, length = study.training_of(run), study.num_tokens
    with fake_cuda(quantile) as watch:
        model, guide = MAR.from_study(study, run).train(), None
        parameters = sum(p.numel() for p in model.parameters())
        weights = watch.bytes
        if ti_mix := study.runs[run].ti_mix:
            sizes = study.discrete.bits, length, study.data.num_classes
            guide = Guide(BitTransformer(study.generator, *sizes).eval().requires_grad_(False), ti_mix, progress=0.5)
        held = watch.bytes - weights
        x = torch.empty(micro_batch, length, study.continuous.latent_channels)
        batch = {"x": x, "q": torch.ones(micro_batch, length).long(), "c": torch.ones(micro_batch).long()}
        before, draws = watch.bytes, draws_of(micro_batch)
        with autocast(CUDA, s.precision):
            loss = training_step(model, batch, s, draws, guide)
        assert loss.device.type == "cuda" and loss.dtype == torch.float32
        return (watch.bytes - before) / GIB, (STATE_BYTES * parameters + held) / GIB, watch.waits


class FakeCpu(FakeCuda):
    """The same for CPU tensors, whose backward pass needs no driver."""

    counted = "cpu"


def flash_attention(q, k, v, dropout_p=0.0, **_):
    """As on a GPU, without its dropout: the CPU's keeps masks that flash attention does not."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False)[0]


def native_dropout(x, p=0.5, training=True, inplace=False):
    """As on a GPU: with a mask of bytes."""
    return torch.native_dropout(x, p, training)[0]


def measured_backward(study, run, micro_batch, quantile=ALL):
    """GiB that a run's training step holds at most, and how much more that is than its forward pass left.

    Gradients of the weights are there from the start, as DDP holds them, and not counted.
    """
    s, length = study.training_of(run), study.num_tokens
    with ExitStack() as stack:
        stack.enter_context(patch("torch.nn.functional.dropout", native_dropout))
        stack.enter_context(patch("torch.nn.functional.scaled_dot_product_attention", flash_attention))
        for name in INITIALISERS:
            stack.enter_context(patch(f"torch.nn.init.{name}", lambda t, *_, **__: t))
        stack.enter_context(FakeTensorMode())
        watch = stack.enter_context(FakeCpu(quantile))
        model = MAR.from_study(study, run).train()
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        x = torch.empty(micro_batch, length, study.continuous.latent_channels)
        batch = {"x": x, "q": torch.ones(micro_batch, length).long(), "c": torch.ones(micro_batch).long()}
        draws = Draws.of_all(torch.device("cpu"), 0, micro_batch)
        before = watch.peak = watch.bytes
        with autocast(torch.device("cpu"), s.precision):
            loss = training_step(model, batch, s, draws)
        left = watch.bytes
        loss.backward()
        return (watch.peak - before) / GIB, (watch.peak - left) / GIB
