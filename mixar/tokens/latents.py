"""Continuous latents: drawn from the tokenizer's posterior, and normalised with their mean and standard deviation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixar.device import autocast
from mixar.model.patches import unpatchify
from mixar.process.failures import finite
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.tokens import tokenizers
from mixar.tokens.norms import wide
from mixar.tokens.vavae import sample_posterior
from mixar.weights import read_weights

ENCODE_BATCH = 64  # images per forward pass of a tokenizer; part of the numbers: posterior noise is drawn per batch


@torch.inference_mode()
def draw_latents(model: Any, images: Tensor, rng: torch.Generator) -> Tensor:
    """One posterior draw [b, C, h, w] of images in [0, 1]; noise from the CPU, so that every device gets the same.

    model: a continuous tokenizer, built in or the study's own.
    Raises FloatingPointError where the mean, the variance or the draw is not finite.
    """
    mean, logvar = (wide(t) for t in model.encode(images * 2 - 1))
    noise = torch.randn(mean.shape, generator=rng).to(mean.device)
    finite(logvar, "log variances of latents")  # a draw hides -inf
    return finite(sample_posterior(mean, logvar, noise), "latents")


def normalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Latents [B, L, C] as the transformer sees them."""
    return (x - mean) / std


def denormalise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The inverse of `normalise`: latents as the tokenizer sees them."""
    return x * std + mean


def latent_statistics(study: Study, layout: Layout) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [C] that normalised the latents. Raises ValueError for a file of other channels."""
    channels = study.continuous.latent_channels
    if study.continuous.scale is not None:
        return torch.zeros(channels), torch.full((channels,), 1 / study.continuous.scale)
    found = read_weights(layout.statistics)
    for key in ("mean", "std"):
        if key not in found or found[key].shape != (channels,):
            shape = list(found[key].shape) if key in found else "nothing"
            raise ValueError(f"{layout.statistics}: expected {key!r} of shape [{channels}], found {shape}")
    check_statistics(found, str(layout.statistics))
    return found["mean"], found["std"]


def latent_decoder(
    study: Study, layout: Layout, device: torch.device, precision: str = "float32"
) -> Callable[[Tensor], Tensor]:
    """A function from normalised latents [B, L, C] to images [B, 3, H, W], [0, 1] up to what rounding clamps.

    precision: of the decoder, in whichever thread it is called.
    """
    model: Any = tokenizers.load("continuous", study.continuous, layout.tokenizer("continuous")).to(device)
    mean, std = (t.to(device) for t in latent_statistics(study, layout))

    def decode(x: Tensor) -> Tensor:
        z = unpatchify(denormalise(x, mean, std), study.grid)
        with autocast(device, precision):
            return (wide(model.decode(z)) + 1) / 2

    return decode


def read_statistics(path: Path, channels: int) -> dict[str, Tensor]:
    """Mean and std per channel, float32 [C] each, of a file such as LightningDiT's. Raises ValueError for another."""
    found = {key: value.flatten() for key, value in read_weights(path).items()}
    shapes = {key: list(value.shape) for key, value in found.items()}
    if shapes != {"mean": [channels], "std": [channels]}:
        raise ValueError(f"{path}: expected mean and std of {channels} channels, found {shapes}")
    check_statistics(found, str(path))
    return found


def check_statistics(found: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError unless latents can be normalised with this `mean` and `std`."""
    if not all(found[key].isfinite().all() for key in ("mean", "std")) or not (found["std"] > 0).all():
        raise ValueError(f"{where}: the mean must be finite and the std finite and above zero in every channel")
