"""`measure`: what one run costs: parameters, tokens, FLOPs by formula and by torch's counter, times, rates and memory.

Weights are random: they cost what trained ones do. Batches, steps and samplers are the study's own.
"""

from __future__ import annotations

import copy
import gc
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from mixar.data.manifest import read_manifest
from mixar.device import GIB, autocast, device_of, peak_memory_gib, reset_peak_memory
from mixar.model import cost, counting
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.process.failures import needs_memory
from mixar.process.progress import Progress
from mixar.reporting.results import STEADY, make_rows, spread, write_rows
from mixar.scoring.sweeps import chosen
from mixar.storage.files import replaced
from mixar.storage.locks import say
from mixar.study.arguments import check_measured
from mixar.study.cards import CARDS, card_of
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.study.sections import Sampler, Study
from mixar.tokens import tokenizers
from mixar.tokens.generator import BitTransformer
from mixar.training.accumulate import optimizer_step, parts_of
from mixar.training.draws import Draws
from mixar.training.optim import build_optimizer, update_average
from mixar.training.steps import Guide, training_step

TRACED = (4, 10)  # iterations, and steps of the head in each, of a traced draw
PAUSES_S = (2.0, 5.0, 10.0, 20.0)  # before times that other work on the machine has spoiled are taken again


@needs_memory(lambda study, _, run: (
    f"measure {run}",
    f"Lower measure.batch_size, the images that are drawn and trained on (now {study.measure.batch_size})",
))  # fmt: skip
def measure(study: Study, layout: Layout, run: str) -> None:
    """Write layout.measures(run): rows of one run, those that depend on a sampler once for each of the run's samplers.

    Times are medians, with minimum and maximum as low and high. Those whose repeats spread too far are taken again, a
    few times; where that does not help, their protocol says so: `batch 32, random weights[spread=56%]`.
    A sampler whose scale a sweep chose is timed at that scale.
    Raises ValueError for an unknown run, and where a sweep has chosen no scale yet.
    """
    check_measured(study, run)
    num_images = len(read_manifest(layout.manifest, "train", ["index"]))
    device, samplers = device_of(study), {name: chosen(study, layout, run, name) for name in study.runs[run].samplers}
    announce = Progress(f"measure {run}", "parts")
    torch.manual_seed(0)  # weights and inputs; no number of a row depends on them
    if peak_flops(device, "float32") is None:
        say(f"measure {run}: no peak rate is known for {device_name(device)}, so there is no MFU")
    announce(0, len(samplers) + 1)
    memory = Memory(device)
    by_sampler: dict[str | None, list[dict]] = {}
    for done, (name, settings) in enumerate(samplers.items(), start=1):
        found, held = memory.of("sample", partial(sampling_values, study, run, name, settings, device))
        by_sampler[name] = [{**value, "cfg": settings.cfg} for value in found + held]
        announce(done, len(samplers) + 1, f"sampler {name}")
    found, held = memory.of("train", partial(training_values, study, run, num_images, device))
    by_sampler[None] = [*counts(study, run), *found, *held, memory.whole()]
    announce(len(samplers) + 1, len(samplers) + 1, "training steps")
    common: dict[str, Any] = {
        "source": "measure",
        "protocol": _protocol(study),
        "digest": Digests(study).measure(run, samplers),
        "device": device_name(device),
    }
    rows = [make_rows(study, run, sampler=name, values=values, **common) for name, values in by_sampler.items()]
    write_rows(layout.measures(run), sum(rows, []))


def trace(study: Study, run: str, path: Path) -> None:
    """Write a trace of one training step and one sampled batch, in Chrome's format, for Perfetto or chrome://tracing.

    The run's first sampler draws, in few iterations: a whole draw would be gigabytes. Both are warm.
    Raises ValueError for an unknown run.
    """
    check_measured(study, run)
    device = device_of(study)
    settings = study.samplers[study.runs[run].samplers[0]]
    step, (draw, decode) = _training(study, run, device), _drawing(study, run, settings.precision, device)
    few = short(settings, *TRACED)
    step(0)
    draw(few)
    decode()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities, record_shapes=True) as profiler:
        with record_function("training step"):
            _seconds(partial(step, 1), device)
        with record_function("sampled batch"):
            _seconds(partial(draw, few), device)
            _seconds(decode, device)
    with replaced(path) as temporary:
        profiler.export_chrome_trace(str(temporary))


def counts(study: Study, run: str) -> list[dict]:
    """What follows from the settings alone: parameters, training FLOPs and tokens."""
    tokens = [{"metric": name, "value": n, "unit": "tokens"} for name, n in cost.token_counts(study, run).items()]
    unit = "FLOP/image, forward and backward"
    return [
        {"metric": "parameters", "value": cost.count_parameters(study, run), "unit": "parameters"},
        {"metric": "flops_train", "value": cost.flops_train(study, run), "unit": unit},
        *_counted(run, "flops_train_counted", unit, partial(counting.counted_train, study, run)),
        *tokens,
    ]


def _counted(run: str, metric: str, unit: str, count: Callable[[], float]) -> list[dict]:
    """FLOPs by torch's counter; none, and a message, for a strategy of the study's own that needs values to run."""
    try:
        return [{"metric": metric, "value": count(), "unit": f"{unit}, by torch's counter"}]
    except (NotImplementedError, RuntimeError) as error:
        say(f"measure {run}: no {metric}, the network does not run on the meta device ({error})")
        return []


def sampling_values(study: Study, run: str, name: str, settings: Sampler, device: torch.device) -> list[dict]:
    """FLOPs and seconds per image; the time once with the tokenizer's decoder and once for the latents alone.

    MaskBit's tokens are given, as every run shares them; their generation is in neither.
    """
    size = study.measure.batch_size
    draw, decode = _drawing(study, run, settings.precision, device)
    draw(short(settings, 2, 2))  # warm up
    decode()

    def take() -> tuple[list[float], list[float]]:
        pairs = [(_seconds(lambda: draw(settings), device), _seconds(decode, device)) for _ in range(repeats)]
        return [sum(pair) for pair in pairs], [drawn for drawn, _ in pairs]

    repeats = study.measure.repeats
    both, drawn = _steadiest(take, f"measure {run}, sampler {name}")
    flops, count = cost.flops_sample(study, run, settings), partial(counting.counted_sample, study, run, settings)
    return [
        {"metric": "flops_sample", "value": flops, "unit": "FLOP/image"},
        *_counted(run, "flops_sample_counted", "FLOP/image", count),
        {"metric": "seconds_per_image", "unit": "s, with decoding to pixels", **_median(study, both, 1 / size)},
        {
            "metric": "seconds_per_image_latents",
            "unit": "s, without decoding to pixels",
            **_median(study, drawn, 1 / size),
        },
        *_rates(study, "sample", size * flops, drawn, peak_flops(device, settings.precision)),
    ]


def training_values(study: Study, run: str, num_images: int, device: torch.device) -> list[dict]:
    """Minutes per epoch of `num_images` images, from whole training steps; under TI-Mix with the generator.

    The rates count the FLOPs of the network alone.
    """
    step, size, settings = _training(study, run, device), study.measure.batch_size, study.training_of(run)
    step(0)  # warm up

    def take() -> tuple[list[float]]:
        return ([_seconds(partial(step, n), device) for n in range(1, study.measure.train_steps + 1)],)

    (times,) = _steadiest(take, f"measure {run}, training")
    scale = num_images / study.measure.batch_size / 60
    return [
        {"metric": "minutes_per_epoch", "unit": "min", **_median(study, times, scale)},
        *_rates(study, "train", size * cost.flops_train(study, run), times, peak_flops(device, settings.precision)),
    ]


def _rates(study: Study, what: str, flops: float, times: list[float], peak: float | None) -> list[dict]:
    """FLOP/s that were achieved, and their share of the peak where that is known (MFU). flops: behind each time."""
    rates = [flops / seconds for seconds in times]
    unit, share = "FLOP/s", "share of the card's peak"
    found = [{"metric": f"flops_per_second_{what}", "unit": unit, **_median(study, rates, 1)}]
    return found + ([{"metric": f"mfu_{what}", "unit": share, **_median(study, rates, 1 / peak)}] if peak else [])


def peak_flops(device: torch.device, precision: str) -> float | None:
    """What this card can do a second in a precision of the settings; None on a CPU or a card that CARDS lacks."""
    if device.type != "cuda":
        return None
    card = card_of(device_name(device), torch.cuda.get_device_properties(device).total_memory / GIB)
    return CARDS[card].peak_flops(precision) if card else None


class Memory:
    """Peak memory of one part of the measurement after another: tensors on a GPU, or this process on a CPU."""

    def __init__(self, device: torch.device):
        self.device, self.largest = device, 0.0

    def of(self, what: str, work: Callable[[], list[dict]]) -> tuple[list[dict], list[dict]]:
        """The values of `work`, and the memory that it took at most: none where an earlier peak hides it.

        On a CPU that is growth: libraries and what else the process held before are not in it.
        """
        gc.collect()
        start = reset_peak_memory(self.device)
        found, peak = work(), peak_memory_gib(self.device)
        self.largest = max(self.largest, peak)
        unit = "GiB, GPU tensors" if self.device.type == "cuda" else "GiB, growth of the process"
        taken = {"metric": f"peak_memory_{what}_gib", "value": peak - start, "unit": unit}
        return found, [taken] if peak > start else []

    def whole(self) -> dict:
        """The largest peak of all parts, with what the process held before."""
        unit = "GiB, GPU tensors" if self.device.type == "cuda" else "GiB, process"
        return {"metric": "peak_memory_gib", "value": self.largest, "unit": unit}


def device_name(device: torch.device) -> str:
    """The GPU's name, or the number of CPU threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} thread{'' if threads == 1 else 's'}"


def _drawing(
    study: Study, run: str, precision: str, device: torch.device
) -> tuple[Callable[[Sampler], None], Callable[[], None]]:
    """Functions that draw a batch of latents with a sampler, and decode the last ones to pixels."""
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
        with autocast(device, precision):
            decoder.decode(latents[0].transpose(1, 2).unflatten(2, (study.grid, study.grid)))

    return draw, decode


def _training(study: Study, run: str, device: torch.device) -> Callable[[int], None]:
    """A function of a step's number that trains on one batch."""
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

    return step


def short(sampler: Sampler, num_iterations: int, head_steps: int) -> Sampler:
    """A sampler with at most so many iterations and steps of the head."""
    few: dict[str, Any] = {"num_iterations": min(num_iterations, sampler.num_iterations), "skeleton_iterations": None}
    few |= {"head_steps": min(head_steps, sampler.head_steps), "head_schedule": "constant"}
    return sampler.model_copy(update=few)


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
