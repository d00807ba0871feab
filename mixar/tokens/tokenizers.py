"""The two tokenizers of a study: VA-VAE and MaskBit, or your own networks.

To write one: an `nn.Module` whose constructor takes (settings, **options), settings being the study's section. Then
name it there: `continuous: {network: "my_module:MyClass", options: {...}}`, or under `discrete`. It must have
  encode(images [B, 3, H, W] in [-1, 1])   continuous: posterior mean and log variance, [B, C, h, w] each;
  decode(z [B, C, h, w])                   continuous: images [B, 3, H, W] around [-1, 1];
  tokens(images [B, 3, H, W] in [0, 1])    discrete: q [B, L] int64 in [0, 2**K), row-major;
  decode_tokens(q [B, L])                  discrete: images [B, 3, H, W] in [0, 1];
  training_loss(images [B, 3, H, W] in [0, 1], settings.train, rng)
                                           where the study trains it: a dict of scalars that has "loss".
C is `latent_channels`, K is `bits`, and h = w is H over 2 to the number of `multipliers` less one: the study goes by
these settings. Weights are the state dict; a network that was given its weights is in evaluation mode.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from mixar.study import choices, sections
from mixar.weights import load_module

NETWORKS = {"continuous": choices.CONTINUOUS, "discrete": choices.DISCRETE}
METHODS = {"continuous": ("encode", "decode"), "discrete": ("tokens", "decode_tokens")}


def build(kind: str, settings: sections.Autoencoder) -> nn.Module:
    """The untrained tokenizer of a section (kind: continuous or discrete).

    Raises ValueError where the network cannot be found, lacks a method or does not take its options.
    """
    methods = (*METHODS[kind], *(["training_loss"] if settings.train else []))
    network = NETWORKS[kind].load_class(settings.network, nn.Module, methods)
    if not choices.is_own(settings.network):
        return network(settings)
    return choices.construct(network, settings.network, f"{kind}.options", settings, **settings.options)


def load(kind: str, settings: sections.Autoencoder, path: Path) -> nn.Module:
    """The tokenizer with the weights of a file, in evaluation mode. Raises ValueError as `build`, or if unfit."""
    return load_module(build(kind, settings), path)


def check_tokens(x: Tensor, q: Tensor, num_tokens: int, channels: int, bits: int) -> None:
    """Raise ValueError unless x is latents [B, num_tokens, channels] and q tokens [B, num_tokens] below 2**bits."""
    if x.shape[1:] != (num_tokens, channels):
        raise ValueError(f"continuous: the network gives {x.shape[1]} tokens of {x.shape[2]} channels per image, but "
                         f"multipliers and latent_channels say {num_tokens} of {channels}")  # fmt: skip
    if q.shape[1:] != (num_tokens,) or q.is_floating_point():
        raise ValueError(f"discrete: the network gives {q.dtype} {list(q.shape)}, expected integers [B, {num_tokens}]")
    if len(q) and not 0 <= q.min() <= q.max() < 2**bits:
        raise ValueError(f"discrete: the network gives tokens from {q.min()} to {q.max()}, but bits {bits} go from 0 "
                         f"to {2**bits - 1}")  # fmt: skip
