"""MaskBit's bit transformer (LFQBert): trained to fill masked groups of token bits, it draws whole token maps.

Layers, state-dict names, loss and sampling follow the MaskBit release; where we differ, a comment says so.

Symbols: q tokens [B, N] int64 in [0, 2**K); t groups [B, N, G] int64 in [0, V), where V marks a masked
group; m [B, N, G] bool, True = missing; c class [B] int64; h hidden [B, N + 1, D].
B batch, N positions (L elsewhere), G groups per token, K bits per token, V = 2**(K / G) values per group, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixar.process.failures import finite
from mixar.study.sections import Generator, GeneratorSampler, GeneratorTraining, Study
from mixar.tokens.norms import wide
from mixar.weights import load_module

# --- the network


class BitTransformer(nn.Module):
    """Logits of every group of bits from the visible groups and the class."""

    bits_to_indices: Tensor

    def __init__(self, settings: Generator, bits: int, num_tokens: int, num_classes: int):
        super().__init__()
        group_bits = bits // settings.splits
        self.splits, self.mask_value, self.num_classes = settings.splits, 2**group_bits, num_classes
        self.class_emb = nn.Embedding(num_classes + 1, settings.width)  # the last row is the dropped class
        self.pos_emb = nn.Parameter(torch.empty(1, num_tokens + 1, settings.width))
        self.input_proj = nn.Linear(bits, settings.width)
        self.first_layer = nn.Sequential(LayerNorm(settings.width), nn.Dropout(settings.dropout))
        self.transformer = Transformer(settings)
        self.last_layer = nn.Sequential(nn.Linear(settings.width, settings.width), nn.GELU(), LayerNorm(settings.width))
        self.prediction_layer = nn.Linear(settings.width, settings.splits * self.mask_value)
        self.register_buffer("bits_to_indices", 2 ** torch.arange(group_bits, dtype=torch.int32))
        self.apply(_initialise)
        nn.init.trunc_normal_(self.pos_emb, std=0.02)

    def forward(self, t: Tensor, c: Tensor, drop: Tensor | None = None) -> Tensor:
        """Logits [B, N, G, V]. drop: [B] bool, True = without the class; None keeps every class.

        Differs from the MaskBit release, where a missing `drop` drops every class.
        """
        if drop is not None:
            c = torch.where(drop, self.num_classes, c)
        h = torch.cat([self.input_proj(self.input_bits(t)), self.class_emb(c)[:, None]], dim=1)
        h = self.transformer(self.first_layer(h + self.pos_emb))
        return self.prediction_layer(self.last_layer(h[:, :-1])).unflatten(-1, (self.splits, self.mask_value))

    def input_bits(self, t: Tensor) -> Tensor:
        """The bits of groups t as ±1, zero where masked: [B, N, K], the lowest bit first."""
        bits = ((t[..., None] & self.bits_to_indices) != 0).to(self.pos_emb.dtype) * 2 - 1
        return bits.masked_fill((t == self.mask_value)[..., None], 0).flatten(-2)

    def split(self, q: Tensor) -> Tensor:
        """Groups [B, N, G] of tokens [B, N]; group 0 holds the lowest bits."""
        return q[..., None] // self._place_values(q) % self.mask_value

    def join(self, t: Tensor) -> Tensor:
        """Tokens [B, N] of groups [B, N, G] without masked entries. In integers, and so exact for any K."""
        return (t * self._place_values(t)).sum(-1)

    def _place_values(self, like: Tensor) -> Tensor:
        return self.mask_value ** torch.arange(self.splits, device=like.device)


class Transformer(nn.Module):
    """Post-norm blocks; `layers.i` holds attention and feed-forward, as the released names want."""

    def __init__(self, settings: Generator):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(settings), FeedForward(settings)]) for _ in range(settings.depth)
        )

    def forward(self, h: Tensor) -> Tensor:
        for attention, feed_forward in cast("Iterable[tuple[Attention, FeedForward]]", self.layers):
            h = feed_forward(attention(h))
        return h


class Attention(nn.Module):
    def __init__(self, settings: Generator):
        super().__init__()
        self.mha = SelfAttention(settings.width, settings.heads, settings.dropout)
        self.norm = LayerNorm(settings.width)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(h + self.dropout(self.mha(h)))


class SelfAttention(nn.Module):
    """Full self-attention with the parameter names of torch's MultiheadAttention."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, h: Tensor) -> Tensor:
        qkv = F.linear(h, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, settings: Generator):
        super().__init__()
        widen, narrow = nn.Linear(settings.width, settings.mlp_width), nn.Linear(settings.mlp_width, settings.width)
        self.net = nn.Sequential(widen, nn.GELU(), narrow, nn.Dropout(settings.dropout))
        self.norm = LayerNorm(settings.width)

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(h + self.net(h))


class LayerNorm(nn.LayerNorm):
    """Always in float32: eps 1e-12 (MaskBit, released code) is nothing in a lower precision.

    The result has the weights' type.
    """

    def __init__(self, width: int):
        super().__init__(width, eps=1e-12)

    def forward(self, h: Tensor) -> Tensor:
        h, weight, bias = (wide(t) for t in (h, self.weight, self.bias))
        return F.layer_norm(h, self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


def _initialise(module: nn.Module) -> None:
    """Truncated normal weights and zero biases (MaskBit, released code); packed attention weights stay Xavier."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def load(study: Study, path: str | Path) -> BitTransformer:
    """The study's generator with the weights of a safetensors file, in eval mode.

    Raises ValueError for a file that does not fit.
    """
    with torch.device("meta"):  # no time and no random numbers for an initialisation that the file replaces
        model = BitTransformer(study.generator, study.discrete.bits, study.num_tokens, study.data.num_classes)
    return load_module(model.to_empty(device="cpu"), Path(path))


# --- training


def mask_entries(t: Tensor, mask_value: int, r: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Groups with masked entries, and m. Each group is masked on its own with probability arccos(r) / (π/2).

    r: [B], uniform in [0, 1], one draw per image. u: [B, N, G], uniform in [0, 1], one draw per group.
    """
    m = u < (torch.acos(r) / (math.pi / 2))[:, None, None]
    return t.masked_fill(m, mask_value), m


def entry_loss(logits: Tensor, t: Tensor, label_smoothing: float) -> Tensor:
    """Mean cross-entropy over all groups, masked or not (MaskBit, released code). logits [B, N, G, V], t [B, N, G]."""
    return F.cross_entropy(logits.flatten(0, -2).float(), t.flatten(), label_smoothing=label_smoothing)


def training_loss(
    model: BitTransformer, q: Tensor, c: Tensor, rng: torch.Generator, settings: GeneratorTraining
) -> Tensor:
    """The loss of one batch, a scalar with gradient. q [B, N] tokens, c [B] classes. model: also as DDP wraps it."""
    inner = getattr(model, "module", model)  # DDP hides the methods of the network it holds
    t = inner.split(q)
    r = torch.rand(len(q), generator=rng, device=q.device)
    u = torch.rand(t.shape, generator=rng, device=q.device)
    drop = torch.rand(len(q), generator=rng, device=q.device) < settings.label_drop_rate
    masked, _ = mask_entries(t, inner.mask_value, r, u)
    return entry_loss(model(masked, c, drop), t, settings.label_smoothing)


# --- sampling


@torch.no_grad()
def sample_tokens(
    model: BitTransformer,
    c: Tensor,
    sampler: GeneratorSampler,
    rng: torch.Generator,
    draws: Sequence[tuple[Tensor, Tensor]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Tokens q [B, N] for classes c [B], from all groups masked to none (Eq. 4; MaskBit, released code).

    model: in eval mode. draws: per step, exponential noise [B * N * G, V] and Gumbel noise [B, N, G] instead of draws
    from rng. progress: called after each step with the steps done and their number.
    Stops early where more steps are asked for than there are groups to fill.
    """
    assert not model.training, "sample_tokens needs model.eval(): dropout would change the tokens"
    shape = (len(c), model.pos_emb.shape[1] - 1, model.splits)
    t = torch.full(shape, model.mask_value, device=c.device)
    counts = masked_counts(math.prod(shape[1:]), sampler.num_steps, sampler.mask_schedule)
    for step, count in enumerate(counts):
        probs = token_probs(model, t, c, guidance_scale(sampler, step), sampler.softmax_temperature)
        exponential, gumbel = draws[step] if draws else _draw_noise(probs, rng)
        noise = sampler.randomize_temperature * (1 - (step + 1) / sampler.num_steps) * gumbel
        t = fill_and_remask(t, model.mask_value, probs, exponential, noise, count)
        if progress:
            progress(step + 1, len(counts))
    return model.join(t)


def token_probs(model: BitTransformer, t: Tensor, c: Tensor, scale: float, temperature: float) -> Tensor:
    """Probabilities [B, N, G, V] under guidance: logits are l_c + scale * (l_c - l_u), l_u without the class.

    At scale 0 the pass without the class is skipped: it would not count.
    Raises FloatingPointError for logits that are not finite: a draw from them is always the same token.
    """
    if scale == 0:
        logits = model(t, c).float()
    else:
        drop = torch.arange(2 * len(c), device=c.device) >= len(c)
        l_c, l_u = model(t.repeat(2, 1, 1), c.repeat(2), drop).float().chunk(2)
        logits = l_c + scale * (l_c - l_u)
    return finite(logits / temperature, "logits").softmax(-1)


def fill_and_remask(
    t: Tensor, mask_value: int, probs: Tensor, exponential: Tensor, noise: Tensor, count: int
) -> Tensor:
    """Draw every masked entry of t from probs, then mask again the `count` least confident of those just drawn.

    exponential: Exp(1) draws, as many as probs has entries; argmax(p / exponential) is a draw from p.
    noise: [B, N, G], added to the confidence log p. count: below the number of masked entries, the same in every row.
    Differs from the MaskBit release, which compares with a threshold: there a tie masks more entries, and count 0 all.
    """
    m = t == mask_value
    t = torch.where(m, (probs / exponential.view_as(probs)).argmax(-1), t)
    confidence = probs.gather(-1, t[..., None]).squeeze(-1).log() + noise
    weakest = confidence.masked_fill(~m, math.inf).flatten(1).topk(count, largest=False).indices
    return t.flatten(1).scatter(1, weakest, mask_value).view_as(t)


def _draw_noise(probs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    exponential = torch.empty_like(probs).exponential_(generator=rng)
    gumbel = -torch.empty_like(probs[..., 0]).exponential_(generator=rng).log()
    return exponential, gumbel


def guidance_scale(sampler: GeneratorSampler, step: int) -> float:
    """The guidance scale of step 0, 1, ...; the customary CFG weight is one more."""
    return sampler.guidance_scale * ANNEALINGS[sampler.guidance_annealing](step / sampler.num_steps, sampler.scale_pow)


def masked_counts(num_entries: int, num_steps: int, schedule: str) -> list[int]:
    """Entries still masked after each step. At least one is fixed a step; the list ends with its first 0."""
    counts = [num_entries]
    while counts[-1] and len(counts) < num_steps:
        # In float32, as the release: at whole numbers of entries the rounding decides.
        wanted = int(MASK_SCHEDULES[schedule](torch.tensor(len(counts) / num_steps)) * num_entries)
        counts.append(min(max(wanted, 1), counts[-1] - 1))
    return counts[1:] if counts[-1] == 0 else [*counts[1:], 0]


# Share of the full guidance scale, from the share of steps done before this one and the configured power.
ANNEALINGS = {
    "none": lambda done, power: 1.0,
    "linear": lambda done, power: done,
    "cosine": lambda done, power: (1 - math.cos(math.pi * done**power)) / 2,
}

# Share of entries still masked, from the share of steps done, a float32 scalar tensor (MaskBit, released code).
MASK_SCHEDULES = {
    "arccos": lambda done: done.acos() / (math.pi / 2),
    "cosine": lambda done: (done * math.pi / 2).cos(),
    "linear": lambda done: 1 - done,
    "square": lambda done: 1 - done**2,
    "root": lambda done: 1 - done**0.5,
}
