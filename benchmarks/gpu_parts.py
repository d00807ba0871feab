"""The parts of gpu.py: functions from a setup to findings, plain mappings, one after the other.

A finding that could not be made holds `error` in place of its numbers. Weights are random: they cost what trained ones
do. Seconds are of work that the device has finished.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from mixar.device import autocast
from mixar.model import cost
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.stages.plan import INCEPTION_GFLOP, counted, decoding, encoding, generator_flops
from mixar.study.cards import CARDS, card_of
from mixar.study.load import load_study, parse_study, read_layer
from mixar.study.memory import training_memory
from mixar.study.micro_batches import images_at_once
from mixar.study.sections import Sampler, Study
from mixar.tokens import tokenizers
from mixar.tokens.generator import BitTransformer, sample_tokens
from mixar.training.accumulate import optimizer_step, parts_of
from mixar.training.compiled import compile_regions
from mixar.training.draws import Draws
from mixar.training.optim import build_optimizer, update_average
from mixar.training.steps import Guide, training_step

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
GIB = 2**30
TERA = 1e12
STRATEGIES = {"mar": "none", "dc_mix": "dc_mix", "dc_sa": "dc_sa", "dc_ca": "dc_ca"}
# Largest difference between CPU and GPU in float32 over the largest value; bfloat16 against the CPU's float32
ALLOWED = {"loss": 1e-4, "gradient": 1e-3, "latents": 1e-2, "pixels": 1e-2, "loss_bfloat16": 3e-2}


@dataclass(frozen=True)
class Setup:
    """What is measured on. small: the smoke study in place of ImageNet's. mar: an official checkout."""

    device: str
    small: bool
    mar: Path | None = None

    @cached_property
    def study(self) -> Study:
        return load_study(self.study_file)

    @property
    def study_file(self) -> Path:
        return ROOT / "config" / ("smoke.yaml" if self.small else "imagenet256.yaml")

    @property
    def repeats(self) -> int:
        """Of what is timed."""
        return 1 if self.small else 3

    @property
    def backend(self) -> str:
        """Of torch.compile; a trial on a CPU must not wait for a C++ compiler."""
        return "eager" if self.small else "inductor"


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def each(names: Iterable[str], what: str, find: Callable[[str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A finding for each name, or why there is none."""
    for name in names:
        try:
            found = find(name)
        except Exception as error:
            found = {"error": said(error)}
        yield {what: name, **found}
        torch._dynamo.reset()  # which holds what was compiled
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


# The machine


def machine(setup: Setup) -> Iterator[dict[str, Any]]:
    """Device and driver, and the rate of one large matrix product, which bounds every other."""
    if setup.device == "cpu":
        yield {"device": f"cpu, {torch.get_num_threads()} threads", "card": None}
    else:
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / GIB
        card = card_of(properties.name, memory)
        yield {"device": properties.name, "card": card, "memory_gib": round(memory, 1), "cuda": torch.version.cuda}
    size = 256 if setup.small else 8192
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(size, size, device=setup.device, dtype=dtype)
        times = timed(partial(torch.mm, a, a), setup)
        yield {"product": size, "precision": named(dtype), "tflops": 2 * size**3 / statistics.median(times) / TERA}


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def timed(action: Callable[[], object], setup: Setup, repeats: int | None = None, warm: bool = True) -> list[float]:
    """Seconds of each call; warm: after one that does not count."""
    if warm:
        action()
    times = []
    for _ in range(repeats or setup.repeats):
        wait(setup)
        began = time.perf_counter()
        action()
        wait(setup)
        times.append(time.perf_counter() - began)
    return times


def wait(setup: Setup) -> None:
    if setup.device == "cuda":
        torch.cuda.synchronize()


# Correctness


class OnDevice(TorchFunctionMode):
    """Makes CPU tensors join those on a device where both meet, and draws every random number on the CPU.

    So the same code computes the same thing on two devices, whose own generators differ.
    """

    LEFT = {"__get__", "__set__", "backward", "grad"}  # attributes, and what must find its leaves

    def __init__(self, device: str):
        super().__init__()
        self.device = torch.device(device)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        changes_first = (name.endswith("_") and name[-2:] != "__") or name in ("__setitem__", "__iadd__", "__imul__")
        if isinstance(kwargs.get("generator"), torch.Generator):
            if changes_first:
                return args[0].copy_(function(torch.empty_like(args[0], device="cpu"), *args[1:], **kwargs))
            return function(*args, **{**kwargs, "device": "cpu"}).to(self.device)
        if name in self.LEFT or name == "requires_grad_" or (changes_first and not args):
            return function(*args, **kwargs)
        if name == "numpy":
            return function(args[0].cpu(), *args[1:], **kwargs)
        if changes_first:
            others, kwargs = self._moved((args[1:], kwargs), args[0].device)
            return function(args[0], *others, **kwargs)
        args, kwargs = self._moved((args, kwargs), self.device)
        return function(*args, **kwargs)

    def _moved(self, values: Any, device: torch.device) -> Any:
        """Tensors of the CPU and the device on one of them; those without values stay."""
        types = {"cpu", self.device.type}
        if device.type not in types:
            return values
        return tree_map(lambda v: v.to(device) if isinstance(v, Tensor) and v.device.type in types else v, values)


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value."""
    found, expected = (t.detach().double().cpu() for t in (found, expected))
    scale = expected.abs().max().item()
    return (found - expected).abs().max().item() / (scale or 1.0)


def judged(kind: str, found: float) -> dict[str, Any]:
    return {kind: found, f"{kind}_is_equal": bool(found <= ALLOWED[kind])}


def vectors(setup: Setup) -> Iterator[dict[str, Any]]:
    """Stored runs of the released code, replayed on the device; tolerances are those of the tests on a CPU."""
    from replay import COMMITTED, Stored, problem_of
    from replays import replays_of

    def replayed(name: str) -> dict[str, Any]:
        stored, checks, problems = Stored(COMMITTED / name), 0, []
        stored.tensors = {key: value.to(setup.device) for key, value in stored.tensors.items()}
        with OnDevice(setup.device), exact_float32():
            for replay in replays_of(COMMITTED / name):
                for check in replay(stored):
                    checks += 1
                    problems += [found] if (found := problem_of(check, stored)) else []
        return {"checks": checks, "problems": len(problems), **({"first": problems[0]} if problems else {})}

    yield from each(sorted(path.name for path in COMMITTED.glob("*.safetensors")), "file", replayed)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Neither TF32 nor another kernel for a convolution."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def steps(setup: Setup) -> Iterator[dict[str, Any]]:
    """One training step and one image of each strategy, with and without TI-Mix, on the CPU and on the device.

    Of the study's smallest network, without dropout, whose draws no two devices share.
    """
    study = every_strategy(setup)
    torch.manual_seed(0)
    frozen = BitTransformer(study.generator, study.discrete.bits, study.num_tokens, study.data.num_classes).eval()
    decoder: Any = tokenizers.build("continuous", study.continuous).eval()
    here = {"frozen": frozen.requires_grad_(False), "decoder": decoder}
    there = {name: copy.deepcopy(network).to(setup.device) for name, network in here.items()}

    def compared(run: str) -> dict[str, Any]:
        torch.manual_seed(1)
        model = without_zeros(MAR.from_study(study, run).eval())
        expected = one_step(study, run, model, here["frozen"]) | one_image(study, model, here["decoder"])
        model.zero_grad(set_to_none=True)
        model.to(setup.device)
        with OnDevice(setup.device), exact_float32():
            found = one_step(study, run, model, there["frozen"]) | one_image(study, model, there["decoder"])
            with torch.autocast(setup.device, torch.bfloat16):
                found["loss_bfloat16"] = one_step(study, run, model, there["frozen"], is_trained=False)["loss"]
        expected["loss_bfloat16"] = expected["loss"]
        return {k: v for kind in ALLOWED for k, v in judged(kind, difference(found[kind], expected[kind])).items()}

    yield from each(study.runs, "run", compared)


def every_strategy(setup: Setup) -> Study:
    """The study with one run for each strategy, and for each that tokens guide another with TI-Mix."""
    content = read_layer(setup.study_file)
    model = min(setup.study.models, key=lambda name: setup.study.models[name].width)
    runs: dict[str, Any] = {}
    for name, strategy in STRATEGIES.items():
        runs[name] = {"label": name, "model": model, "guidance": {"strategy": strategy}}
    for name in list(STRATEGIES)[1:]:
        runs[f"{name}_ti_mix"] = {**runs[name], "label": f"{name}, TI-Mix", "ti_mix": {"schedule": "linear"}}
    hardware = {**content["hardware"], "runs": {}}
    return parse_study({**content, "runs": runs, "report": {}, "hardware": hardware})


def without_zeros(model: nn.Module) -> nn.Module:
    """The network with small numbers where an untrained one has zeros: a head whose output is zero hides errors."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return model


def one_step(study: Study, run: str, model: nn.Module, frozen: nn.Module, is_trained: bool = True) -> dict[str, Tensor]:
    """The loss of a training step over two images, and its gradient as one vector."""
    ti_mix, size = study.runs[run].ti_mix, 2
    guide = Guide(frozen, ti_mix, progress=0.5) if ti_mix else None  # type: ignore[arg-type]
    draws = Draws.of_all(torch.device("cpu"), 0, size)
    loss = training_step(model, batch_of(study, size, "cpu"), study.training_of(run), draws, guide)
    if not is_trained:
        return {"loss": loss}
    loss.backward()
    found = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
    return {"loss": loss, "gradient": found}


@torch.inference_mode()
def one_image(study: Study, model: MAR, decoder: Any) -> dict[str, Tensor]:
    """Latents and pixels of an image, drawn in a few iterations with guidance."""
    batch, rng = batch_of(study, 1, "cpu"), torch.Generator().manual_seed(0)
    sampler = Sampler(num_iterations=4, head_steps=10, cfg=2.0, clip=4.0)
    x = sample_latents(model, batch["q"], batch["c"], sampler, rng)
    return {"latents": x, "pixels": decoder.decode(x.transpose(1, 2).unflatten(2, (study.grid, study.grid)))}


def batch_of(study: Study, size: int, device: str) -> dict[str, Tensor]:
    """Latents, tokens and classes, the same on every device."""
    rng, shape = torch.Generator().manual_seed(0), (size, study.num_tokens)
    found = {
        "x": torch.randn(*shape, study.continuous.latent_channels, generator=rng),
        "q": torch.randint(2**study.discrete.bits, shape, generator=rng),
        "c": torch.randint(study.data.num_classes, (size,), generator=rng),
    }
    return {key: value.to(device) for key, value in found.items()}


# Training


def training(setup: Setup) -> Iterator[dict[str, Any]]:
    """Memory and speed of every run of the study at its micro-batch."""
    yield from each(setup.study.runs, "run", partial(trained, setup))


def training_compiled(setup: Setup) -> Iterator[dict[str, Any]]:
    """The same with compiled blocks, a run of each strategy; those with most images first."""
    yield from each(a_run_of_each_strategy(setup.study), "run", partial(trained, setup, is_compiled=True))


def a_run_of_each_strategy(study: Study) -> list[str]:
    """DC-Mix first, of the largest network."""
    found = {}
    largest = sorted(study.runs, key=lambda name: -study.models[study.runs[name].model].width)
    for name in largest:
        if study.runs[name].ti_mix is None:
            found.setdefault(study.runs[name].guidance.strategy, name)
    return sorted(found.values(), key=lambda name: study.runs[name].guidance.strategy != "dc_mix")


def trained(setup: Setup, run: str, is_compiled: bool = False) -> dict[str, Any]:
    """Peak memory with every token masked, and seconds of whole steps: as many passes as a process makes, optimizer and
    average. One process: the sum of gradients over several is not in it."""
    study, given = setup.study, setup.study.training_of(run)
    size, images = pass_and_share(study, run)
    settings = given.model_copy(update={"batch_size": images, "mask_group": size, "micro_batch": size})
    device, ti_mix, guide = torch.device(setup.device), study.runs[run].ti_mix, None
    torch.manual_seed(0)
    with device:
        model = MAR.from_study(study, run).train()
        if ti_mix:
            sizes = study.discrete.bits, study.num_tokens, study.data.num_classes
            guide = Guide(BitTransformer(study.generator, *sizes).eval().requires_grad_(False), ti_mix, progress=0.5)
    average, optimizer = copy.deepcopy(model).eval(), build_optimizer(model, settings)
    batch, rows = batch_of(study, images, setup.device), torch.arange(images)

    def loss(model: nn.Module, indices: Tensor, draws: Draws, _progress: float, s=settings) -> dict[str, Tensor]:
        part = {key: value[indices.to(device)] for key, value in batch.items()}
        return {"loss": training_step(model, part, s, draws, guide)}

    def step(number: int, s: Any = settings) -> None:
        parts = parts_of(rows, slice(0, images), s, (0, number), device)
        found = optimizer_step(model, partial(loss, s=s), parts, optimizer, s, 1e-4, 0.5)
        update_average(average, model, s.ema_decay, found["finite"])

    found: dict[str, Any] = {"images_a_pass": size, "passes": images // size, "precision": settings.precision}
    if is_compiled:
        began = time.perf_counter()
        trial = settings.model_copy(update={"batch_size": size})

        def first() -> Tensor:
            (part,) = parts_of(torch.arange(size), slice(0, size), trial, (0, 0), device)
            with torch.autocast(setup.device, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                return loss(model, part.batch, part.draws, 0.0)["loss"]

        if reason := compile_regions(model, first, setup.backend):
            return found | {"error": f"not compiled: {reason}"}
        found |= {"backend": setup.backend, "seconds_to_compile": time.perf_counter() - began}
    step(0)  # moments, and what is set up once
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step(1, settings.model_copy(update={"mask_rate_min": 1.0}))
    if setup.device == "cuda":
        held = torch.cuda.max_memory_reserved() / GIB  # by torch's allocator, with what it keeps for later
        found |= {"peak_gib": torch.cuda.max_memory_allocated() / GIB, "held_gib": held}
        if not is_compiled and (estimate := training_memory(study, run)):
            found["estimated_gib"] = estimate.peak
    times = [timed(partial(step, number), setup, repeats=1, warm=False)[0] for number in range(2, 2 + setup.repeats)]
    per_image = cost.flops_train(study, run) + (generator_flops(study) if guide else 0)
    return found | rates(setup, times, images, per_image, settings.precision)


def pass_and_share(study: Study, run: str) -> tuple[int, int]:
    """Images of a forward pass, and of a process's whole step."""
    given, hardware = study.training_of(run), study.hardware_of(run)
    group = given.mask_group or given.batch_size
    size = images_at_once(given.batch_size, hardware.processes, hardware.micro_batch, group)
    return size, given.batch_size // hardware.processes


def rates(setup: Setup, times: list[float], images: int, flops: float, precision: str) -> dict[str, Any]:
    """seconds: of a call. flops: of one image. mfu: share of the card's peak in this precision."""
    seconds = statistics.median(times)
    found = {
        "precision": precision,
        "seconds": seconds,
        "slowest": max(times),
        "images_a_second": images / seconds,
        "tflop": images * flops / TERA,
        "tflops": images * flops / seconds / TERA,
    }
    if setup.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        if card := card_of(properties.name, properties.total_memory / GIB):
            found["mfu"] = found["tflops"] * TERA / CARDS[card].peak_flops(precision)
    return found


# Sampling


def short(sampler: Sampler) -> Sampler:
    """An eighth of the iterations and of the head's steps: a whole one takes minutes in float32."""
    eighth = {key: max(math.ceil(getattr(sampler, key) / 8), 2) for key in ("num_iterations", "head_steps")}
    return sampler.model_copy(update=eighth)


def sampling(setup: Setup) -> Iterator[dict[str, Any]]:
    """Images a second of a run of each strategy: whole in bfloat16 for the first, an eighth for all; float32 last."""
    runs, sampler = a_run_of_each_strategy(setup.study), setup.study.samplers["default"]
    yield from each(runs[:1], "run", partial(drawn, setup, sampler=sampler, precision="bfloat16", repeats=1))
    for precision in ("bfloat16", "float32"):
        yield from each(runs, "run", partial(drawn, setup, sampler=short(sampler), precision=precision))


def sampling_compiled(setup: Setup) -> Iterator[dict[str, Any]]:
    """The same in bfloat16 with compiled blocks and head, an eighth of a sampler."""
    runs, sampler = a_run_of_each_strategy(setup.study), short(setup.study.samplers["default"])
    yield from each(runs, "run", partial(drawn, setup, sampler=sampler, precision="bfloat16", is_compiled=True))


@torch.inference_mode()
def drawn(
    setup: Setup, run: str, sampler: Sampler, precision: str, is_compiled: bool = False, repeats: int | None = None
) -> dict[str, Any]:
    """Seconds of a batch of latents, without decoding to pixels."""
    study, size = setup.study, setup.study.evaluation.batch_size
    torch.manual_seed(0)
    with torch.device(setup.device):
        model = MAR.from_study(study, run).eval()
    batch, rng = batch_of(study, size, setup.device), torch.Generator(setup.device).manual_seed(0)
    found: dict[str, Any] = {
        "precision": precision,
        "images": size,
        "iterations": sampler.num_iterations,
        "head_steps": sampler.head_steps,
        "is_whole": sampler == study.samplers["default"],
    }

    def draw(s: Sampler = sampler) -> None:
        with torch.autocast(setup.device, torch.bfloat16, enabled=precision == "bfloat16"):
            sample_latents(model, batch["q"], batch["c"], s, rng)

    if is_compiled:
        from mixar.training.compiled import regions_of

        for region in regions_of(model):
            region.compile(backend=setup.backend)
        began = time.perf_counter()
        draw()
        found |= {"backend": setup.backend, "seconds_to_compile": time.perf_counter() - began}
    draw(sampler.model_copy(update={"num_iterations": 2, "head_steps": 2}))  # what is set up once
    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = timed(draw, setup, repeats, warm=False)
    if setup.device == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
    return found | rates(setup, times, size, cost.flops_sample(study, run, sampler), precision)


# Other stages


def stages(setup: Setup) -> Iterator[dict[str, Any]]:
    """What the other rules run on the device: token generator, both tokenizers, and the feature network."""
    study = setup.study

    def generate() -> dict[str, Any]:
        size, sampler = study.evaluation.batch_size, study.generator.sampler.model_copy(update={"num_steps": 4})
        with torch.device(setup.device):
            model = BitTransformer(study.generator, study.discrete.bits, study.num_tokens, study.data.num_classes)
        c, rng = batch_of(study, size, setup.device)["c"], torch.Generator(setup.device).manual_seed(0)
        with autocast(torch.device(setup.device), sampler.precision):
            times = timed(lambda: sample_tokens(model.eval(), c, sampler, rng), setup)
        passes = sampler.num_steps * (2 if sampler.guidance_scale else 1)
        flops = passes * generator_flops(study)
        return {"steps": sampler.num_steps} | rates(setup, times, size, flops, sampler.precision)

    def tokenize(kind: str, is_whole: bool) -> dict[str, Any]:
        size, side, settings = 64, study.data.image_size, getattr(study, kind)
        with torch.device(setup.device):
            network: Any = tokenizers.build(kind, settings).eval()
            images = torch.rand(size, 3, side, side)

        def there() -> None:
            z = network.encode(images)[0] if kind == "continuous" else network.tokens(images)
            if is_whole:
                network.decode(z) if kind == "continuous" else network.decode_tokens(z)

        flops = counted(encoding(study, kind)) + (counted(decoding(study, kind)) if is_whole else 0)
        with torch.inference_mode(), autocast(torch.device(setup.device), settings.precision):
            return {"network": kind} | rates(setup, timed(there, setup), size, flops, settings.precision)

    def features() -> dict[str, Any]:
        from inception_file import blank_inception

        size, network = 2 if setup.small else 64, blank_inception().to(setup.device).eval()
        images = torch.zeros(size, 3, study.data.image_size, study.data.image_size, dtype=torch.uint8)
        images = images.to(setup.device)
        with torch.inference_mode():
            times = timed(lambda: network(images), setup)
        return rates(setup, times, size, INCEPTION_GFLOP * 1e9, "float32")

    yield from each(["generate"], "stage", lambda _: generate())
    for kind in ("continuous", "discrete"):
        yield from each(["tokenize"], "stage", lambda _, kind=kind: tokenize(kind, is_whole=False))
        yield from each(["reconstruct"], "stage", lambda _, kind=kind: tokenize(kind, is_whole=True))
    yield from each(["features_reference"], "stage", lambda _: features())


# An official MAR checkout


def official(setup: Setup) -> Iterator[dict[str, Any]]:
    """MAR's own code at the size of the study's largest unguided run, to be compared with that run's rows."""
    study, run = setup.study, unguided(setup.study)
    sys.path.insert(0, str(setup.mar))
    from models import mar  # type: ignore[import-not-found]

    size, given, sampler = study.models[study.runs[run].model], study.training_of(run), study.samplers["default"]
    sampler = short(sampler)
    pixels = 16 * study.grid
    torch.manual_seed(0)
    model = mar.mar_large(
        img_size=pixels, vae_stride=16, patch_size=1, vae_embed_dim=study.continuous.latent_channels,
        mask_ratio_min=given.mask_rate_min, label_drop_prob=given.label_drop_rate, class_num=study.data.num_classes,
        attn_dropout=size.dropout, proj_dropout=size.dropout, buffer_size=size.buffer_size,
        diffloss_d=size.head_depth, diffloss_w=size.head_width, num_sampling_steps=str(sampler.head_steps),
        diffusion_batch_mul=given.head_batch_multiplier, grad_checkpointing=False,
    ).to(setup.device)  # fmt: skip
    parameters = sum(p.numel() for p in model.parameters())
    images, total = pass_and_share(study, run)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=given.betas, fused=True)
    batch = batch_of(study, images, setup.device)
    x = batch["x"].transpose(1, 2).unflatten(2, (study.grid, study.grid)).contiguous()

    def step() -> None:
        for _ in range(total // images):
            with torch.autocast(setup.device, torch.bfloat16):
                loss = model(x, batch["c"])
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), given.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def draw() -> None:
        count = study.evaluation.batch_size
        c = batch_of(study, count, setup.device)["c"]
        with torch.inference_mode(), torch.autocast(setup.device, torch.bfloat16):
            model.eval().sample_tokens(
                bsz=count, num_iter=sampler.num_iterations, cfg=sampler.cfg, cfg_schedule="linear", labels=c
            )

    def train(_: str) -> dict[str, Any]:
        model.train()
        if setup.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(timed(step, setup))
        peak = {"peak_gib": torch.cuda.max_memory_allocated() / GIB} if setup.device == "cuda" else {}
        return {"seconds": seconds, "images_a_second": total / seconds, "images_a_pass": images, **peak}

    def sample(_: str) -> dict[str, Any]:
        seconds = statistics.median(timed(draw, setup))
        count = study.evaluation.batch_size
        return {"seconds": seconds, "images_a_second": count / seconds, "iterations": sampler.num_iterations,
                "head_steps": sampler.head_steps}  # fmt: skip

    about = {"beside": run, "parameters": parameters, "parameters_ours": cost.count_parameters(study, run)}
    for finding in (each(["training, without average"], "what", train), each(["sampling"], "what", sample)):
        yield from (about | {"precision": "bfloat16"} | item for item in finding)


def unguided(study: Study) -> str:
    """The largest run without guidance."""
    found = [name for name, run in study.runs.items() if run.guidance.strategy == "none"]
    return max(found, key=lambda name: study.models[study.runs[name].model].width)
