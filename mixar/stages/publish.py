"""`publish`: the networks and runs that a study trained, as float16 files to pass on."""

from __future__ import annotations

from pathlib import Path

import torch

from mixar.storage.files import file_sha256, write_text
from mixar.storage.listing import is_service
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.weights import read_metadata, read_weights, save_weights


def publish(study: Study, layout: Layout, folder: Path) -> list[Path]:
    """Copy what this study trained into `folder` as float16, with each file's metadata; the paths written.

    SHA256SUMS there lists the hashes of all its weights, as `sha256sum` prints and checks them.

    Networks: continuous, discrete, generator, extractor, where the study trains them. Runs: <run>-seed<seed>, of those
    that begin from nothing.
    Raises ValueError, before anything is written, where one of them is not trained yet.
    """
    found = [layout.tokenizer(kind) for kind in ("continuous", "discrete") if getattr(study, kind).train]
    found += [layout.generator] if study.generator.train else []
    found += [layout.extractor()] if study.scoring.extractor.train else []
    named = {path: path.name for path in found}
    for run, settings in study.runs.items():
        if not settings.parent and not settings.start:
            named |= {layout.weights(run, seed): f"{run}-seed{seed}.safetensors" for seed in settings.seeds}
    if absent := [str(path) for path in named if not path.is_file()]:
        raise ValueError(f"publish: not trained yet: {', '.join(absent)}; run the study first")
    for path, name in named.items():
        save_weights(folder / name, read_weights(path), read_metadata(path) | {"stored_as": "float16"}, torch.float16)
    files = [path for path in sorted(folder.glob("*.safetensors")) if not is_service(path.name)]
    sums = [f"{file_sha256(path)}  {path.name}" for path in files]
    write_text(folder / "SHA256SUMS", "\n".join(sums) + "\n")
    return [folder / name for name in named.values()]
