"""`train`: one run of the study with one seed, up to its end or a milestone: from scratch, from a parent or a file.

A run's milestones and its end are trained one after the other, in one folder of checkpoints: each goes on from the
state after the one before, so that a milestone equals a run of so many epochs.
"""

from __future__ import annotations

import math
import shlex
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from mixar import released
from mixar.assets.check import resolve
from mixar.data.manifest import check_same_images
from mixar.data.shards import TokenStore
from mixar.device import autocast, device_of
from mixar.model.cost import flops_train
from mixar.model.mar import MAR
from mixar.preview import Preview, spread
from mixar.process.failures import needs_memory
from mixar.process.provenance import provenance
from mixar.reporting.results import LOSS_COLUMNS
from mixar.storage.files import file_sha256, write_table
from mixar.study.arguments import check_run
from mixar.study.cards import CARDS
from mixar.study.digests import Digests, seed_of
from mixar.study.layout import Layout
from mixar.study.names import split
from mixar.study.sections import MarTraining, Study
from mixar.tokens import generator
from mixar.training import distributed
from mixar.training.accumulate import Load, Step, images_of_part
from mixar.training.batches import load_of, on_device
from mixar.training.checkpoints import kept_states, last, training_folder
from mixar.training.compiled import compile_regions
from mixar.training.distributed import Context
from mixar.training.draws import Draws
from mixar.training.history import HISTORY, History, changed, read_history, write_history
from mixar.training.job import micro_batch, run_to_end
from mixar.training.loop import UNWATCHED, Fit, total_steps
from mixar.training.metrics import Header, check_owner
from mixar.training.steps import Guide, training_step
from mixar.training.watching import HELD_OUT_BATCH, Plan, Watching, held_out_loss
from mixar.weights import read_metadata, save_weights


def _settings(study: Study, run: str) -> MarTraining:
    """The run's training, in parts that fit its hardware."""
    return study.training_of(run).model_copy(update={"micro_batch": study.hardware_of(run).micro_batch})


@needs_memory(lambda study, _, name, seed: (
    f"train {name} seed {seed}",
    micro_batch("hardware", _settings(study, split(name)[0]), study.hardware_of(split(name)[0]).processes),
))  # fmt: skip
def train(study: Study, layout: Layout, name: str, seed: int) -> None:
    """Write layout.weights(name, seed) and layout.losses(name, seed); an interrupted training is resumed.

    name: a run, or its milestone RUN@EPOCH.
    Raises ValueError before any training for unknown names, missing or unfit files and settings that do not fit.
    """
    check_run(study, name, seed)
    run, epoch = split(name)[0], study.epochs_of(name)
    if study.runs[run].weights:
        return _import(study, layout, run, seed)
    start, settings = _start_file(study, layout, run, seed), _settings(study, run)
    store = TokenStore(layout.token_shards())
    _check_store(study, layout, store)
    rows = store.rows("train")
    steps = total_steps(settings, len(rows)) // settings.epochs * epoch
    model = _initial_model(study, run, seed, start)
    folder = training_folder(study, layout, run, seed, store.metadata.get("images"))
    header = Header(study.study, run, seed, folder.name)
    check_owner(layout.watch(run, seed), header)
    with distributed.joined(device_of(study)) as context:
        watcher = _watching(study, layout, header, store, context) if context.is_main else UNWATCHED
        done = _steps_found(name, folder, steps, epoch, context)
        begin = None if done else _parent_state(study, layout, run, seed, store)
        history = _history(study, folder, run, done, steps // epoch, begin, context.is_main)
        seen = history.until(steps)
        if seen and done < seen[-1].step:
            raise ValueError(
                f"{folder / HISTORY}: training {name!r} was changed at step {seen[-1].step}, and the state found is of "
                f"step {done}; delete that file to train under the study's settings, or `mixar resume` again"
            )
        settings = changed(settings, seen)
        step = _step_of(study, layout, run, context.device, settings)
        load = load_of(store, rows, context.device)
        if study.hardware_of(run).compile:
            _compile(model.to(context.device), step, load, settings, context, name)
        run_to_end(
            model,
            step,
            settings,
            name=f"train {name} seed {seed}",
            num_items=len(rows),
            seed=seed_of(seed, "train", _generation(study, run)),
            folder=folder,
            output=layout.weights(name, seed),
            context=context,
            checkpoint_minutes=study.hardware.checkpoint_minutes,
            publish=partial(_publish, study, layout, name, seed, store, folder),
            steps_before=_steps_behind(start),
            begin=begin,
            restart_steps=history.restart_steps,
            until=epoch,
            are_states_kept=_is_kept(study, layout, name, seed),
            watcher=watcher,
            load=load,
            resume_changed=resume_changed(run, seed, settings),
        )


def resume_changed(run: str, seed: int, settings: MarTraining) -> str:
    """The command that continues a run from its checkpoint at half the learning rate."""
    files = [word for before, word in pairwise(sys.argv) if before == "--study"] or ["STUDY.yaml"]
    words = ["mixar", "resume", run, "--seed", str(seed), *(word for file in files for word in ("--study", file))]
    return shlex.join([*words, "--set", f"training.learning_rate={settings.learning_rate / 2:.1e}"])


def _compile(model: nn.Module, step: Step, load: Load, settings: MarTraining, context: Context, name: str) -> None:
    """Compile the blocks and the head; where that fails, say why and train as it is."""
    device = context.device
    indices = torch.arange(images_of_part(settings, settings.batch_size, context.world_size))

    def trial() -> Tensor:
        with autocast(device, settings.precision):
            draws = Draws.of_all(device, 0, len(indices))
            return step(model.train(), load(indices, draws), draws, 0.0)["loss"]

    if (reason := compile_regions(model, trial)) and context.is_main:
        print(f"{name}: hardware.compile: torch.compile failed, training without it ({reason})", flush=True)


def _watching(study: Study, layout: Layout, header: Header, store: TokenStore, context: Context) -> Watching:
    """What writes metrics, held-out losses and previews of this training."""
    run, settings = header.run, study.training_of(header.run)
    plan = Plan(
        steps=total_steps(settings, len(store.rows("train"))),
        batch_size=settings.batch_size,
        milestones=study.milestones_of(run),
        expected=settings.expected,
        processes=context.world_size,
        device=context.device,
        flops_per_image=flops_train(study, run),
        peak_flops=_peak_flops(study, settings, context.device),
    )
    held_out = spread(store.rows("held_out"), settings.held_out_images)

    def loss(average: nn.Module) -> float:
        parts = held_out.split(HELD_OUT_BATCH)
        return held_out_loss(average, (store.batch(part, torch.zeros(len(part))) for part in parts), settings)

    folder, preview = layout.watch(run, header.seed), Preview(study, layout, run, store)
    return Watching(folder, header, plan, loss if len(held_out) else None, preview)


def _peak_flops(study: Study, settings: MarTraining, device: torch.device) -> float | None:
    """What the study's card can do a second in the training's precision; None where it names none."""
    if device.type != "cuda" or study.hardware.card is None:
        return None
    return CARDS[study.hardware.card].peak_flops(settings.precision)


def _steps_found(name: str, folder: Path, steps: int, epoch: int, context: Context) -> int:
    """Steps of the last whole state that a network of `steps` steps may continue; 0 where there is none. Says which."""
    done = (last(folder, steps) or 0) if context.is_main else 0
    if context.is_main and done in kept_states(folder):
        print(f"{name}: continues from the state kept after epoch {done * epoch // steps}", flush=True)
    elif context.is_main and not done and folder.exists():
        print(f"{name}: no state up to epoch {epoch} was kept in {folder}; trains from the start", flush=True)
    return context.told(done)


def _parent_state(study: Study, layout: Layout, run: str, seed: int, store: TokenStore) -> Path | None:
    """The file of the state that the parent kept; None without a parent, for moments of another optimizer, or where the
    state is gone."""
    name = study.runs[run].parent
    if name is None or not study.takes_moments(run):
        return None
    steps = read_metadata(layout.weights(name, seed)).get("steps", 0)  # finished weights from elsewhere have none
    return kept_states(training_folder(study, layout, split(name)[0], seed, store.metadata.get("images"))).get(steps)


def _history(
    study: Study, folder: Path, run: str, done: int, per_epoch: int, begin: Path | None, is_main: bool
) -> History:
    """What the training's folder records of it; written at the first attempt of one that continues something."""
    r, before = study.runs[run], read_history(folder)
    source = r.parent or r.start
    if done or source is None:
        return before
    if begin is not None:
        words, warm_up = f"model, average and moments of {source}", 0
    else:
        # an epoch at most, and no share of the run: a longer run must begin as a shorter one
        warm_up = min(study.training_of(run).start_warmup_steps, per_epoch)
        words = f"weights alone of {source}, " + (f"warm-up of {warm_up} steps" if warm_up else "without warm-up")
    found = before.model_copy(update={"continued": words, "restart_steps": warm_up})
    if is_main:
        print(f"{run}: continues {found.continued}", flush=True)
        write_history(folder, found)
    return found


def _is_kept(study: Study, layout: Layout, name: str, seed: int) -> bool:
    """Whether the state behind a network stays: on request, for a run that continues it, a milestone's until its run's
    end."""
    run, epoch = split(name)
    is_asked_for = study.training_of(run).keep_states or study.is_continued(name)
    return is_asked_for or (epoch is not None and not _is_finished(study, layout, run, seed))


def _is_finished(study: Study, layout: Layout, run: str, seed: int) -> bool:
    """Whether the run's weights are there, and of the length that the study asks for."""
    path = layout.weights(run, seed)
    return path.exists() and read_metadata(path).get("digest") == Digests(study).train(run, seed)


def _import(study: Study, layout: Layout, run: str, seed: int) -> None:
    """Publish a run's finished weights, strictly checked, with a loss curve that has no steps."""
    path = _named_file(study, run, "weights", seed)
    network = released.built(partial(MAR.from_study, study, run), "mar", path)
    found = {"source": study.runs[run].weights, "sha256": file_sha256(path)}
    write_table(layout.losses(run, seed), pa.table({name: pa.array([], pa.float64()) for name in LOSS_COLUMNS}))
    metadata = {"kind": "train", "study": study.study, "run": run, "seed": seed, **found, **provenance()}
    save_weights(layout.weights(run, seed), network.state_dict(), metadata)


def _check_store(study: Study, layout: Layout, store: TokenStore) -> None:
    """Raise ValueError unless the token shards fit the study's grid, channels and codes."""
    where = layout.token_shard(0).parent
    for what, found, wanted in (
        ("tokens an image", store.num_tokens, study.num_tokens),
        ("latent channels", store.channels, study.continuous.latent_channels),
    ):
        if found != wanted:
            raise ValueError(f"{where}: the shards hold {found} {what}, the study has {wanted}; run `tokenize` again")
    check_same_images(layout.manifest, store, where)
    if len(store) and int(store.labels.max()) >= study.data.num_classes:
        raise ValueError(
            f"{where}: class {int(store.labels.max())} is outside the study's {study.data.num_classes} classes; "
            "run `tokenize` again"
        )


def _initial_model(study: Study, run: str, seed: int, start: Path | None) -> nn.Module:
    """The run's network at its first step: random weights from `seed`, or the weights of its start file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "init"))
        model = MAR.from_study(study, run)
    return released.load_into(model, "mar", start) if start else model


def _start_file(study: Study, layout: Layout, run: str, seed: int) -> Path | None:
    r = study.runs[run]
    if r.parent:
        path = layout.weights(r.parent, seed)
        if not path.is_file():
            raise ValueError(f"runs.{run}.parent: {path} is missing; train run {r.parent!r} with seed {seed} first")
        return path
    return _named_file(study, run, "start", seed) if r.start else None


def _steps_behind(start: Path | None) -> float:
    """Training steps behind the weights of `start` since random ones: 0 without a file, infinite where it says none."""
    if start is None:
        return 0
    found = read_metadata(start)
    before = found.get("steps_before", 0)
    return math.inf if "steps" not in found or before is None else before + found["steps"]


def _named_file(study: Study, run: str, key: str, seed: int) -> Path:
    """The file behind a run's `start` or `weights`."""
    try:
        return resolve(getattr(study.runs[run], key).format(seed=seed))
    except ValueError as error:
        raise ValueError(f"runs.{run}.{key}: {error}; give a weights file of this model and guidance") from None


def _generation(study: Study, run: str) -> int:
    """How many runs came before this one: a continued run must not repeat its parent's batches and noise.

    Runs of equal generation and seed see the same batches in the same order: their comparison is paired.
    """
    r = study.runs[run]
    return 1 + _generation(study, split(r.parent)[0]) if r.parent else int(r.start is not None)


def _step_of(study: Study, layout: Layout, run: str, device: torch.device, settings: MarTraining) -> Step:
    """The step that `fit` repeats."""
    ti_mix = study.runs[run].ti_mix
    frozen = generator.load(study, layout.generator).to(device).requires_grad_(False) if ti_mix else None

    def step(model: nn.Module, loaded: dict[str, Tensor], draws: Draws, progress: float) -> dict[str, Tensor | float]:
        batch = on_device(loaded, device)
        guide = Guide(frozen, ti_mix, progress) if ti_mix and frozen is not None else None
        loss = training_step(model, batch, settings, draws, guide)
        return {"loss": loss, "guidance_rate": guide.rate if guide else 1.0}

    return step


def _publish(
    study: Study,
    layout: Layout,
    name: str,
    seed: int,
    store: TokenStore,
    folder: Path,
    result: Fit,
    record: dict[str, Any],
) -> None:
    run = split(name)[0]
    start, history = _start_file(study, layout, run, seed), read_history(folder)
    changes = [change.in_words() for change in history.until(result.steps)]
    steps_before = _steps_behind(start)
    columns = {name: [row[name] for row in result.curve] for name in LOSS_COLUMNS}
    columns["step"] = [int(step) for step in columns["step"]]
    write_table(layout.losses(name, seed), pa.table(columns))
    metadata = {
        "kind": "train",
        "study": study.study,
        "run": name,
        "settings": study.runs[run].model_dump(mode="json") | {"training": study.training_of(run).model_dump()},
        "digest": Digests(study).train(name, seed),
        "seed": seed,
        "tokenizers_sha256": store.metadata.get("tokenizers"),
        "start_sha256": file_sha256(start) if start else None,
        "steps_before": steps_before if math.isfinite(steps_before) else None,  # unknown
        "continued": history.continued,
        "changed": "; ".join([*_inherited(study, run, start), *changes]) or None,
    }
    save_weights(layout.weights(name, seed), result.weights, metadata | record)
    epoch_steps = result.steps // study.epochs_of(name)
    wanted = {epoch_steps * study.epochs_of(each): each for each in study.networks if split(each)[0] == run}
    for done, path in kept_states(folder).items():
        if done > result.steps:
            continue  # of a longer training, which this one must not cost its state
        if done not in wanted or not _is_kept(study, layout, wanted[done], seed):
            path.unlink()


def _inherited(study: Study, run: str, start: Path | None) -> list[str]:
    """What was changed by hand while the parent of a run was trained."""
    found = read_metadata(start).get("changed") if start else None
    return [f"{study.runs[run].parent or 'start'}: {found}"] if found else []
