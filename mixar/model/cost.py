"""What a run costs before anything runs: parameters, FLOPs per image and token counts.

FLOPs are counted analytically: 2 for each multiply-add of a matrix product, nothing for elementwise work, embeddings of
discrete tokens (at most K multiply-adds a channel), tokenizers and the discrete generator. Custom strategies
count by the prefix and memory tokens that they declare.

Symbols: L positions, V visible tokens, n sequence length, D width, C channels, W width of the head, R head rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mixar.model.decode import steps_of
from mixar.model.diffusion import NUM_TIMESTEPS
from mixar.model.guidance import STAGES, Guidance, build_guidance
from mixar.model.head import NUM_FREQUENCIES
from mixar.model.layers import width_and_heads
from mixar.model.mar import MAR
from mixar.model.masking import mask_rate_at
from mixar.study.sections import Model, Sampler, Study

BACKWARD = 3  # forward and backward together, in forward passes
QUANTILES = 1000  # of the mask rate, to average the training cost over


def count_parameters(study: Study, run: str) -> int:
    """Parameters of a run's network, counted on the meta device. Raises ValueError where it cannot be built."""
    with torch.device("meta"):
        return sum(p.numel() for p in MAR.from_study(study, run).parameters())


def token_counts(study: Study, run: str) -> dict[str, int]:
    """Tokens of one image as the transformer sees them, counted by one rule for every strategy.

    class_tokens; tokens_self_attention: class tokens, positions and prefix; tokens_memory: what is cross-attended to;
    tokens_total: the last two together.
    """
    size = _size(study, run)
    prefix = max(size.guidance.prefix_tokens(stage) for stage in STAGES)
    memory = max(size.guidance.memory_tokens(stage) for stage in STAGES)
    attended = size.model.buffer_size + size.length + prefix
    return {
        "class_tokens": size.model.buffer_size,
        "tokens_self_attention": attended,
        "tokens_memory": memory,
        "tokens_total": attended + memory,
    }


def flops_train(study: Study, run: str) -> float:
    """FLOPs of one image's training step, forward and backward, on average over the mask rates of the recipe."""
    size, settings = _size(study, run), study.training_of(run)
    total = 0.0
    for i in range(QUANTILES):
        rate = mask_rate_at((i + 0.5) / QUANTILES, settings.mask_rate_min)
        masked = math.ceil(size.length * rate)
        total += size.condition(size.length - masked, memory=True)
        rows = masked * settings.head_batch_multiplier
        # Each timestep is embedded once a batch as soon as there are more rows than timesteps.
        embedded = min(rows, NUM_TIMESTEPS / settings.batch_size)
        total += masked * size.head_condition() + embedded * size.head_time() + rows * size.head_row()
    return 2 * BACKWARD * total / QUANTILES


def flops_sample(study: Study, run: str, sampler: Sampler) -> float:
    """FLOPs of drawing one image's latents with a sampler, in batches of the study's evaluation."""
    size = _size(study, run)
    branches = 1 if sampler.cfg == 1 else 2
    total = 0.0
    for index, step in enumerate(steps_of(size.length, sampler)):
        total += branches * size.condition(size.length - step.missing, memory=index == 0)
        rows = branches * (step.missing - step.left)
        total += rows * (size.head_condition() + sampler.head_steps * size.head_row())
        total += sampler.head_steps * size.head_time() / study.evaluation.batch_size
    return 2 * total


@dataclass(frozen=True)
class _Size:
    """A run's sizes, and the multiply-adds that follow from them."""

    model: Model
    guidance: Guidance
    length: int
    channels: int

    def condition(self, visible: int, memory: bool) -> float:
        """One pass of encoder and decoder. memory: including the keys and values of the memory, made once an image."""
        buffer, width, decoder_width = self.model.buffer_size, self._width("encoder"), self._width("decoder")
        return (
            visible * self.channels * width
            + self.model.encoder_depth * self._block(buffer + visible, "encoder", memory)
            + (buffer + visible) * width * decoder_width
            + self.model.decoder_depth * self._block(buffer + self.length, "decoder", memory)
        )

    def _width(self, stage: str) -> int:
        return width_and_heads(self.model, stage)[0]

    def _block(self, tokens: int, stage: str, memory: bool) -> float:
        width = self._width(stage)
        n, context = tokens + self.guidance.prefix_tokens(stage), self.guidance.memory_tokens(stage)
        own = n * (4 * width**2 + 2 * width * int(width * self.model.mlp_ratio)) + 2 * n**2 * width
        if not context:
            return own
        return own + 2 * n * width**2 + 2 * n * context * width + memory * 2 * context * width**2

    def head_condition(self) -> int:
        """Embedding the condition, once for all noise draws or head steps of a position."""
        return self._width("decoder") * self.model.head_width

    def head_time(self) -> int:
        """Embedding one timestep."""
        return (2 * NUM_FREQUENCIES + self.model.head_width) * self.model.head_width

    def head_row(self) -> int:
        """One evaluation of the head for one row, its two embeddings apart."""
        width = self.model.head_width
        return (5 * self.model.head_depth + 2) * width**2 + 3 * self.channels * width


def _size(study: Study, run: str) -> _Size:
    with torch.device("meta"):
        guidance = build_guidance(study, run)
    model = study.models[study.runs[run].model]
    return _Size(model, guidance, study.num_tokens, study.continuous.latent_channels)
