"""Preview sheets: what a training draws now, for a few fixed labels and with a short sampler.

The same labels, tokens and noise at every call, so that sheets of one training can be laid over each other.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mixar.data.images import unit_to_uint8
from mixar.data.manifest import read_manifest
from mixar.data.shards import TokenStore
from mixar.device import autocast
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.process.failures import finite
from mixar.study.digests import seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.tokens.latents import latent_decoder

LABELS = 8  # columns of a sheet
DRAWN = 2  # images of a label
ITERATIONS, HEAD_STEPS = 16, 25  # at most: a preview may cost seconds, not minutes
DECODE_BATCH = 4  # images: the training keeps most of the memory


class Preview:
    """Call with the averaged model, the PNG file to write and a title.

    The tokens come from held-out images, whose reconstructions are the first row; without any, from training images.
    """

    def __init__(self, study: Study, layout: Layout, run: str, store: TokenStore):
        self.study, self.layout, self.store = study, layout, store
        split = "held_out" if store.held_out.any() else "train"
        self.source = "held-out images" if split == "held_out" else "training images"
        rows = store.rows(split)
        self.rows = spread(rows[torch.from_numpy(store.labels)[rows].argsort(stable=True)], LABELS)
        full = study.samplers[study.runs[run].samplers[0]]
        short = {"num_iterations": min(full.num_iterations, ITERATIONS), "head_steps": min(full.head_steps, HEAD_STEPS)}
        self.sampler = full.model_copy(update=short)

    def __call__(self, average: nn.Module, path: Path, title: str) -> None:
        assert isinstance(average, MAR), type(average)
        # imported here: matplotlib takes half a second, and only the main process of a training draws
        from mixar.reporting import figures, pictures

        images = self._images(average).split(len(self.rows))
        labels = ["reconstructed", *["drawn"] * DRAWN]
        s = self.sampler
        text = (
            f"First row: {self.source}, as the continuous tokenizer decodes them. Below: drawn from their labels and "
            f"tokens, with {s.num_iterations} iterations, {s.head_steps} head steps and CFG {s.cfg:g}."
        )
        rows = [(label, part.numpy()) for label, part in zip(labels, images, strict=True)]
        figures.save(pictures.preview_sheet(rows, self._names(), title, text), path.with_suffix(""), ["png"])

    @torch.no_grad()
    def _images(self, average: MAR) -> Tensor:
        """uint8 [n, H, W, 3]: the images that tokens come from, and those drawn from their tokens."""
        device = next(average.parameters()).device
        batch = {k: v.to(device) for k, v in self.store.batch(self.rows, torch.zeros(len(self.rows))).items()}
        q, c = batch["q"].repeat(DRAWN, 1), batch["c"].repeat(DRAWN)
        rng = torch.Generator(device).manual_seed(seed_of("preview"))
        with autocast(device, self.sampler.precision):
            drawn = finite(sample_latents(average, q, c, self.sampler, rng), "latents")
        with torch.random.fork_rng(devices=[]):  # building the decoder draws weights
            decode = latent_decoder(self.study, self.layout, device, self.sampler.precision)
        parts = [decode(part).cpu() for part in torch.cat([batch["x"], drawn]).split(DECODE_BATCH)]
        return unit_to_uint8(torch.cat(parts))

    def _names(self) -> list[str]:
        """The class of each column."""
        manifest = read_manifest(self.layout.manifest)
        names = dict(zip(manifest["label"].to_pylist(), manifest["class_name"].to_pylist(), strict=True))
        return [str(names[int(c)]) for c in self.store.labels[self.rows]]


def spread(rows: Tensor, most: int) -> Tensor:
    """At most so many of the rows, evenly spread."""
    count = min(most, len(rows))
    return rows[torch.arange(count) * len(rows) // max(count, 1)]
