"""Layers of the masked autoregressive transformer: blocks, cross-attention, rows in and out of a sequence.

Symbols: h hidden [B, n, D]; memory tokens [B, N, D]; rows positions [B, n] int64; stage "encoder" or "decoder", the
half that a layer belongs to. B batch, n tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mixar.study.sections import Model

NORM_EPS = 1e-6  # MAR, released code: every LayerNorm

layer_norm = partial(nn.LayerNorm, eps=NORM_EPS)

Module = TypeVar("Module", bound=nn.Module)


def initialise(module: Module) -> Module:
    """`module` with MAR's initial weights: Xavier-uniform linear layers, zero biases, N(0, 0.02) embeddings.

    Like every torch initialiser it draws from the global random state; callers seed that.
    """

    def start(layer: nn.Module) -> None:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=0.02)

    return module.apply(start)


def learned(*shape: int) -> nn.Parameter:
    """A free parameter from N(0, 0.02), as MAR's mask token and position tables."""
    return nn.Parameter(torch.empty(shape).normal_(std=0.02))


def width_and_heads(model: Model, stage: str) -> tuple[int, int]:
    """Those of one half."""
    if stage == "encoder":
        return model.width, model.heads
    return model.decoder_width or model.width, model.decoder_heads or model.heads


class Dropout(nn.Dropout):
    """torch's dropout, or where `is_fast` one that costs a third on a CPU.

    The fast one makes four masks' bits of each random number: it drops with probability round(65536 p) / 65536.
    """

    is_fast = False

    def forward(self, h: Tensor) -> Tensor:
        dropped = round(65536 * self.p)
        if not (self.is_fast and self.training and 0 < dropped < 65536):
            return super().forward(h)
        words = torch.empty(-(-h.numel() // 4), dtype=torch.int64, device=h.device).random_(-(2**63), None)
        sixteen = words.view(torch.int16)[: h.numel()].view(h.shape)
        mask = torch.empty_like(h, requires_grad=False)
        torch.ge(sixteen, dropped - 32768, out=mask)
        return h * mask.mul_(65536 / (65536 - dropped))


def set_fast_dropout(model: nn.Module, is_fast: bool) -> None:
    """Choose the dropout of a network's blocks."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.is_fast = is_fast


def attention(q: Tensor, k: Tensor, v: Tensor, drop: Dropout) -> Tensor:
    """softmax(q k' / sqrt(d)) v for heads [B, heads, n, d], its weights with dropout."""
    if drop.is_fast and drop.training and drop.p:
        return drop((q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)) @ v
    return F.scaled_dot_product_attention(q, k, v, dropout_p=drop.p if drop.training else 0.0)


class SelfAttention(nn.Module):
    """Self-attention: h [B, n, D] to the same shape, or of rows [B, r] to all n: [B, r, D].

    Rows that nobody reads need no query and projection; their keys and values they have.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attn_drop, self.proj_drop = Dropout(dropout), Dropout(dropout)

    def forward(self, h: Tensor, rows: Tensor | None = None) -> Tensor:
        q, k, v = self._all(h) if rows is None else self._at(h, rows)
        out = attention(q, k, v, self.attn_drop)
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def _all(self, h: Tensor) -> tuple[Tensor, ...]:
        return self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()

    def _at(self, h: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
        width = h.shape[-1]
        (to_q, to_kv), (bias_q, bias_kv) = (t.split([width, 2 * width]) for t in (self.qkv.weight, self.qkv.bias))
        q = F.linear(take(h, rows), to_q, bias_q).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = F.linear(h, to_kv, bias_kv).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v


class Mlp(nn.Module):
    """Two linear layers with GELU between: [..., D] to the same shape."""

    def __init__(self, width: int, hidden: int, dropout: float):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.drop1, self.drop2 = Dropout(dropout), Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.drop1(F.gelu(self.fc1(h)))))


class Block(nn.Module):
    """Pre-norm transformer block, as timm's with MAR's settings: h [B, n, D] to the same shape, or to [B, r, D] at rows
    [B, r] alone.
    """

    def __init__(self, model: Model, stage: str):
        super().__init__()
        width, heads = width_and_heads(model, stage)
        self.norm1, self.attn = layer_norm(width), SelfAttention(width, heads, model.dropout)
        self.norm2, self.mlp = layer_norm(width), Mlp(width, int(width * model.mlp_ratio), model.dropout)
        initialise(self)

    def forward(self, h: Tensor, rows: Tensor | None = None) -> Tensor:
        read = h if rows is None else take(h, rows)
        h = read + self.attn(self.norm1(h), rows)
        return h + self.mlp(self.norm2(h))


class CrossBlock(Block):
    """A block followed by cross-attention to a memory: (h [B, n, D], memory) to [B, n, D], or to [B, r, D] at rows."""

    def __init__(self, model: Model, stage: str):
        super().__init__(model, stage)
        self.cross = initialise(CrossAttention(*width_and_heads(model, stage), model.dropout))

    def forward(self, h: Tensor, memory: Memory, rows: Tensor | None = None) -> Tensor:  # type: ignore[override]
        h = super().forward(h, rows)
        return h + self.cross(h, memory)


class CrossAttention(nn.Module):
    """Bias-free attention from h to a memory. The query is normalised without parameters of its own.

    h may have several times the memory's images: the same images in each part, as the branches of guidance.
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.drop = heads, Dropout(dropout)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, h: Tensor, memory: Memory) -> Tensor:
        parts = len(h) // len(memory.tokens)
        # All queries of an image one after the other: its keys and values serve every part and are not repeated.
        query = self._split(self.q(normalised(h)).unflatten(0, (parts, -1)).transpose(0, 1).flatten(1, 2))
        out = attention(query, *memory.keys_and_values(self), self.drop)
        out = self.o(out.transpose(1, 2).flatten(2)).unflatten(1, (parts, -1)).transpose(0, 1).flatten(0, 1)
        return self.drop(out)

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the memory's tokens, [B, heads, N, D / heads] each."""
        return self._split(self.k(tokens)), self._split(self.v(tokens))

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Memory:
    """Tokens [B, N, D] to attend to.

    While images are drawn, each layer's keys and values of them are computed once and kept. A training step uses them
    once; a block whose results are computed again must find the tokens alone, as it did the first time.
    """

    def __init__(self, tokens: Tensor):
        self.tokens = tokens
        self._projected: dict[CrossAttention, tuple[Tensor, Tensor]] = {}

    def keys_and_values(self, attention: CrossAttention) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():
            return attention.project(self.tokens)
        if attention not in self._projected:
            self._projected[attention] = attention.project(self.tokens)
        return self._projected[attention]


def normalised(h: Tensor) -> Tensor:
    """LayerNorm without parameters over the last axis."""
    return F.layer_norm(h, h.shape[-1:], eps=NORM_EPS)


def recomputed(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """function(*inputs), of which only the inputs are kept: the backward pass computes it again.

    The function draws nothing. A compiler chooses by itself what to keep.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def wide(t: Tensor) -> Tensor:
    """t in float32, or in float64 where it is."""
    return t.to(torch.promote_types(t.dtype, torch.float32))


def take(h: Tensor, rows: Tensor) -> Tensor:
    """h [B, L, D] at positions rows [B, n]: [B, n, D]."""
    return h.flatten(0, 1).index_select(0, _flat(rows, h.shape[1])).unflatten(0, rows.shape)


def put(h: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """A copy of h [B, L, D] with new [B, n, D] at positions rows [B, n]."""
    flat = h.flatten(0, 1).index_copy(0, _flat(rows, h.shape[1]), new.flatten(0, 1))
    return flat.unflatten(0, h.shape[:2])


def _flat(rows: Tensor, length: int) -> Tensor:
    # index_select on flattened rows: `gather` with an expanded index is several times slower
    return (rows + torch.arange(len(rows), device=rows.device)[:, None] * length).flatten()
