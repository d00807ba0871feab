"""How many bits, how many channels? Short trainings of the small study's tokenizers, compared on held-out drawings.

    python benchmarks/tokenizers/trials.py RESULTS [--epochs 2] [--only bits8 bits10] [--out benchmarks/tokenizers]

A trial is config/emoji.yaml with a few settings changed. Its training resumes in the folder RESULTS. Writes trials.md,
one row a trial that is done there, and a sheet of reconstructions for each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from PIL import Image

from mixar.data.images import load_images, read_images, unit_batches
from mixar.data.manifest import read_manifest
from mixar.reporting.pictures import montage
from mixar.stages.ingest import ingest
from mixar.stages.reconstruct import reconstruct
from mixar.stages.tokenizer import tokenizer
from mixar.storage.files import replaced, write_text
from mixar.study.layout import Layout
from mixar.study.load import laid_over, parse_study, read_layer
from mixar.study.sections import Study
from mixar.tokens import tokenizers
from mixar.weights import read_metadata

ROOT = Path(__file__).parents[2]
TRIALS = {  # kind of tokenizer, and what differs from the study
    "bits8": ("discrete", {"bits": 8}),
    "bits10": ("discrete", {"bits": 10}),
    "channels8": ("continuous", {"latent_channels": 8}),
    "channels16": ("continuous", {"latent_channels": 16}),
}
SHOWN = 32  # drawings on a sheet, each above its reconstruction
BATCH = 64


def trial_study(name: str, results: Path, epochs: int | None = None, base: dict | None = None) -> Study:
    """The study of a trial; epochs None: as many as the study has."""
    kind, changes = TRIALS[name]
    content = base or read_layer(ROOT / "config" / "emoji.yaml")
    shorter = {"train": {"epochs": epochs}} if epochs else {}
    hardware = {"device": "cpu", "results": str(results), "checkpoint_minutes": 1}
    return parse_study(
        laid_over(
            content, {"study": f"trial_{name}", kind: {"weights": None, **changes, **shorter}, "hardware": hardware}
        )
    )


def run(name: str, study: Study) -> dict:
    """Train a trial's tokenizer, or take the one that is there, and measure it."""
    kind, layout = TRIALS[name][0], Layout(study)
    ingest(study, layout)
    if not layout.tokenizer(kind).is_file():
        tokenizer(study, layout, kind)
    reconstruct(study, layout, kind)
    settings, record = getattr(study, kind), read_metadata(layout.tokenizer(kind))
    psnr = pq.read_table(layout.reconstruction(kind, 0), columns=["psnr"])["psnr"].to_numpy()
    side = study.data.image_size // settings.stride
    row = {"trial": name, "grid": f"{side} × {side}", "per token": _size(kind, settings)}
    row |= {"epochs": settings.train.epochs, "steps": record["steps"], "wall, min": float(record["wall_seconds"]) / 60}
    row |= {"held-out PSNR, dB": psnr.mean(), "worst tenth, dB": np.sort(psnr)[: max(1, len(psnr) // 10)].mean()}
    return row | (seen(study, layout) if kind == "discrete" else {})


def _size(kind: str, settings) -> str:
    return f"{settings.bits} bits" if kind == "discrete" else f"{settings.latent_channels} channels"


@torch.inference_mode()
def seen(study: Study, layout: Layout) -> dict:
    """How many tokens the training drawings have, and which share of the held-out drawings' tokens is among them."""
    network = tokenizers.load("discrete", study.discrete, layout.tokenizer("discrete"))
    found = {}
    for split in ("train", "held_out"):
        batches = unit_batches(read_manifest(layout.manifest, split), study.data.image_size, BATCH, lambda *_: None)
        found[split] = torch.cat([network.tokens(batch).flatten() for batch in batches])
    known = torch.isin(found["held_out"], found["train"].unique()).double().mean()
    return {
        "tokens seen": f"{len(found['train'].unique())} of {2**study.discrete.bits}",
        "held-out tokens seen": known.item(),
    }


def sheet(study: Study, kind: str) -> np.ndarray:
    """Held-out drawings, evenly spaced in the file, each above its reconstruction: uint8 [H, W, 3]."""
    layout = Layout(study)
    _, _, made = read_images(layout.reconstruction(kind, 0))
    rows = read_manifest(layout.manifest, "held_out")
    chosen = np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(int)
    originals = load_images(rows.take(chosen), study.data.image_size).numpy()
    columns = len(chosen) // 2
    halves = [slice(start, start + columns) for start in (0, columns)]
    lines = [images[half] for half in halves for images in (originals, made[chosen])]
    return montage([image for line in lines for image in line], columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", nargs="+", default=list(TRIALS), choices=TRIALS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given, rows = parser.parse_args(), []
    for name in given.only:
        study = trial_study(name, given.results.resolve(), given.epochs)
        rows.append(run(name, study))
        with replaced(given.out / f"{name}.png") as temporary:
            Image.fromarray(sheet(study, TRIALS[name][0])).save(temporary, "PNG")
        table = pd.DataFrame(rows).to_markdown(index=False, floatfmt=".2f", missingval="–")
        write_text(given.out / "trials.md", table + "\n")
        print(table, flush=True)


if __name__ == "__main__":
    main()
