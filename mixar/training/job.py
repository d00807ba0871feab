"""A training from its first attempt to its published result: one attempt at a time, each from the last checkpoint.

The steps are in loop.py, the processes of one attempt in distributed.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixar.device import device_of, slow_precision
from mixar.process.progress import Progress
from mixar.process.provenance import provenance
from mixar.storage import locks
from mixar.storage.files import file_sha256
from mixar.study import digests
from mixar.study.digests import seed_of
from mixar.study.layout import Layout
from mixar.study.sections import Study, Training
from mixar.training import checkpoints
from mixar.training.accumulate import Load, Step, images_of_part
from mixar.training.distributed import Context
from mixar.training.loop import UNWATCHED, Fit, Watcher, fit
from mixar.weights import save_weights

WAITING, FREE, MADE = range(3)  # what process 0 tells the others of the lease


def run_to_end(
    model: nn.Module,
    step: Step,
    settings: Training,
    *,
    name: str,
    num_items: int,
    seed: int,
    folder: Path,
    output: Path,
    context: Context,
    checkpoint_minutes: float,
    publish: Callable[[Fit, dict[str, Any]], None],
    steps_before: float = 0,
    begin: Path | None = None,
    restart_steps: int = 0,
    until: int | None = None,
    watcher: Watcher = UNWATCHED,
    are_states_kept: bool = False,
    load: Load | None = None,
    resume_changed: str = "",
) -> None:
    """Train `model` as `fit` does, publish the result and remove the checkpoints in flight; resumed if interrupted.

    output: the file that `publish` writes last. Does nothing if another attempt wrote it while this one waited.
    publish(result, record): called in the main process. record: steps, times, device, command and provenance, for the
    metadata of the weights.
    """
    with held(output, folder, context) as is_finished:
        if is_finished:
            return
        if context.is_main and (said := slow_precision(context.device, settings.precision)):
            print(f"{name}: {said}", flush=True)
        result = fit(
            model.to(context.device),
            step,
            settings,
            name=name,
            num_items=num_items,
            seed=seed,
            folder=folder,
            context=context,
            checkpoint_minutes=checkpoint_minutes,
            announce=Progress(name, history=folder / "progress.log") if context.is_main else lambda *_: None,
            steps_before=steps_before,
            begin=begin,
            restart_steps=restart_steps,
            until=until,
            watcher=watcher,
            are_states_kept=are_states_kept,
            load=load,
            resume_changed=resume_changed,
        )
        if context.is_main:
            publish(result, _record(result, context))
            checkpoints.discard(folder, result.steps)


def train_network(
    study: Study,
    layout: Layout,
    build: Callable[[], nn.Module],
    step: Step,
    settings: Training,
    *,
    num_items: int,
    name: str,
    digest: str,
    images: str,
    output: Path,
) -> None:
    """Train the small network that `build` makes, in one process, and publish its averaged weights at `output`.

    digest: of the stage's settings. images: hash of the manifest's images; a training in flight starts again where they
    change.
    """
    torch.manual_seed(seed_of(name, "init"))  # not of its settings: a new key of the study changes no number
    seed = seed_of(name, "train")

    def publish(result: Fit, record: dict[str, Any]) -> None:
        metadata = {
            "network": type(model).__name__,
            "study": study.study,
            "settings": settings.model_dump(mode="json"),
            "digest": digest,
            "seed": seed,
            "manifest_sha256": file_sha256(layout.manifest),
        }
        save_weights(output, result.weights, metadata | record)

    model = build()
    run_to_end(
        model,
        step,
        settings,
        name=name,
        num_items=num_items,
        seed=seed,
        folder=layout.checkpoints(name, study.study, digests.digest(digest, images)),
        output=output,
        context=Context(rank=0, world_size=1, device=device_of(study)),
        checkpoint_minutes=study.hardware.checkpoint_minutes,
        publish=publish,
    )


@contextmanager
def held(
    output: Path,
    folder: Path,
    context: Context,
    say: Callable[[str], None] = locks.say,
    seconds_between: float = locks.SECONDS_BETWEEN_NOTICES,
) -> Iterator[bool]:
    """Lock the checkpoints for all processes of this training. Yields True if another one wrote `output` meanwhile.

    A killed driver may leave its training running: the next one waits for it and then has nothing to do. Process 0
    waits for the lock and prints a notice. With each notice it sends the other processes a message, because torch stops
    a process that receives none for some minutes.
    """

    def announce(text: str) -> None:
        say(text)
        context.told(WAITING)

    if context.is_main:
        with locks.lease(folder, output, announce, seconds_between) as is_made:
            yield context.told(MADE if is_made else FREE) == MADE
        return
    while (found := context.told(WAITING)) == WAITING:
        continue
    yield found == MADE


def _record(result: Fit, context: Context) -> dict[str, Any]:
    return {
        "steps": result.steps,
        "skipped_steps": int(sum(row["skipped"] for row in result.curve)),
        "wall_seconds": round(result.seconds, 1),
        "device": str(context.device),
        "processes": context.world_size,
        "command": " ".join(["mixar", *sys.argv[1:]]),
        **provenance(),
    }


def micro_batch(section: str, training: Training | None, processes: int = 1) -> str:
    """Advice for a training that ran out of memory; training: None if only weights are imported."""
    if training is None:
        return "Its weights do not fit"
    now = training.micro_batch or f"null: {images_of_part(training, training.batch_size, processes)}"
    return f"Lower {section}.micro_batch, the images of a forward pass on each device (now {now})"
