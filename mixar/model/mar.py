"""The masked autoregressive transformer over continuous tokens, its loss and its released state-dict names (MAR).

It calls the hooks of a guidance strategy and knows none by name. Eq. (3), (5) and (6).

Symbols: x latents [B, L, C]; q discrete tokens [B, L] int64; m mask [B, L] bool, True = missing; c class [B] int64;
drop [B] bool, True = the class is replaced by `fake_latent`; h hidden [B, n, D]; z head condition [B, L, D].
B batch, L positions (row-major), C channels, D width (the encoder's or the decoder's; z has the decoder's).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixar.model.guidance import COPIES, DROPPED, STAGES, Guidance, build_guidance, distinct
from mixar.model.head import DiffusionHead
from mixar.model.layers import initialise, layer_norm, learned, put, set_fast_dropout, take, width_and_heads
from mixar.model.masking import split_positions
from mixar.study.sections import Model, Study


class MAR(nn.Module):
    """Encoder over visible tokens, decoder over all positions, diffusion head on the masked ones.

    The mask token, where a strategy has one, is `guidance.mask_token`; every other name is MAR's.
    checkpoint_blocks: keep only the inputs of the transformer blocks, whose results the backward pass computes again.
    """

    checkpoint_blocks = False

    def __init__(self, model: Model, guidance: Guidance, num_tokens: int, channels: int, num_classes: int):
        super().__init__()
        length = model.buffer_size + num_tokens
        (width, _), (decoder_width, _) = (width_and_heads(model, stage) for stage in STAGES)
        self.buffer_size, self.num_tokens, self.channels = model.buffer_size, num_tokens, channels
        self.class_emb = initialise(nn.Embedding(num_classes, width))
        self.fake_latent = learned(1, width)
        self.z_proj = initialise(nn.Linear(channels, width))
        self.z_proj_ln = layer_norm(width)
        self.encoder_pos_embed_learned = learned(1, length, width)
        self.encoder_blocks = nn.ModuleList(guidance.block(model, "encoder") for _ in range(model.encoder_depth))
        self.encoder_norm = layer_norm(width)
        self.decoder_embed = initialise(nn.Linear(width, decoder_width))
        self.decoder_pos_embed_learned = learned(1, length, decoder_width)
        self.decoder_blocks = nn.ModuleList(guidance.block(model, "decoder") for _ in range(model.decoder_depth))
        self.decoder_norm = layer_norm(decoder_width)
        self.diffusion_pos_embed_learned = learned(1, num_tokens, decoder_width)
        self.guidance = guidance
        self.diffloss = DiffusionHead(channels, decoder_width, model.head_width, model.head_depth)

    @classmethod
    def from_study(cls, study: Study, run: str) -> MAR:
        """The untrained model of a run, with the settings of its hardware. Raises ValueError for guidance options that
        do not fit."""
        sizes, channels = study.models[study.runs[run].model], study.continuous.latent_channels
        model = cls(sizes, build_guidance(study, run), study.num_tokens, channels, study.data.num_classes)
        hardware = study.hardware_of(run)
        model.checkpoint_blocks = hardware.checkpoint_blocks
        model.diffloss.sequential_draws = hardware.sequential_draws
        set_fast_dropout(model, hardware.fast_dropout)
        return model

    def forward(
        self,
        x: Tensor,
        q: Tensor,
        m: Tensor,
        c: Tensor,
        drop: Tensor,
        rng: torch.Generator | None = None,
        head_batch_multiplier: int = 1,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        missing: int | None = None,
    ) -> Tensor:
        """The diffusion loss (Eq. 5) averaged over masked positions (Eq. 3) and noise draws: a scalar.

        Every row of m must miss equally many tokens. Each masked position meets head_batch_multiplier noise draws;
        its rows are ordered by image and position, and that list is repeated. t and noise for those rows are drawn
        from rng unless given. missing: tokens that every row misses; None reads it off m, a wait for the device.
        Only masked positions reach the head: MAR evaluates all of them and then discards.
        """
        visible, masked = split_positions(m, missing)
        z = self._condition(x, q, visible, c, drop, {}, masked)
        target = take(x, masked).flatten(0, 1)
        return self.diffloss.mean_loss(z.flatten(0, 1), target, rng, t, noise, head_batch_multiplier)

    def condition(
        self,
        x: Tensor,
        q: Tensor,
        m: Tensor,
        c: Tensor,
        drop: Tensor,
        cache: dict[str, Any] | None = None,
        missing: int | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """z [B, L, D], what the head is conditioned on at each position (Eq. 6); at `rows` [B, n] alone where given.

        x may hold anything at masked positions. c and drop may be several times as long as x, q, m and rows: these then
        meet each part of them, [2B, L, D] for the two branches of guidance. cache: one dict for all calls with the same
        q, c and drop keeps what depends on these alone.
        """
        visible, _ = split_positions(m, missing)
        return self._condition(x, q, visible, c, drop, {} if cache is None else cache, rows)

    def _condition(
        self,
        x: Tensor,
        q: Tensor,
        visible: Tensor,
        c: Tensor,
        drop: Tensor,
        cache: dict[str, Any],
        rows: Tensor | None,
    ) -> Tensor:
        copies = len(c) // len(x)
        q = q.repeat(copies, 1) if copies > 1 else q
        if self.guidance.drop_tokens_in_null:
            q = q.masked_fill(drop[:, None], DROPPED)
        else:
            cache[COPIES] = copies
        rows = rows if rows is None else rows.repeat(copies, 1)
        h = self.encode(x, q, c, drop, visible, cache)
        return self.decode(h, q, visible.repeat(copies, 1), cache, rows)

    def encode(self, x: Tensor, q: Tensor, c: Tensor, drop: Tensor, visible: Tensor, cache: dict[str, Any]) -> Tensor:
        """Encoder output [B, buffer + V, D]: class tokens, then the visible tokens in position order.

        x and visible may have fewer images than c, as for `condition`.
        """
        buffer, positions = self.encoder_pos_embed_learned.split([self.buffer_size, self.num_tokens], dim=1)
        if "class tokens" not in cache:
            label = torch.where(drop[:, None], self.fake_latent, self.class_emb(c))
            cache["class tokens"] = self.z_proj_ln(label[:, None] + buffer)
        tokens = self.z_proj(take(x, visible).to(self.z_proj.weight.dtype)) + F.embedding(visible, positions[0])
        tokens = self.z_proj_ln(tokens).repeat(len(c) // len(x), 1, 1)
        h = torch.cat([cache["class tokens"], tokens], dim=1)
        return self.encoder_norm(self._run(self.encoder_blocks, h, q, positions, "encoder", cache))

    def decode(
        self, h: Tensor, q: Tensor, visible: Tensor, cache: dict[str, Any], rows: Tensor | None = None
    ) -> Tensor:
        """z [B, L, D], or at `rows` [B, n, D], from the encoder's output; masked positions hold the strategy's fill
        (Eq. 9)."""
        before, positions = self.decoder_pos_embed_learned.split([self.buffer_size, self.num_tokens], dim=1)
        buffer, seen = self.decoder_embed(h).split([self.buffer_size, visible.shape[1]], dim=1)
        if "fill" not in cache:
            cache["fill"] = self.guidance.fill(distinct(q, cache)) + positions
        fill = cache["fill"]
        fill = fill.expand(len(h), -1, -1) if len(fill) == 1 else fill.repeat(len(h) // len(fill), 1, 1)
        tokens = put(fill, visible, seen.to(fill.dtype) + F.embedding(visible, positions[0]))
        h = torch.cat([buffer + before, tokens], dim=1)
        h = self._run(self.decoder_blocks, h, q, positions, "decoder", cache, rows)
        at = (
            self.diffusion_pos_embed_learned if rows is None else F.embedding(rows, self.diffusion_pos_embed_learned[0])
        )
        return self.decoder_norm(h) + at

    def _run(
        self,
        blocks: nn.ModuleList,
        h: Tensor,
        q: Tensor,
        positions: Tensor,
        stage: str,
        cache: dict[str, Any],
        rows: Tensor | None = None,
    ) -> Tensor:
        """h after the blocks of a half. In the decoder without the class tokens, and at the positions `rows` alone."""
        h, memory = self.guidance.enter(h, q, positions, stage, cache)
        last = None if rows is None or not self._can_narrow(blocks[-1]) else blocks[-1]
        for block in blocks:
            inputs = (h,) if memory is None else (h, memory)
            if block is last and rows is not None:
                inputs = (*inputs, self.guidance.prefix_tokens(stage) + self.buffer_size + rows)
            if self.checkpoint_blocks and torch.is_grad_enabled():
                # dropout draws from the global state, which the second pass must find as the first did
                h = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=True)
            else:
                h = block(*inputs)
        if last is not None:
            return h
        h = self.guidance.leave(h, stage)
        if stage == "encoder":
            return h
        h = h[:, self.buffer_size :]
        return h if rows is None else take(h, rows)

    def _can_narrow(self, block: nn.Module) -> bool:
        """Whether a block computes some rows alone, and the rows of positions are known."""
        is_prefix = type(self.guidance).leave is Guidance.leave
        return is_prefix and "rows" in inspect.signature(block.forward).parameters
