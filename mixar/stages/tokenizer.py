"""`tokenizer`: the weights of one tokenizer, imported or trained on the study's own images, and latent statistics."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from mixar import released
from mixar.assets.check import require, resolve
from mixar.data.images import augment, images_to_unit, iter_images
from mixar.data.manifest import manifest_sha256, read_manifest
from mixar.data.selection import training_images
from mixar.device import device_of
from mixar.process.failures import naming, needs_memory
from mixar.study.choices import is_own
from mixar.study.digests import Digests, seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.tokens import tokenizers
from mixar.tokens.latents import check_statistics, draw_latents, read_statistics
from mixar.training.job import micro_batch, train_network
from mixar.weights import import_weights, save_weights

STATISTICS_IMAGES = 10_000  # images behind the latents' mean and std, as in LightningDiT's extraction


@needs_memory(lambda study, _, kind: (f"tokenizer {kind}", micro_batch(f"{kind}.train", getattr(study, kind).train)))
def tokenizer(study: Study, layout: Layout, kind: str) -> None:
    """Write the weights of one tokenizer (kind: continuous or discrete); with the continuous one, its statistics."""
    settings, target = getattr(study, kind), layout.tokenizer(kind)
    require(settings.weights, study.continuous.statistics if kind == "continuous" else None)

    def build():
        return tokenizers.build(kind, settings)

    if settings.weights and is_own(settings.network):
        import_weights(settings.weights, lambda path: tokenizers.load(kind, settings, path), target)
    elif settings.weights:
        family = released.tokenizer_kind(settings)
        import_weights(settings.weights, lambda path: released.built(build, family, path), target)
    else:
        images = training_images(study, layout)
        device = device_of(study)

        def step(model, rows, rng, progress):
            batch = augment(images[rows], rng, device, settings.train.max_shift)
            return model.training_loss(batch, settings.train, rng)

        name, digest = f"tokenizer-{kind}", Digests(study).tokenizer(kind)
        train_network(
            study,
            layout,
            build,
            step,
            settings.train,
            num_items=len(images),
            name=name,
            digest=digest,
            images=manifest_sha256(layout.manifest),
            output=target,
        )
    if kind == "continuous":
        _write_statistics(study, layout)


@torch.no_grad()
def _write_statistics(study: Study, layout: Layout) -> None:
    """Mean and std per channel of the latents, float32 [C] each: the study's own, or else of the training images."""
    s = study.continuous
    if s.scale is not None:
        known = {"mean": torch.zeros(s.latent_channels), "std": torch.full((s.latent_channels,), 1 / s.scale)}
        save_weights(layout.statistics, known, {"scale": s.scale})
        return
    if s.statistics:
        found = read_statistics(resolve(s.statistics), s.latent_channels)
        save_weights(layout.statistics, found, {"source": s.statistics})
        return
    manifest = read_manifest(layout.manifest, "train")
    rng = torch.Generator().manual_seed(seed_of("statistics"))
    chosen = torch.randperm(len(manifest), generator=rng)[:STATISTICS_IMAGES].sort().values
    device = device_of(study)
    network = tokenizers.load("continuous", s, layout.tokenizer("continuous")).to(device)
    latents: list[torch.Tensor] = []
    images = iter_images(manifest.take(chosen.tolist()), study.data.image_size)
    while batch := list(itertools.islice(images, 64)):
        with naming(f"statistics of the latents, batch {len(latents)}"):
            drawn = draw_latents(network, images_to_unit(np.stack(batch)).to(device), rng)
        latents.append(drawn.movedim(1, -1).reshape(-1, drawn.shape[1]).cpu())
    rows = torch.cat(latents)
    found = {"mean": rows.mean(0), "std": rows.std(0)}
    check_statistics(found, "statistics of the latents: the continuous tokenizer is unfit")
    save_weights(layout.statistics, found, {"images": len(chosen)})
