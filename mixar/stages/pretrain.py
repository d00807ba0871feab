"""Networks that a study takes as given: the two tokenizers, the generator and the feature network.

Each verb either imports the weights that the study names or trains a small network on the study's own images.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mixar import assets
from mixar.data.images import images_to_unit, iter_images
from mixar.data.shards import TokenStore
from mixar.layout import Digests, Layout
from mixar.reporting.results import provenance
from mixar.scoring import features
from mixar.spec import Study, Training, seed_of
from mixar.stages.device import device_of
from mixar.stages.progress import Progress
from mixar.stages.tokens import read_manifest, training_images
from mixar.tokens import generator as bits
from mixar.tokens import maskbit, vavae
from mixar.training import checkpoints
from mixar.training.distributed import Context
from mixar.training.loop import Step, fit
from mixar.weights import read_metadata, read_weights, save_weights

TOKENIZERS = {"continuous": (vavae.VaVae, vavae), "discrete": (maskbit.MaskBit, maskbit)}
STATISTICS_IMAGES = 10_000  # images behind the latents' mean and std, as in LightningDiT's extraction


def tokenizer(study: Study, layout: Layout, kind: str) -> None:
    """Write the weights of one tokenizer (kind: continuous or discrete); with the continuous one, its statistics."""
    network, module = TOKENIZERS[kind]
    settings, target = getattr(study, kind), layout.tokenizer(kind)
    if settings.weights:
        _import(module.load(settings, assets.resolve(settings.weights)), settings.weights, target)
    else:
        images = training_images(study, layout)
        device = device_of(study)

        def step(model, rows, rng, progress):
            return module.training_loss(model, augment(images[rows], rng, device), settings.train, rng)

        name, digest = f"tokenizer-{kind}", Digests(study).tokenizer(kind)
        _train(study, layout, lambda: network(settings), step, settings.train, len(images), name, digest, target)
    if kind == "continuous":
        _write_statistics(study, layout)


def generator(study: Study, layout: Layout) -> None:
    """Write the weights of MaskBit's bit transformer."""
    s = study.generator
    if s.weights:
        _import(bits.load(study, assets.resolve(s.weights)), s.weights, layout.generator)
        return
    store = TokenStore(layout.token_shards())
    train_rows = store.rows("train")

    def step(model, rows, rng, progress):
        flip = torch.rand(len(rows), generator=rng, device=rng.device) < 0.5
        batch = store.batch(train_rows[rows], flip.cpu())
        q, c = batch["q"].to(rng.device), batch["c"].to(rng.device)
        return {"loss": bits.training_loss(model, q, c, rng, s.train)}

    def build():
        return bits.BitTransformer(s, study.discrete.bits, study.num_tokens, study.data.num_classes)

    digest = Digests(study).generator()
    _train(study, layout, build, step, s.train, len(train_rows), "generator", digest, layout.generator)


def extractor(study: Study, layout: Layout) -> None:
    """Write the weights of the feature network behind the scores."""
    s = study.scoring.extractor
    if s.weights:
        _import(features.load_network(s, assets.resolve(s.weights)), s.weights, layout.extractor())
        return
    images = training_images(study, layout)
    labels = torch.tensor(read_manifest(layout, "train")["fine_label"].to_pylist())
    device = device_of(study)

    def step(model, rows, rng, progress):
        return {"loss": features.training_loss(model, images[rows].to(device), labels[rows].to(device), s.train, rng)}

    def build():
        return features.build_network(s, num_classes=int(labels.max()) + 1, image_size=study.data.image_size)

    digest = Digests(study).extractor()
    _train(study, layout, build, step, s.train, len(images), "extractor", digest, layout.extractor())


def augment(images: Tensor, rng: torch.Generator, device: torch.device) -> Tensor:
    """uint8 [n, H, W, 3] to float [n, 3, H, W] in [0, 1]: mirrored half the time, moved by up to an eighth of the side.

    The border is filled with the nearest pixel.
    """
    x = images_to_unit(images.to(device))
    n, side = len(x), x.shape[-1]
    draw = torch.rand(3, n, generator=rng, device=device)
    x = torch.where(draw[0].view(-1, 1, 1, 1) < 0.5, x, x.flip(-1))
    reach = side // 8
    steps = torch.arange(side, device=device)
    rows, columns = (
        (steps + ((2 * reach + 1) * d).long().sub(reach).unsqueeze(1)).clamp(0, side - 1) for d in draw[1:]
    )
    return x[torch.arange(n, device=device).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)].movedim(-1, 1)


def _train(
    study: Study,
    layout: Layout,
    build: Callable[[], nn.Module],
    step: Step,
    settings: Training,
    num_items: int,
    name: str,
    digest: str,
    target: Path,
) -> None:
    """Train what `build` makes, under a lease, and publish its averaged weights at `target`."""
    context = Context(rank=0, world_size=1, device=device_of(study))  # these networks are small: one process each
    folder = layout.checkpoints(name, study.study, digest)
    torch.manual_seed(seed_of(digest, "init"))
    model = build()
    with checkpoints.lease(folder):
        result = fit(
            model.to(context.device),
            step,
            settings,
            name=name,
            num_items=num_items,
            seed=seed_of(digest, "train"),
            folder=folder,
            context=context,
            checkpoint_minutes=study.hardware.checkpoint_minutes,
            announce=Progress(name),
        )
        metadata = {
            "network": type(model).__name__,
            "study": study.study,
            "settings": settings.model_dump(mode="json"),
            "steps": result.steps,
            "wall_seconds": round(result.seconds, 1),
            "command": " ".join(["mixar", *sys.argv[1:]]),
            "digest": digest,
            "device": str(context.device),
            **provenance(),
        }
        save_weights(target, result.weights, metadata)
        checkpoints.discard(folder)


def _import(network: nn.Module, source: str, target: Path) -> None:
    """Publish weights from elsewhere, checked by the load that made `network`, as float32."""
    path = assets.resolve(source)
    save_weights(
        target, network.state_dict(), {**read_metadata(path), "source": source, "sha256": assets.file_sha256(path)}
    )


@torch.no_grad()
def _write_statistics(study: Study, layout: Layout) -> None:
    """Mean and std per channel of the training latents, float32 [C] each; from the study's file where it names one."""
    s = study.continuous
    if s.statistics:
        found = read_weights(assets.resolve(s.statistics))
        save_weights(layout.statistics, {k: found[k].flatten() for k in ("mean", "std")}, {"source": s.statistics})
        return
    manifest = read_manifest(layout, "train")
    rng = torch.Generator().manual_seed(seed_of("statistics"))
    chosen = torch.randperm(len(manifest), generator=rng)[:STATISTICS_IMAGES].sort().values
    device = device_of(study)
    network = vavae.load(s, layout.tokenizer("continuous")).to(device)
    latents, images = [], iter_images(manifest.take(chosen.tolist()), study.data.image_size)
    while batch := list(itertools.islice(images, 64)):
        mean, logvar = network.encode(images_to_unit(np.stack(batch)).to(device) * 2.0 - 1.0)
        noise = torch.randn(mean.shape, generator=rng).to(device)
        latents.append(vavae.sample_posterior(mean, logvar, noise).movedim(1, -1).reshape(-1, mean.shape[1]).cpu())
    rows = torch.cat(latents)
    save_weights(layout.statistics, {"mean": rows.mean(0), "std": rows.std(0)}, {"images": len(chosen)})


def publish(study: Study, layout: Layout, folder: Path) -> list[Path]:
    """Copy what this study trained into `folder` as float16, with each file's metadata; the paths written.

    Networks: continuous, discrete, generator, extractor, where the study trains them. Runs: <run>-seed<seed>, of those
    that begin from nothing.
    Raises ValueError, before anything is written, where one of them is not trained yet.
    """
    found = [layout.tokenizer(kind) for kind in TOKENIZERS if getattr(study, kind).train]
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
    return [folder / name for name in named.values()]
