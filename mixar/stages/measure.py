"""`measure`: what one run costs: parameters, FLOPs, tokens, seconds per image, minutes per epoch, peak memory.

Weights are random: they cost what trained ones do. Batches, steps and samplers are the study's own.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mixar.data.manifest import read_manifest
from mixar.device import autocast, device_of, peak_memory_gib
from mixar.model import cost
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.process.failures import needs_memory
from mixar.process.progress import Progress
from mixar.reporting.results import STEADY, make_rows, spread, write_rows
from mixar.storage.locks import say
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.study.sections import Sampler, Study
from mixar.tokens import tokenizers
from mixar.tokens.generator import BitTransformer
from mixar.training.accumulate import optimizer_step, parts_of
from mixar.training.draws import Draws
from mixar.training.optim import build_optimizer, update_average
from mixar.training.steps import Guide, training_step

PAUSES_S = (2.0, 5.0, 10.0, 20.0)  # before times that other work on the machine has spoiled are taken again


@needs_memory(lambda study, _, run: (
    f"measure {run}",
    f"Lower measure.batch_size, the images that are drawn and trained on (now {study.measure.batch_size})",
))  # fmt: skip
def measure(study: Study, layout: Layout, run: str) -> None:
    """Write layout.measures(run): rows of one run, those that depend on a sampler once for each of the run's samplers.

    Times are medians, with minimum and maximum as low and high. Those whose repeats spread too far are taken again, a
    few times; where that does not help, their protocol says so: `batch 32, random weights[spread=56%]`.
    Raises ValueError for an unknown run.
    """
    if run not in study.runs:
        raise ValueError(f"run {run!r} is unknown; choose from {', '.join(study.runs)}")
    num_images = len(read_manifest(layout.manifest, "train", ["index"]))
    device, samplers = device_of(study), study.runs[run].samplers
    announce = Progress(f"measure {run}", "parts")
    torch.manual_seed(0)  # weights and inputs; no number of a row depends on them
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    announce(0, len(samplers) + 1)
    by_sampler: dict[str | None, list[dict]] = {None: counts(study, run)}
    for done, name in enumerate(samplers, start=1):
        by_sampler[name] = sampling_values(study, run, name, device)
        announce(done, len(samplers) + 1, f"sampler {name}")
    by_sampler[None] += [training_value(study, run, num_images, device), memory_value(device)]
    announce(len(samplers) + 1, len(samplers) + 1, "training steps")
    common: dict[str, Any] = {
        "source": "measure",
        "protocol": _protocol(study),
        "digest": Digests(study).measure(run),
        "device": device_name(device),
    }
    rows = [make_rows(study, run, sampler=name, values=values, **common) for name, values in by_sampler.items()]
    write_rows(layout.measures(run), sum(rows, []))


def counts(study: Study, run: str) -> list[dict]:
    """What follows from the settings alone: parameters, training FLOPs and tokens."""
    tokens = [{"metric": name, "value": n, "unit": "tokens"} for name, n in cost.token_counts(study, run).items()]
    return [
        {"metric": "parameters", "value": cost.count_parameters(study, run), "unit": "parameters"},
        {"metric": "flops_train", "value": cost.flops_train(study, run), "unit": "FLOP/image, forward and backward"},
        *tokens,
    ]


def sampling_values(study: Study, run: str, sampler: str, device: torch.device) -> list[dict]:
    """FLOPs and seconds per image; the time once with the tokenizer's decoder and once for the latents alone.

    MaskBit's tokens are given, as every run shares them; their generation is in neither.
    """
    settings, size = study.samplers[sampler], study.measure.batch_size
    model = MAR.from_study(study, run).to(device).eval()
    decoder: Any = tokenizers.build("continuous", study.continuous).to(device).eval()
    batch, rng = _batch(study, device), torch.Generator(device).manual_seed(0)
    latents: list[Tensor] = []

    @torch.inference_mode()
    def draw(s: Sampler) -> None:
        with autocast(device, s.precision):
            latents[:] = [sample_latents(model, batch["q"], batch["c"], s, rng)]

    @torch.inference_mode()
    def decode() -> None:
        with autocast(device, settings.precision):
            decoder.decode(latents[0].transpose(1, 2).unflatten(2, (study.grid, study.grid)))

    draw(settings.model_copy(update={"num_iterations": 2, "head_steps": 2}))  # warm up
    decode()

    def take() -> tuple[list[float], list[float]]:
        pairs = [(_seconds(lambda: draw(settings), device), _seconds(decode, device)) for _ in range(repeats)]
        return [sum(pair) for pair in pairs], [drawn for drawn, _ in pairs]

    repeats = study.measure.repeats
    both, drawn = _steadiest(take, f"measure {run}, sampler {sampler}")
    return [
        {"metric": "flops_sample", "value": cost.flops_sample(study, run, settings), "unit": "FLOP/image"},
        {"metric": "seconds_per_image", "unit": "s, with decoding to pixels", **_median(study, both, 1 / size)},
        {
            "metric": "seconds_per_image_latents",
            "unit": "s, without decoding to pixels",
            **_median(study, drawn, 1 / size),
        },
    ]


def training_value(study: Study, run: str, num_images: int, device: torch.device) -> dict:
    """Minutes per epoch of `num_images` images, from whole training steps; under TI-Mix with the generator."""
    model, settings = MAR.from_study(study, run).to(device).train(), study.training_of(run)
    size = study.measure.batch_size
    micro_batch = math.gcd(size, study.hardware_of(run).micro_batch or size)
    settings = settings.model_copy(update={"mask_group": None, "micro_batch": micro_batch})  # one group
    optimizer, average = build_optimizer(model, settings), copy.deepcopy(model).eval()
    batch, guide = _batch(study, device), _guide(study, run, device)
    rows = torch.arange(study.measure.batch_size)

    def loss(model: nn.Module, indices: Tensor, draws: Draws, _progress: float) -> dict[str, Tensor]:
        part = {k: v[indices.to(device)] for k, v in batch.items()}
        return {"loss": training_step(model, part, settings, draws, guide)}

    def step(number: int) -> None:
        lr = settings.learning_rate * settings.batch_size / 256
        parts = parts_of(rows, slice(0, len(rows)), settings, (0, number), device)
        found = optimizer_step(model, loss, parts, optimizer, settings, lr, 1.0)
        update_average(average, model, settings.ema_decay, found["finite"])

    step(0)  # warm up

    def take() -> tuple[list[float]]:
        return ([_seconds(partial(step, n), device) for n in range(1, study.measure.train_steps + 1)],)

    (times,) = _steadiest(take, f"measure {run}, training")
    scale = num_images / study.measure.batch_size / 60
    return {"metric": "minutes_per_epoch", "unit": "min", **_median(study, times, scale)}


def memory_value(device: torch.device) -> dict:
    """Peak memory of sampling and training: tensors on a GPU, or the resident set of this process on a CPU."""
    unit = "GiB, GPU tensors" if device.type == "cuda" else "GiB, process"
    return {"metric": "peak_memory_gib", "value": peak_memory_gib(device), "unit": unit}


def device_name(device: torch.device) -> str:
    """The GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'' if threads == 1 else 's'}"


def _batch(study: Study, device: torch.device) -> dict[str, Tensor]:
    """Random latents, tokens and classes of the measured batch size."""
    size = (study.measure.batch_size, study.num_tokens)
    return {
        "x": torch.randn(*size, study.continuous.latent_channels, device=device),
        "q": torch.randint(2**study.discrete.bits, size, device=device),
        "c": torch.randint(study.data.num_classes, size[:1], device=device),
    }


def _guide(study: Study, run: str, device: torch.device) -> Guide | None:
    ti_mix = study.runs[run].ti_mix
    if ti_mix is None:
        return None
    generator = BitTransformer(study.generator, study.discrete.bits, study.num_tokens, study.data.num_classes)
    return Guide(generator.to(device).eval().requires_grad_(False), ti_mix, progress=1.0)


def _seconds(action: Callable[[], None], device: torch.device) -> float:
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    start = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - start


def _steadiest(take: Callable[[], tuple[list[float], ...]], name: str) -> tuple[list[float], ...]:
    """Lists of times as `take` gives them; taken again, after a pause, while one of them is unsteady."""

    def worst(found: tuple[list[float], ...]) -> float:
        return max(spread(statistics.median(times), min(times), max(times)) for times in found)

    best = take()
    for pause in PAUSES_S:
        if worst(best) <= STEADY:
            break
        say(f"{name}: the repeats spread by {worst(best):.0%}, other work disturbs the clock; again in {pause:g} s")
        time.sleep(pause)
        best = min(best, take(), key=worst)
    return best


def _median(study: Study, times: list[float], scale: float) -> dict:
    """Median, minimum and maximum of times, scaled, and how many there are; the protocol, marked where they spread."""
    value, low, high = (f(times) * scale for f in (statistics.median, min, max))
    spoiled = spread(value, low, high)
    mark = f"[spread={spoiled:.0%}]" if spoiled > STEADY else ""
    return {"value": value, "low": low, "high": high, "n": len(times), "protocol": _protocol(study) + mark}


def _protocol(study: Study) -> str:
    return f"batch {study.measure.batch_size}, random weights"
