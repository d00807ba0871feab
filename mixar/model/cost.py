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
        total += size.condition(size.length - masked, read=masked) + size.once()
        rows = masked * settings.head_batch_multiplier
        # Each timestep is embedded once a batch as soon as there are more rows than timesteps.
        embedded = min(rows, NUM_TIMESTEPS / settings.batch_size)
        total += (size.length - masked) * size.token() + rows * (size.head_row() + size.head_input())
        total += masked * size.head_condition() + embedded * size.head_time()
    return 2 * BACKWARD * total / QUANTILES


def flops_sample(study: Study, run: str, sampler: Sampler) -> float:
    """FLOPs of drawing one image's latents with a sampler, in batches of the study's evaluation."""
    size = _size(study, run)
    steps = list(steps_of(size.length, sampler))
    # Iterations with and without an unguided branch keep their own; branches share it unless one drops the tokens.
    kinds = {step.branches for step in steps}
    total = size.once() * (sum(kinds) if size.guidance.drop_tokens_in_null else len(kinds))
    for step in steps:
        visible, new = size.length - step.missing, step.missing - step.left
        total += visible * size.token() + step.branches * size.condition(visible, read=new)
        modulated = -(-step.head_steps // sampler.modulation_every)
        head = (step.head_steps - modulated) * (size.head_row() - size.head_modulation()) + modulated * size.head_row()
        total += step.branches * new * (size.head_condition() + head)
        total += new * step.head_steps * size.head_input()
        total += step.head_steps * size.head_time() / study.evaluation.batch_size
    return 2 * total


@dataclass(frozen=True)
class _Size:
    """A run's sizes, and the multiply-adds that follow from them."""

    model: Model
    guidance: Guidance
    length: int
    channels: int

    def condition(self, visible: int, read: int) -> float:
        """One pass of encoder and decoder for one branch, of which `read` positions are read."""
        buffer, width, decoder_width = self.model.buffer_size, self._width("encoder"), self._width("decoder")
        seen, all_tokens = buffer + visible, buffer + self.length
        return (
            self.model.encoder_depth * self._block(seen, "encoder")
            + seen * width * decoder_width
            + (self.model.decoder_depth - 1) * self._block(all_tokens, "decoder")
            + self._block(all_tokens, "decoder", read)
        )

    def token(self) -> int:
        """Projecting a visible token, once for both branches of guidance."""
        return self.channels * self._width("encoder")

    def once(self) -> float:
        """Keys and values of the memory in every block, once an image."""
        depths = {"encoder": self.model.encoder_depth, "decoder": self.model.decoder_depth}
        memory = {stage: self.guidance.memory_tokens(stage) * self._width(stage) ** 2 for stage in STAGES}
        return sum(depths[stage] * 2 * memory[stage] for stage in STAGES)

    def _width(self, stage: str) -> int:
        return width_and_heads(self.model, stage)[0]

    def _block(self, tokens: int, stage: str, read: int | None = None) -> float:
        """One block, its memory's keys and values apart. read: rows that it computes; None: all."""
        width = self._width(stage)
        n, context = tokens + self.guidance.prefix_tokens(stage), self.guidance.memory_tokens(stage)
        rows = n if read is None else read
        # keys and values of all; queries, projection, MLP and attention of the rows
        own = 2 * n * width**2 + rows * (2 * width**2 + 2 * width * int(width * self.model.mlp_ratio) + 2 * n * width)
        return own + (rows * (2 * width**2 + 2 * context * width) if context else 0)

    def head_condition(self) -> int:
        """Embedding the condition, once for all noise draws or head steps of a position."""
        return self._width("decoder") * self.model.head_width

    def head_time(self) -> int:
        """Embedding one timestep."""
        return (2 * NUM_FREQUENCIES + self.model.head_width) * self.model.head_width

    def head_row(self) -> int:
        """One evaluation of the head for one row, its two embeddings and the input's projection apart."""
        width = self.model.head_width
        return (5 * self.model.head_depth + 2) * width**2 + 2 * self.channels * width

    def head_modulation(self) -> int:
        """The part of `head_row` that several head steps may share."""
        return (3 * self.model.head_depth + 2) * self.model.head_width**2

    def head_input(self) -> int:
        """Projecting a row's latents, once for both branches of guidance."""
        return self.channels * self.model.head_width


def _size(study: Study, run: str) -> _Size:
    with torch.device("meta"):
        guidance = build_guidance(study, run)
    model = study.models[study.runs[run].model]
    return _Size(model, guidance, study.num_tokens, study.continuous.latent_channels)
