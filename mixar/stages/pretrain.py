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

from mixar import locks, released
from mixar.assets import check as assets
from mixar.data.images import images_to_unit, iter_images
from mixar.data.manifest import IDENTITY, check_same_images, images_sha256, read_manifest
from mixar.data.shards import TokenStore
from mixar.failures import micro_batch, naming, needs_memory
from mixar.files import file_sha256, write_text
from mixar.listing import is_service
from mixar.reporting.results import provenance
from mixar.scoring.extractors import load_extractor
from mixar.scoring.networks.subgroup_cnn import build_network, training_loss
from mixar.stages.device import device_of
from mixar.stages.progress import Progress
from mixar.stages.sample import check_statistics
from mixar.stages.tokens import draw_latents, training_images
from mixar.study.choices import is_own
from mixar.study.digests import Digests
from mixar.study.identity import digest as digest_of
from mixar.study.identity import seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study, Training
from mixar.tokens import generator as bits
from mixar.tokens import tokenizers
from mixar.training import checkpoints
from mixar.training.distributed import Context
from mixar.training.loop import Step, fit
from mixar.weights import read_metadata, read_weights, save_weights, tensors_sha256

STATISTICS_IMAGES = 10_000  # images behind the latents' mean and std, as in LightningDiT's extraction


@needs_memory(lambda study, _, kind: (f"tokenizer {kind}", micro_batch(f"{kind}.train", getattr(study, kind).train)))
def tokenizer(study: Study, layout: Layout, kind: str) -> None:
    """Write the weights of one tokenizer (kind: continuous or discrete); with the continuous one, its statistics."""
    settings, target = getattr(study, kind), layout.tokenizer(kind)
    assets.require(settings.weights, study.continuous.statistics if kind == "continuous" else None)

    def build():
        return tokenizers.build(kind, settings)

    if settings.weights and is_own(settings.network):
        _import(lambda path: tokenizers.load(kind, settings, path), settings.weights, target)
    elif settings.weights:
        family = released.tokenizer_kind(settings)
        _import(lambda path: _released(family, build, path), settings.weights, target)
    else:
        images = training_images(study, layout)
        device = device_of(study)

        def step(model, rows, rng, progress):
            batch = augment(images[rows], rng, device, settings.train.max_shift)
            return model.training_loss(batch, settings.train, rng)

        name, digest = f"tokenizer-{kind}", Digests(study).tokenizer(kind)
        _train(study, layout, build, step, settings.train, len(images), name, digest, target)
    if kind == "continuous":
        _write_statistics(study, layout)


@needs_memory(lambda study, _: ("generator", micro_batch("generator.train", study.generator.train)))
def generator(study: Study, layout: Layout) -> None:
    """Write the weights of MaskBit's bit transformer."""
    s = study.generator

    def build():
        return bits.BitTransformer(s, study.discrete.bits, study.num_tokens, study.data.num_classes)

    if s.weights:
        _import(lambda path: _released("maskbit-generator", build, path), s.weights, layout.generator)
        return
    store = TokenStore(layout.token_shards())
    check_same_images(layout.manifest, store, layout.token_shard(0).parent)
    train_rows = store.rows("train")

    def step(model, rows, rng, progress):
        flip = torch.rand(len(rows), generator=rng, device=rng.device) < 0.5
        batch = store.batch(train_rows[rows], flip.cpu())
        q, c = batch["q"].to(rng.device), batch["c"].to(rng.device)
        return {"loss": bits.training_loss(model, q, c, rng, s.train)}

    digest = Digests(study).generator()
    _train(study, layout, build, step, s.train, len(train_rows), "generator", digest, layout.generator)


@needs_memory(lambda study, _: ("extractor", micro_batch("scoring.extractor.train", study.scoring.extractor.train)))
def extractor(study: Study, layout: Layout) -> None:
    """Write the weights of the feature network behind the scores."""
    s = study.scoring.extractor
    if s.weights:
        _import(lambda path: load_extractor(s, path).module, s.weights, layout.extractor())
        return
    images = training_images(study, layout)
    labels = torch.tensor(read_manifest(layout.manifest, "train", ["fine_label"])["fine_label"].to_pylist())
    device = device_of(study)

    def step(model, rows, rng, progress):
        return {"loss": training_loss(model, images[rows].to(device), labels[rows].to(device), s.train, rng)}

    def build():
        return build_network(s, num_classes=int(labels.max()) + 1, image_size=study.data.image_size)

    digest = Digests(study).extractor()
    _train(study, layout, build, step, s.train, len(images), "extractor", digest, layout.extractor())


def augment(images: Tensor, rng: torch.Generator, device: torch.device, max_shift: int | None = None) -> Tensor:
    """uint8 [n, H, W, 3] to float [n, 3, H, W] in [0, 1]: mirrored half the time, moved by up to `max_shift` pixels.

    None: by up to an eighth of the side. The border is filled with the nearest pixel.
    """
    x = images_to_unit(images.to(device))
    n, side = len(x), x.shape[-1]
    draw = torch.rand(3, n, generator=rng, device=device)
    x = torch.where(draw[0].view(-1, 1, 1, 1) < 0.5, x, x.flip(-1))
    reach = side // 8 if max_shift is None else max_shift
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
    # with other images, a training in flight begins anew
    images = images_sha256(read_manifest(layout.manifest, columns=IDENTITY))
    folder = layout.checkpoints(name, study.study, digest_of(digest, images))
    torch.manual_seed(seed_of(digest, "init"))
    model = build()
    with locks.lease(folder, target) as is_finished:
        if is_finished:
            return
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
            announce=Progress(name, history=folder / "progress.log"),
        )
        metadata = {
            "network": type(model).__name__,
            "study": study.study,
            "settings": settings.model_dump(mode="json"),
            "steps": result.steps,
            "wall_seconds": round(result.seconds, 1),
            "command": " ".join(["mixar", *sys.argv[1:]]),
            "digest": digest,
            "seed": seed_of(digest, "train"),
            "manifest_sha256": file_sha256(layout.manifest),
            "device": str(context.device),
            **provenance(),
        }
        save_weights(target, result.weights, metadata)
        checkpoints.discard(folder)


def _import(load: Callable[[Path], nn.Module], source: str, target: Path) -> None:
    """Publish weights from elsewhere as float32, strictly checked by `load`."""
    path = assets.resolve(source)
    tensors = load(path).state_dict()
    hashes = {"sha256": file_sha256(path), "tensors_sha256": tensors_sha256(tensors)}
    save_weights(target, tensors, {**read_metadata(path), "source": source, **hashes})


def _released(kind: str, build: Callable[[], nn.Module], path: Path) -> nn.Module:
    with torch.device("meta"):  # no time for an initialisation that the file replaces
        network = build()
    return released.load_into(network, kind, path)


@torch.no_grad()
def _write_statistics(study: Study, layout: Layout) -> None:
    """Mean and std per channel of the latents, float32 [C] each: the study's own, or else of the training images."""
    s = study.continuous
    if s.scale is not None:
        known = {"mean": torch.zeros(s.latent_channels), "std": torch.full((s.latent_channels,), 1 / s.scale)}
        save_weights(layout.statistics, known, {"scale": s.scale})
        return
    if s.statistics:
        found = read_statistics(assets.resolve(s.statistics), s.latent_channels)
        save_weights(layout.statistics, found, {"source": s.statistics})
        return
    manifest = read_manifest(layout.manifest, "train")
    rng = torch.Generator().manual_seed(seed_of("statistics"))
    chosen = torch.randperm(len(manifest), generator=rng)[:STATISTICS_IMAGES].sort().values
    device = device_of(study)
    network = tokenizers.load("continuous", s, layout.tokenizer("continuous")).to(device)
    latents, images = [], iter_images(manifest.take(chosen.tolist()), study.data.image_size)
    while batch := list(itertools.islice(images, 64)):
        with naming(f"statistics of the latents, batch {len(latents)}"):
            drawn = draw_latents(network, images_to_unit(np.stack(batch)).to(device), rng)
        latents.append(drawn.movedim(1, -1).reshape(-1, drawn.shape[1]).cpu())
    rows = torch.cat(latents)
    found = {"mean": rows.mean(0), "std": rows.std(0)}
    check_statistics(found, "statistics of the latents: the continuous tokenizer is unfit")
    save_weights(layout.statistics, found, {"images": len(chosen)})


def read_statistics(path: Path, channels: int) -> dict[str, Tensor]:
    """Mean and std per channel, float32 [C] each, of a file such as LightningDiT's. Raises ValueError for another."""
    found = {key: value.flatten() for key, value in read_weights(path).items()}
    shapes = {key: list(value.shape) for key, value in found.items()}
    if shapes != {"mean": [channels], "std": [channels]}:
        raise ValueError(f"{path}: expected mean and std of {channels} channels, found {shapes}")
    check_statistics(found, str(path))
    return found


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
