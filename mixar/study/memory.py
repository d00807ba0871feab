"""GPU memory from the shapes alone: of a training step, what is held between steps and what the forward pass keeps;
of the stages that draw images, the largest tensors that are there at a time.

Every tensor that the backward pass needs is counted in bytes, as eager PyTorch with flash attention keeps it. c: bytes
of a number under the training's precision (bfloat16: 2); what enters norms and residual sums is float32. Tests compare
the counts with the networks themselves at full size. No torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mixar.study.cards import CARDS
from mixar.study.choices import is_own
from mixar.study.sections import Autoencoder, Generator, Model, Sampler, Study

GIB = 2**30
STATE_BYTES = 5 * 4  # of a parameter, float32: weight, gradient (a view of DDP's bucket), two moments, average
BACKWARD_BYTES = (
    21  # of a row and channel of the head: what its last block needs before the backward pass frees anything
)
LOSS_BYTES = 4 * 26  # of a row and latent channel: output, noise, and the terms of the loss
FREQUENCIES = 256  # of a timestep's embedding
STAGES = ("encoder", "decoder")


@dataclass(frozen=True)
class Memory:
    """GiB of one process. state: between steps. activations: kept by the forward pass. backward: what it adds."""

    state: float
    activations: float
    backward: float

    @property
    def peak(self) -> float:
        return self.state + self.activations + self.backward


def training_memory(study: Study, run: str) -> Memory | None:
    """The peak of a run's training step on its hardware, at the mask rate that needs most; None for own strategies."""
    settings, images = study.training_of(run), _images(study, run)
    if is_own(study.runs[run].guidance.strategy):
        return None
    step = _Step(study, run, images, _bytes(settings.precision))
    frozen = 4 * generator_parameters(study) if study.runs[run].ti_mix else 0
    state = (STATE_BYTES * parameters(study, run) + frozen) / GIB
    in_turn = study.hardware_of(run).sequential_draws and settings.head_batch_multiplier > 1
    draws = 1 if in_turn else settings.head_batch_multiplier  # at a time

    def at(masked: int) -> Memory:
        backward = BACKWARD_BYTES * images * masked * draws * step.model.head_width
        if in_turn:  # sums over the draws: gradients of the head's weights and of its conditions
            backward += 4 * (head_parameters(study, run) + images * masked * _size(step.model, "decoder")[0])
        return Memory(state, step.activations(masked, draws) / GIB, backward / GIB)

    fewest = math.ceil(settings.mask_rate_min * study.num_tokens)
    return max(at(fewest), at(study.num_tokens), key=lambda found: found.peak)


def too_large(study: Study, run: str) -> str | None:
    """Why a run's training does not fit the card that the study names, and what would do; None where it fits, or where
    that is unknown."""
    hardware, name = study.hardware_of(run), study.hardware.card
    if name is None or not hardware.gpus or (found := training_memory(study, run)) is None:
        return None
    card = CARDS[name].memory_gib
    if found.peak <= card:
        return None
    images = _images(study, run)
    smaller: list[dict[str, Any]] = [{"micro_batch": n} for n in range(images // 2, 0, -1) if images % n == 0]
    in_turn, recomputed = {"sequential_draws": True}, {"checkpoint_blocks": True}
    both = in_turn | recomputed

    def fitting(*kinds: list[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
        """Of each kind the first change that fits."""
        peaks = [((change, _peak(study, run, change)) for change in kind) for kind in kinds]
        found = [next((each for each in kind if each[1] <= card), None) for kind in peaks]
        return [each for each in found if each is not None]

    advice = fitting([in_turn], smaller, [recomputed]) or fitting([both, *(each | both for each in smaller)])
    words = " or ".join(f"{_in_words(change)} ({peak:.1f} GiB)" for change, peak in advice) or "a larger card"
    return f"a training step of {images} images needs about {found.peak:.1f} GiB, and {name} has {card:g}; use {words}"


def _images(study: Study, run: str) -> int:
    """Of a forward pass."""
    settings, hardware = study.training_of(run), study.hardware_of(run)
    share = settings.batch_size // hardware.processes
    return hardware.micro_batch or math.gcd(share, settings.mask_group or settings.batch_size)


def _peak(study: Study, run: str, change: dict[str, Any]) -> float:
    """The peak of a run under other hardware keys, GiB."""
    runs = {**study.hardware.runs, run: {**study.hardware.runs.get(run, {}), **change}}
    other = study.model_copy(update={"hardware": study.hardware.model_copy(update={"runs": runs})})
    return found.peak if (found := training_memory(other, run)) else math.inf


def _in_words(change: dict[str, Any]) -> str:
    return " with ".join(f"{key} {str(value).lower()}" for key, value in change.items())


@dataclass(frozen=True)
class _Step:
    """The forward pass of one micro-batch; results in bytes."""

    study: Study
    run: str
    images: int
    c: int

    @property
    def model(self) -> Model:
        return self.study.models[self.study.runs[self.run].model]

    @property
    def channels(self) -> int:
        return self.study.continuous.latent_channels

    def activations(self, masked: int, repeats: int) -> float:
        """What is kept where `masked` tokens of every image are masked."""
        length, buffer = self.study.num_tokens, self.model.buffer_size
        tokens = {"encoder": buffer + length - masked, "decoder": buffer + length}
        blocks = sum(self._blocks(stage, tokens[stage]) for stage in STAGES)
        rows = self.images * masked
        return self._weights() + blocks + self._ends(tokens, masked) + self._head(rows, repeats)

    def _weights(self) -> float:
        """Copies in the compute precision. Those of checkpointed blocks are made again."""
        if self.c == 4:
            return 0
        count = parameters(self.study, self.run)
        if self.study.hardware_of(self.run).checkpoint_blocks:
            count -= sum(_depth(self.model, s) * _block_parameters(self.study, self.run, s) for s in STAGES)
        return self.c * count

    def _blocks(self, stage: str, tokens: int) -> float:
        """Of all blocks of a half."""
        (width, heads), c = _size(self.model, stage), self.c
        depth, hidden = _depth(self.model, stage), int(width * self.model.mlp_ratio)
        rows = self.images * (tokens + prefix_tokens(self.study, self.run, stage))
        memory = self.images * memory_tokens(self.study, self.run)
        if self.study.hardware_of(self.run).checkpoint_blocks:
            return depth * rows * 4 * width + 4 * memory * width
        mask = 1 if self.model.dropout else 0
        # two float32 inputs of norms; q, k, v; results of both norms and of attention; two dropout masks
        row = (8 + 6 * c + 2 * mask) * width + (2 * c + mask) * hidden + 4 * heads + 16
        if not memory:
            return depth * rows * row
        row += (4 + 3 * c + mask) * width + 4 * heads + 8  # the same of cross-attention
        projected = 2 * c + (2 * c if c < 4 else 0)  # keys and values; copies of the tokens for both
        return depth * (rows * row + memory * projected * width) + 8 * memory * width

    def _ends(self, tokens: dict[str, int], masked: int) -> float:
        """Between input, halves and head: embeddings, norms, and the condition of the masked positions."""
        (width, _), (out, _), c = _size(self.model, "encoder"), _size(self.model, "decoder"), self.c
        encoder = tokens["encoder"] * (8 + c) * width
        decoder = tokens["decoder"] * 8 * out
        return self.images * (encoder + decoder + masked * (4 + c) * out)

    def _head(self, rows: int, repeats: int) -> float:
        """Of `repeats` noise draws for each of `rows` conditions."""
        width, c = self.model.head_width, self.c
        block = self.model.head_depth * (4 + 7 * c)  # as mixar.model.head.ResBlock says
        final = 4 + 3 * c  # its float32 input, modulation and norm
        times = 2 * c  # the sum of time and condition, and its SiLU
        return rows * repeats * ((block + final + times) * width + LOSS_BYTES * self.channels)


# Stages that draw and look at images: no gradients, so that a few tensors are there at a time

DECODING_TENSORS = 3, 2  # of full resolution and the first level's channels, when a tokenizer decodes or encodes: in
# float32, as norms and sums are, and in the precision of its convolutions
HEAD_TENSORS = 8  # of a row and channel of the head


def sampling_memory(study: Study, run: str, sampler: Sampler, tokenizer: int) -> float:
    """GiB at most while a run's images are drawn and decoded. tokenizer: its parameters.

    Largest is the MLP of a decoder block in the last iteration. Keys and values of memory tokens stay from one
    iteration to the next, and the branches of guidance share them unless the unguided one has no tokens.
    """
    model, length, images = study.models[study.runs[run].model], study.num_tokens, study.evaluation.batch_size
    guidance, c = study.runs[run].guidance, _bytes(sampler.precision)
    width, _ = _size(model, "decoder")
    branches = 1 if sampler.cfg == 1 else 2
    copies = branches if guidance.options.get("drop_tokens_in_null") else 1
    positions, visible = model.buffer_size + length, length - _least_masked(study, sampler)
    rows = positions + prefix_tokens(study, run, "decoder")
    # input, sum and norm of the block, and the results of the MLP's first layer and of its activation
    block = rows * (12 * width + 2 * c * int(width * model.mlp_ratio))
    # the decoder's input, before and after the tokens join it; what the encoder gave, and its embedding
    before = 4 * positions + 4 * length + (4 + c) * (model.buffer_size + visible) + 4 * visible
    fill = 4 * length if guidance.strategy == "dc_mix" else 0
    ends = (before + fill + 4 * model.buffer_size) * width
    memory = memory_tokens(study, run)
    tokens = max(memory, prefix_tokens(study, run, "decoder"), length if fill else 0)
    kept = 2 * c * memory * sum(_depth(model, s) * _size(model, s)[0] for s in STAGES) + 4 * tokens * width
    drawn = 4 * _most_drawn(study, sampler) * model.head_width * HEAD_TENSORS
    most = images * (copies * kept + branches * max(block + ends, drawn))
    weights = 4 * (parameters(study, run) + tokenizer)
    return (weights + max(most, _decoding(study, study.continuous, images, sampler.precision))) / GIB


def _phases(study: Study, sampler: Sampler) -> list[tuple[int, int]]:
    """Tokens of an image and iterations that draw them in a falling cosine; a skeleton has a phase of its own."""
    length, first = study.num_tokens, sampler.skeleton_iterations
    if first is None:
        return [(length, sampler.num_iterations)]
    return [(length - length // 2, first), (length // 2, sampler.num_iterations - first)]


def _least_masked(study: Study, sampler: Sampler) -> int:
    """Tokens of an image that the last iteration draws, as mixar.model.masking.masked_counts."""
    tokens, n = _phases(study, sampler)[-1]
    return max(math.floor(tokens * math.cos(math.pi / 2 * (n - 1) / n)), 1) if n > 1 else tokens


def _most_drawn(study: Study, sampler: Sampler) -> int:
    """Tokens of an image that an iteration draws at most."""
    shares = [tokens * (math.cos(math.pi / 2 * (n - 1) / n) if n > 1 else 1) for tokens, n in _phases(study, sampler)]
    return math.ceil(max(shares)) + 1


def tokenizer_memory(
    study: Study, section: Autoencoder, images: int, parameters: int, precision: str | None = None
) -> float:
    """GiB while a tokenizer of so many parameters encodes or decodes a batch. precision: None: the tokenizer's own."""
    return (4 * parameters + _decoding(study, section, images, precision or section.precision)) / GIB


def _decoding(study: Study, section: Autoencoder, images: int, precision: str) -> float:
    wide, narrow = DECODING_TENSORS
    return images * study.data.image_size**2 * section.channels * (4 * wide + _bytes(precision) * narrow)


def _bytes(precision: str) -> int:
    """Of a number."""
    return 2 if precision == "bfloat16" else 4


def generating_memory(study: Study) -> float:
    """GiB while the generator draws a batch of tokens: what a block and its MLP hold."""
    s, branches = study.generator, 2 if study.generator.sampler.guidance_scale else 1
    rows = branches * study.evaluation.batch_size * (study.num_tokens + 1)
    block = rows * (16 * s.width + 2 * _bytes(s.sampler.precision) * s.mlp_width)
    return (4 * generator_parameters(study) + block) / GIB


# What a strategy adds, as mixar.model.guidance declares it


def prefix_tokens(study: Study, run: str, stage: str) -> int:
    """Tokens that join a half's sequence."""
    guidance = study.runs[run].guidance
    is_longer = guidance.strategy == "dc_sa" and guidance.options.get("stage", "decoder") in (stage, "both")
    return study.num_tokens if is_longer else 0


def memory_tokens(study: Study, run: str) -> int:
    """Tokens that every block cross-attends to."""
    return study.num_tokens if study.runs[run].guidance.strategy == "dc_ca" else 0


# Parameters


def parameters(study: Study, run: str) -> int:
    """Of a run's network."""
    model, length, channels = study.models[study.runs[run].model], study.num_tokens, study.continuous.latent_channels
    (width, _), (out, _) = _size(model, "encoder"), _size(model, "decoder")
    positions = (model.buffer_size + length) * (width + out) + length * out
    ends = (study.data.num_classes + 1 + channels + 5) * width + width * out + 3 * out
    blocks = sum(_depth(model, s) * _block_parameters(study, run, s) for s in STAGES)
    return positions + ends + blocks + _guidance_parameters(study, run, out) + head_parameters(study, run)


def head_parameters(study: Study, run: str) -> int:
    """Of the diffusion head."""
    model, channels = study.models[study.runs[run].model], study.continuous.latent_channels
    (out, _), head = _size(model, "decoder"), model.head_width
    embedding = (FREQUENCIES + head + out + channels + 4) * head
    residual = model.head_depth * (5 * head**2 + 7 * head)
    final = 2 * head**2 + 2 * head + 2 * channels * (head + 1)
    return embedding + residual + final


def _guidance_parameters(study: Study, run: str, width: int) -> int:
    """Of what a strategy puts at masked positions and embeds tokens with."""
    strategy, bits = study.runs[run].guidance.strategy, study.discrete.bits
    if strategy == "dc_mix":
        return (bits + 1) * width
    table = 2**bits * width if strategy in ("dc_sa", "dc_ca") else 0
    return width + table + sum(prefix_tokens(study, run, stage) for stage in STAGES) * width


def _block_parameters(study: Study, run: str, stage: str) -> int:
    model = study.models[study.runs[run].model]
    width, _ = _size(model, stage)
    hidden = int(width * model.mlp_ratio)
    own = 4 * width**2 + 2 * width * hidden + 9 * width + hidden
    return own + (4 * width**2 if memory_tokens(study, run) else 0)


def generator_parameters(study: Study) -> int:
    """Of the generator of discrete tokens, which is frozen beside a run with TI-Mix."""
    s: Generator = study.generator
    width, bits = s.width, study.discrete.bits
    block = 4 * width**2 + 2 * width * s.mlp_width + 9 * width + s.mlp_width
    embeddings = (study.data.num_classes + 1 + study.num_tokens + 1 + bits + 3) * width
    last = width**2 + 3 * width + (width + 1) * s.splits * 2 ** (bits // s.splits)
    return embeddings + s.depth * block + last


def _size(model: Model, stage: str) -> tuple[int, int]:
    """Width and heads of a half."""
    if stage == "encoder":
        return model.width, model.heads
    return model.decoder_width or model.width, model.decoder_heads or model.heads


def _depth(model: Model, stage: str) -> int:
    return model.encoder_depth if stage == "encoder" else model.decoder_depth
