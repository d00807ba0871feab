"""Processes that train one network together: what each does, and how they start and end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from fork_server import FORK_SERVER
from safetensors.torch import save_file
from torch import nn
from toy_models import CHANNELS, CLASSES, LENGTH, randomise, toy_study
from toy_strategies import Fused

from mixar.model.mar import MAR
from mixar.stages.train import train
from mixar.storage import locks
from mixar.study import sections
from mixar.study.layout import Layout
from mixar.tokens.generator import BitTransformer, training_loss
from mixar.training.accumulate import optimizer_step, parts_of
from mixar.training.distributed import Context, joined
from mixar.training.job import held
from mixar.training.loop import Unwatched, fit
from mixar.training.optim import build_optimizer
from mixar.training.steps import Guide, training_step

CPU = torch.device("cpu")


def linear_gradients(context: Context) -> dict[str, torch.Tensor]:
    """Gradients of a linear model on this context's share of a fixed batch of eight; each rank starts differently."""
    batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(context.rank)
    wrapped = context.wrap(nn.Linear(3, 2))
    loss = wrapped(batch[context.split(8)]).square().mean()
    loss.backward()
    weight, bias = wrapped.parameters()
    return {"weight": weight.grad, "bias": bias.grad, "loss": context.mean(loss)}


def generator_gradients(context: Context) -> dict[str, torch.Tensor]:
    """Gradients of the bit transformer's loss, with each rank's own random numbers."""
    settings = sections.Generator(width=8, depth=1, heads=2, mlp_width=8, dropout=0.0)
    training = sections.GeneratorTraining(epochs=1, batch_size=4, learning_rate=1e-3)
    wrapped = context.wrap(BitTransformer(settings, bits=4, num_tokens=4, num_classes=2))
    q, c = torch.arange(16).view(4, 4)[context.split(4)], torch.tensor([0, 1, 0, 1])[context.split(4)]
    training_loss(wrapped, q, c, torch.Generator().manual_seed(context.rank), training).backward()
    return {name.replace("module", "generator"): p.grad for name, p in wrapped.named_parameters()}


def be_one_of_two(rank: int, port: int, count: int = 2) -> None:
    torch.set_num_threads(1)
    places = {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ.update(places, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def worker(rank: int, port: int, folder: Path) -> None:
    """One of the two processes: writes what it found."""
    be_one_of_two(rank, port)
    with joined(CPU) as context:
        found = linear_gradients(context) | generator_gradients(context)
        context.barrier()
        save_file(found, folder / f"{rank}.safetensors")


def told_to_end(rank: int, port: int, folder: Path) -> None:
    """One of two processes that end before their training does."""
    be_one_of_two(rank, port)
    try:
        with joined(CPU) as context:
            context.barrier()
            raise SystemExit(143)
    finally:
        (folder / str(rank)).write_text(str(torch.distributed.is_initialized()))


class SlowToStop(Unwatched):
    """A watcher that takes a second for the end of a training that is told to end."""

    def __init__(self, marker: Path):
        self.marker = marker

    def event(self, kind: str, step: int, text: str) -> None:
        if kind == "stopped":
            time.sleep(1)
            self.marker.touch()


def told_to_end_in_a_training(rank: int, port: int, folder: Path) -> None:
    """One of two processes, of which the second is told to end and the first takes its time: who ends when."""
    be_one_of_two(rank, port)
    saved = folder / "saved"

    def announce(done: int, total: int, note: str) -> None:
        if done == 2 and rank == 1:
            signal.raise_signal(signal.SIGTERM)

    try:
        with joined(CPU) as context:
            fit(nn.Linear(3, 1), lambda model, rows, *_: {"loss": model(torch.ones(len(rows), 3)).square().mean()},
                sections.Training(epochs=10_000, batch_size=2, learning_rate=1e-3), name="toy", num_items=2, seed=0,
                folder=folder / "run", context=context, checkpoint_minutes=1e9, announce=announce,
                watcher=SlowToStop(saved))  # fmt: skip
    except SystemExit:
        (folder / str(rank)).write_text(str(saved.exists()))
        raise


def after_an_orphan(rank: int, port: int, folder: Path) -> None:
    """One of two processes whose folder is held by a third until this has been said three times."""
    be_one_of_two(rank, port)
    said, orphan = [], locks.lease(folder / "run", folder / "made")

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            (folder / "made").write_text("")
            orphan.__exit__(None, None, None)

    rounds, broadcast = [], torch.distributed.broadcast
    torch.distributed.broadcast = lambda *args: (rounds.append(1), broadcast(*args))
    if rank == 0:
        orphan.__enter__()
    with joined(CPU) as context, held(folder / "made", folder / "run", context, say, 0.0) as is_made:
        (folder / f"{rank}.txt").write_text(f"{is_made}, said {len(said)} times, met {len(rounds)} times")


def after_a_long_wait(rank: int, port: int, folder: Path) -> None:
    """One of two processes that wait for each other 2 seconds at most, while a third holds their folder for 5."""
    be_one_of_two(rank, port)
    orphan = locks.lease(folder / "run", folder / "made")
    if rank == 0:
        orphan.__enter__()
        threading.Timer(5.0, orphan.__exit__, (None, None, None)).start()
    with joined(CPU) as context:
        context.barrier()
        torch.distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=2))
        with held(folder / "made", folder / "run", context, seconds_between=0.5):
            context.barrier()


def trained(
    context: Context, micro_batch: int | None, sequential_draws: bool = False, **changes
) -> dict[str, torch.Tensor]:
    """Weights after three steps of a small DC-Mix with TI-Mix in float64, batches of 8 and micro-batches of this size;
    the loss; and how often each process summed gradients. changes: of the training's settings."""
    training = {"epochs": 1, "batch_size": 8, "learning_rate": 0.1, **changes}
    study = toy_study(training=training, hardware={"sequential_draws": sequential_draws})
    settings = study.training_of("dc_mix").model_copy(update={"micro_batch": micro_batch})
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(16, LENGTH, CHANNELS, generator=rng, dtype=torch.float64)
    q, c = torch.randint(16, (16, LENGTH), generator=rng), torch.arange(16) % CLASSES
    torch.manual_seed(1)
    model = randomise(MAR.from_study(study, "dc_mix")).double()
    generator = BitTransformer(sections.Generator(width=8, depth=1, heads=2, mlp_width=8), 4, LENGTH, CLASSES)
    guide = Guide(generator.double().eval(), sections.TiMix(), progress=0.5)
    wrapped, optimizer = context.wrap(model.train()), build_optimizer(model, settings)
    sums: list[int] = []
    if context.world_size > 1:
        wrapped.register_comm_hook(None, lambda _, bucket: counted_sum(sums, bucket, context.world_size))

    def step(network, rows, draws, _progress):
        mirrored = torch.where(draws.flips()[:, None, None], x[rows].flip(1), x[rows])
        return {"loss": training_step(network, {"x": mirrored, "q": q[rows], "c": c[rows]}, settings, draws, guide)}

    for number in range(3):
        rows = torch.arange(8) + 8 * (number % 2)
        parts = parts_of(rows, context.split(8), settings, (0, number), CPU)
        found = optimizer_step(wrapped, step, parts, optimizer, settings, 0.01, 0.5)
    loss = {"loss": context.mean(found["loss"]), "sums": torch.tensor(len(sums))}
    return loss | {name: p.detach() for name, p in model.named_parameters()}


def counted_sum(sums: list, bucket: torch.distributed.GradBucket, count: int) -> torch.futures.Future:
    """DDP's own sum, counted once a step: by its last bucket."""
    if bucket.is_last():
        sums.append(1)
    work = torch.distributed.all_reduce(bucket.buffer().div_(count), async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def one_of_several(rank: int, port: int, folder: Path, count: int, trainings: dict[str, dict]) -> None:
    """One of `count` processes; process 0 writes the weights of each training."""
    be_one_of_two(rank, port, count)
    with joined(CPU) as context:
        for name, settings in trainings.items():
            found = trained(context, **settings)
            if context.is_main:
                save_file(found, folder / f"{name}.safetensors")


def burnt(study: sections.Study) -> None:
    """Train the run `fused`, and die in its third step."""
    Fused.fuse, Fused.end = 3, lambda: os.kill(os.getpid(), signal.SIGKILL)
    train(study, Layout(study), "fused", 0)


def train_as(rank: int, port: int, study: sections.Study) -> None:
    """One of two processes that train the run `mix` together."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(study, Layout(study), "mix", 0)


def exit_codes_of_two(target: Callable[..., None], folder: Path, count: int = 2, *arguments) -> list[int | None]:
    """Run two processes, or `count`, to their end."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    return exit_codes(target, [(rank, port, folder, *arguments) for rank in range(count)])


def exit_codes(target: Callable[..., None], calls: list[tuple]) -> list[int | None]:
    """How processes that run target(*arguments) at the same time end."""
    workers = [FORK_SERVER.Process(target=target, args=arguments, daemon=True) for arguments in calls]
    for w in workers:
        w.start()
    for w in workers:
        w.join(timeout=200)
        w.kill()
    return [w.exitcode for w in workers]
