"""How discrete tokens guide the continuous model: one class per strategy, with four hooks.

To write one: subclass `Guidance`, take (width, num_tokens, bits, **options) in the constructor, and override
  fill   embeddings for masked positions of the decoder's input (required);
  block  the transformer block of a half;
  enter  what joins the sequence before a half's blocks, and the memory handed to each of them;
  leave  removes what `enter` added, where that is no prefix.
A strategy initialises what it owns and owns only what it uses: a parameter without a gradient stops distributed
training and falsifies the parameter count. `prefix_tokens` and `memory_tokens` declare what it adds to each half, for
FLOPs and token counts. `width` is the decoder's; what joins the encoder's sequence needs halves of equal width. Then
name it in a study: `guidance: {strategy: "my_module:MyClass"}`.

Symbols: q discrete tokens [B, L] int64 in [0, 2**K), or DROPPED; h hidden [B, n, D]; stage "encoder" or "decoder".
B batch, L positions, D width, K bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixar.model.layers import Block, CrossBlock, Memory, initialise, learned, normalised, width_and_heads
from mixar.study import choices
from mixar.study.sections import Model, Study

STAGES = ("encoder", "decoder")
COPIES = "copies"  # cache[COPIES]: how many times the rows of q repeat themselves
DROPPED = -1  # value of all tokens of an image whose tokens are dropped with its class


class Guidance(nn.Module):
    """A strategy that adds nothing; `fill` is left to subclasses.

    drop_tokens_in_null: where the class is dropped (training and the null branch of classifier-free guidance), the
    discrete tokens are dropped too: the hooks then see q = DROPPED. By default both branches see the tokens.
    """

    def __init__(self, drop_tokens_in_null: bool = False):
        super().__init__()
        if not isinstance(drop_tokens_in_null, bool):
            found = f"found {drop_tokens_in_null!r}"
            raise ValueError(f"guidance.options.drop_tokens_in_null: expected true or false, {found}")
        self.drop_tokens_in_null = drop_tokens_in_null

    def fill(self, q: Tensor) -> Tensor:
        """Embeddings for masked positions, [B, L, D] or [1, 1, D]."""
        raise NotImplementedError(f"{type(self).__name__} must define fill(q)")

    def block(self, model: Model, stage: str) -> nn.Module:
        """A new block of a half, called with h, or with (h, memory) where `enter` hands one over."""
        return Block(model, stage)

    def enter(self, h: Tensor, q: Tensor, positions: Tensor, stage: str, cache: dict[str, Any]) -> tuple[Tensor, Any]:
        """The sequence that a half's blocks work on, and their memory or None.

        h: class tokens, then the encoder's visible tokens or all L positions. positions [1, L, D]: the position
        embeddings of this half. cache lives as long as q (every decoding step of the same images): keep there what
        depends on q alone. Under guidance both branches see the same q, one after the other; `distinct` is one of them.
        """
        return h, None

    def leave(self, h: Tensor, stage: str) -> Tensor:
        """h without what `enter` added: here, without as many tokens at its beginning as `prefix_tokens` says.

        Where a strategy has its own, the last block computes all rows, those that nobody reads, too.
        """
        return h[:, self.prefix_tokens(stage) :]

    def prefix_tokens(self, stage: str) -> int:
        """How many tokens `enter` puts before the sequence: `leave` removes them, and costs count them."""
        return 0

    def memory_tokens(self, stage: str) -> int:
        """How many memory tokens every block cross-attends to; for cost accounting."""
        return 0


class Unguided(Guidance):
    """MAR: one learned mask token. The discrete tokens are ignored."""

    def __init__(self, width: int, num_tokens: int, bits: int):
        super().__init__()
        self.mask_token = learned(1, 1, width)

    def fill(self, q: Tensor) -> Tensor:
        return self.mask_token


class DCMix(Guidance):
    """DC-Mix: a masked position holds its own discrete token instead of the mask token. Eq. (9).

    A token enters as its K bits through one linear map shared by all positions. Dropped tokens are zero bits: only
    the bias remains, which then acts as the mask token.
    """

    def __init__(self, width: int, num_tokens: int, bits: int, **common: bool):
        super().__init__(**common)
        self.embed = initialise(nn.Linear(bits, width))

    def fill(self, q: Tensor) -> Tensor:
        return self.embed(token_bits(q, self.embed.in_features).to(self.embed.weight.dtype))


class DCSelfAttention(Guidance):
    """DC-SA: all discrete tokens are a prefix of the sequence, with their own embeddings and positions (Section 3.3).

    stage: the half whose sequence is lengthened, "decoder" (default), "encoder" or "both". With "both" the prefix
    enters each half afresh, with a position table for each.
    """

    def __init__(self, width: int, num_tokens: int, bits: int, stage: str = "decoder", **common: bool):
        super().__init__(**common)
        if stage not in (*STAGES, "both"):
            raise ValueError(f"guidance.options.stage: {stage!r} is unknown; choose from encoder, decoder, both")
        self.num_tokens = num_tokens
        self.mask_token = learned(1, 1, width)
        self.table = initialise(nn.Embedding(2**bits, width))
        stages = STAGES if stage == "both" else (stage,)
        self.positions = nn.ParameterDict({s: learned(1, num_tokens, width) for s in stages})

    def fill(self, q: Tensor) -> Tensor:
        return self.mask_token

    def enter(self, h: Tensor, q: Tensor, positions: Tensor, stage: str, cache: dict[str, Any]) -> tuple[Tensor, Any]:
        if stage not in self.positions:
            return h, None
        if stage not in cache:
            cache[stage] = embed(self.table, distinct(q, cache)) + self.positions[stage]
        prefix = cache[stage].repeat(len(h) // len(cache[stage]), 1, 1)
        return torch.cat([prefix, h], dim=1), None

    def prefix_tokens(self, stage: str) -> int:
        return self.num_tokens if stage in self.positions else 0


class DCCrossAttention(Guidance):
    """DC-CA: after each block of both halves, h attends to all discrete tokens as a memory (Section 3.3).

    The memory has its own embedding table and borrows the half's position table: with Table 2's parameter count there
    is no room for a separate one, and without positions the tokens would be an unordered set.
    """

    def __init__(self, width: int, num_tokens: int, bits: int, **common: bool):
        super().__init__(**common)
        self.num_tokens = num_tokens
        self.mask_token = learned(1, 1, width)
        self.table = initialise(nn.Embedding(2**bits, width))

    def fill(self, q: Tensor) -> Tensor:
        return self.mask_token

    def block(self, model: Model, stage: str) -> nn.Module:
        return CrossBlock(model, stage)

    def enter(self, h: Tensor, q: Tensor, positions: Tensor, stage: str, cache: dict[str, Any]) -> tuple[Tensor, Any]:
        if stage not in cache:
            cache[stage] = Memory(normalised(embed(self.table, distinct(q, cache)) + positions))
        return h, cache[stage]

    def memory_tokens(self, stage: str) -> int:
        return self.num_tokens


def distinct(q: Tensor, cache: dict[str, Any]) -> Tensor:
    """q [B, L] without its repetitions: the rows of one branch of guidance, where all branches have the same."""
    return q[: len(q) // cache.get(COPIES, 1)]


def token_bits(q: Tensor, bits: int) -> Tensor:
    """The bits of tokens [B, L] as -1 and 1, the lowest first, int64 [B, L, K]; zeros where dropped."""
    places = torch.arange(bits, device=q.device)
    return ((q[..., None] >> places & 1) * 2 - 1) * (q != DROPPED)[..., None]


def embed(table: nn.Embedding, q: Tensor) -> Tensor:
    """Rows of the table [B, L, D]; zeros where dropped."""
    return table(q.clamp(min=0)) * (q != DROPPED)[..., None]


def load_strategy(name: str) -> type[Guidance]:
    """The strategy of a name or "module:Class". Raises ValueError if there is none or it is no Guidance."""
    return choices.STRATEGIES.load_class(name, Guidance)


def build_guidance(study: Study, run: str) -> Guidance:
    """The strategy of a run with its options. Raises ValueError naming options or widths that it does not take."""
    settings, model = study.runs[run].guidance, study.models[study.runs[run].model]
    strategy, where = load_strategy(settings.strategy), choices.STRATEGIES.where(settings.strategy)
    width, _ = width_and_heads(model, "decoder")
    sizes = (width, study.num_tokens, study.discrete.bits)
    guidance = choices.construct(strategy, where, f"runs.{run}.guidance.options", *sizes, **settings.options)
    joins_encoder = guidance.prefix_tokens("encoder") or guidance.memory_tokens("encoder")
    if joins_encoder and width != model.width:
        raise ValueError(
            f"models.{study.runs[run].model}.decoder_width: {width} differs from width {model.width}, and {where} adds "
            f"tokens of one width to both; leave decoder_width out"
        )
    return guidance
