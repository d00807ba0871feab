"""`plan`: what a study costs before its first job: GPU-hours, wall time, memory, restarts and disk, stage by stage.

FLOPs are exact: those of runs from mixar.model.cost, those of other networks counted on the meta device. The rates that
turn them into hours are measured (benchmarks/gpu.json) or assumed, and the plan says which.
"""

from __future__ import annotations

import functools
import math
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixar.assets.check import locate
from mixar.assets.shipped import ROOT
from mixar.model import cost
from mixar.scoring.protocols import IMAGENET
from mixar.storage.files import json_mapping
from mixar.study.cards import CARDS
from mixar.study.choices import is_own, unknown
from mixar.study.layout import Layout
from mixar.study.memory import generating_memory, sampling_memory, tokenizer_memory, training_memory
from mixar.study.memory import parameters as parameters_of
from mixar.study.names import KINDS, MASKBIT, split
from mixar.study.sections import Study
from mixar.tokens import tokenizers
from mixar.tokens.generator import BitTransformer
from mixar.tokens.latents import ENCODE_BATCH

GIB = 2**30
TERA = 1e12
REFERENCE_CARD = "h100-80gb"  # where a study names none
# Share of the card's peak that a stage sustains, where nothing was measured. bfloat16: 350 TFLOP/s of an H100, which
# good implementations of transformers of this size reach; float32: large matrix products on the ordinary cores; tf32:
# convolutions, whose peak is half of bfloat16's.
ASSUMED = {"bfloat16": 0.354, "float32": 0.75, "tf32": 0.3}
PRECISION = {"bfloat16": "bfloat16", "float32": "float32", "tf32": "float32"}  # that the study gives, by arithmetic
CPU_TFLOPS = 0.02  # assumed, of one process without a GPU
START_MINUTES = {True: 0.5, False: 0.1}  # assumed, of a job with and without a GPU: imports, weights, data
DECODED = 800  # assumed: images a second that a job reads from JPEG or PNG
WRITTEN = 0.65  # assumed: bytes of a PNG over bytes of its pixels
INCEPTION_GIB = 1.0  # of a batch of 64 images; counted on tensors without values
INCEPTION_GFLOP = 11.4  # Inception-v3 at 299 x 299, 5.7 G multiply-adds (Szegedy et al., arXiv 1512.00567)
MEASURES = ROOT / "benchmarks" / "gpu.json"


@dataclass(frozen=True)
class Rates:
    """FLOP/s. assumed: by kind of arithmetic, a key of ASSUMED. measured: by stage and precision."""

    assumed: dict[str, float]
    measured: dict[tuple[str, str], float] = field(default_factory=dict)

    def of(self, stage: str, kind: str) -> float:
        return self.measured.get((stage, PRECISION[kind]), self.assumed[kind])

    def is_measured(self, stage: str, kind: str) -> bool:
        return (stage, PRECISION[kind]) in self.measured


@dataclass(frozen=True)
class Work:
    """The jobs of one stage for one run, tokenizer or network."""

    stage: str  # the rule
    name: str  # "" where the stage has one kind of job
    jobs: int
    needs: tuple[str, ...]  # keys of other work
    gpus: int = 0  # of one job
    flops: float = 0.0  # of all jobs
    rate: str = "float32"  # a key of ASSUMED
    minutes: float = 0.0  # of one job, beside its FLOPs
    limit: int | None = None  # minutes, where the stage resumes
    disk_gib: float = 0.0
    memory_gib: float | None = None  # peak of a process on its GPU; None: not estimated
    is_own: bool = False  # its network is code of the study's own, of which nothing is estimated
    narrow: float = 0.0  # of the FLOPs, those in bfloat16 where `rate` is another
    hours: float = 0.0  # of one job; `priced` fills it in

    @property
    def key(self) -> str:
        return f"{self.stage} {self.name}".strip()

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.jobs * self.gpus

    @property
    def restarts(self) -> int:
        """Of one job, under its time limit."""
        return max(math.ceil(self.hours * 60 / self.limit) - 1, 0) if self.limit else 0


@dataclass(frozen=True)
class Plan:
    """All work of a study, or of a part of it, with its price."""

    study: str
    card: str
    notes: tuple[str, ...]  # what is assumed, what was measured
    work: tuple[Work, ...]
    critical: tuple[str, ...]  # keys on the longest path, first to last
    critical_hours: float  # if every job starts as soon as it can
    command: str | None  # makes the rows of a part alone

    @property
    def gpu_hours(self) -> float:
        return sum(w.gpu_hours for w in self.work)

    @property
    def jobs(self) -> int:
        return sum(w.jobs for w in self.work)

    @property
    def disk_gib(self) -> float:
        return sum(w.disk_gib for w in self.work)

    def totals(self) -> str:
        """One line."""
        return (
            f"{self.study}: {self.gpu_hours:,.0f} GPU-hours on {self.card}, at least {time_of(self.critical_hours)}, "
            f"{self.jobs:,} jobs, {self.disk_gib:,.0f} GiB of disk"
        )

    def as_mapping(self) -> dict[str, Any]:
        """For --json; hours, GiB."""
        rows = [
            {**vars(w), "key": w.key, "gpu_hours": w.gpu_hours, "restarts": w.restarts, "tflop": w.flops / TERA}
            for w in self.work
        ]
        totals = {"gpu_hours": self.gpu_hours, "jobs": self.jobs, "disk_gib": self.disk_gib}
        return {**vars(self), "work": rows, "totals": totals}


def time_of(hours: float) -> str:
    """Hours in words: minutes, hours or days."""
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    return f"{hours:,.1f} h" if hours >= 1 else f"{max(hours * 60, 1):.0f} min"


def plan(
    study: Study,
    layout: Layout,
    only: str | None = None,
    files: Sequence[Path] = (),
    measures: Path | None = None,
) -> Plan:
    """The plan of a study. only: a key of PARTS, of whose rows the work alone is planned. files: the study's, for the
    command. measures: rates of a card; None: the file that MIXAR_MEASURES names, else benchmarks/gpu.json where there
    is one. Raises ValueError for an unknown part, unfit measures, and where the study's data cannot be counted.
    """
    if only is not None and only not in PARTS:
        raise ValueError(f"--only: {unknown(only, PARTS)}")
    counts, notes = images_of(study, layout)
    card, rates, said = rates_of(study, measures)
    work = {w.key: priced(w, rates) for w in all_work(study, layout, counts)}
    said += _assumed(study, list(work.values()), rates) if card != "CPUs" else []
    command = None
    if only:
        keys, paths = rows_of_part(study, layout, only)
        work = _needed_by(work, keys)
        given, rows = (" ".join(shlex.quote(str(path)) for path in listed) for listed in (files, paths))
        command = f"snakemake --configfile {given} -- {rows}"
    path, hours = critical_path(work)
    return Plan(study.study, card, (*notes, *said), tuple(work.values()), path, hours, command)


# Prices


def rates_of(study: Study, measures: Path | None = None) -> tuple[str, Rates, list[str]]:
    """The card, its rates, and what is assumed of them."""
    if not any(study.hardware_of(run).gpus for run in study.runs):
        return "CPUs", Rates(dict.fromkeys(ASSUMED, CPU_TFLOPS * TERA)), [f"Assumed: {CPU_TFLOPS} TFLOP/s a process."]
    name = study.hardware.card or REFERENCE_CARD
    card = CARDS[name]
    peaks = {"bfloat16": card.bf16_tflops, "float32": card.float32_tflops, "tf32": card.bf16_tflops / 2}
    assumed = {kind: ASSUMED[kind] * peak * TERA for kind, peak in peaks.items()}
    said = [] if study.hardware.card else [f"hardware.card is not given: {name} is assumed."]
    measured, about = _measured(measures, name)
    if about:
        said.append(about)
    return name, Rates(assumed, {key: value * TERA for key, value in measured.items()}), said


def _assumed(study: Study, work: Sequence[Work], rates: Rates) -> list[str]:
    """Which rates and which memory no measurement stands behind, and of which stages."""
    stages: dict[str, list[str]] = {}
    for w in work:
        if not w.gpus:
            continue
        for kind, flops in ((w.rate, w.flops - w.narrow), ("bfloat16", w.narrow)):
            if flops > 0 and not rates.is_measured(w.stage, kind) and w.stage not in stages.setdefault(kind, []):
                stages[kind].append(w.stage)
    words = [f"{kind} {rates.assumed[kind] / TERA:.0f} TFLOP/s ({', '.join(of)})" for kind, of in stages.items() if of]
    said = [f"Assumed: {'; '.join(words)}."] if words else []
    compiled = [name for name in study.runs if study.hardware_of(name).compile]
    if compiled:
        said.append(f"Compiled ({', '.join(compiled)}): rate and memory are those of eager trainings.")
    return said


def _measured(path: Path | None, card: str) -> tuple[dict[tuple[str, str], float], str | None]:
    """TFLOP/s that stages sustained on this card, by stage and precision, and what to say of the file.

    The file is what `benchmarks/gpu.sh` writes; of it this needs
    {"card": "h100-80gb", "tflops": {"train": {"bfloat16": 310}, …}}.
    Raises ValueError for a file that was asked for and is not there, and for one that holds something else.
    """
    asked = path or (Path(named) if (named := os.environ.get("MIXAR_MEASURES")) else None)
    file = asked or MEASURES
    if not file.is_file():
        if asked:
            raise ValueError(f"--measures: {file} is no file; give what benchmarks/gpu.sh wrote")
        return {}, None
    try:
        found = json_mapping(file.read_bytes())
        rates = {(str(s), str(p)): float(rate) for s, of in found["tflops"].items() for p, rate in of.items()}
        of = found["card"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}: expected what benchmarks/gpu.sh writes, with card, and tflops by stage and precision, found "
            f"{error!r}"
        ) from None
    if of != card:
        return {}, f"{file}: measured on {of or 'no known card'}, not on {card}, so it is not used."
    return rates, f"Measured ({file}): " + ", ".join(
        f"{stage} {precision} {rate:,.0f} TFLOP/s" for (stage, precision), rate in rates.items()
    ) + "."


def priced(work: Work, rates: Rates) -> Work:
    """The same work with its hours: start, FLOPs at the rates of its stage, and what the CPU does."""
    wide, narrow = (rates.of(work.stage, kind) for kind in (work.rate, "bfloat16"))
    seconds = ((work.flops - work.narrow) / wide + work.narrow / narrow) / max(work.gpus, 1) / max(work.jobs, 1)
    minutes = START_MINUTES[work.gpus > 0] + work.minutes
    return replace(work, hours=seconds / 3600 + minutes / 60)


def in_bfloat16(found: Iterable[tuple[str, float]]) -> float:
    """Of pairs of a precision and FLOPs, the FLOPs in bfloat16."""
    return sum(flops for precision, flops in found if precision == "bfloat16")


def critical_path(work: dict[str, Work]) -> tuple[tuple[str, ...], float]:
    """The longest chain of jobs, each as soon as it can start, and its hours without time in the queue."""

    @functools.cache
    def end(key: str) -> tuple[float, tuple[str, ...]]:
        before, path = max((end(need) for need in work[key].needs if need in work), default=(0.0, ()))
        return before + work[key].hours, (*path, key)

    hours, path = max(map(end, work), default=(0.0, ()))
    return path, hours


# Parts: a table or figure -> the runs that it shows by their scores, those it shows by their costs, and the tokenizers


def _figure8(study: Study) -> list[str]:
    """The parent and both continuations, each with the milestones that are its points."""
    roles = study.report.figure8
    shown = [name for role in roles.model_dump().values() for name in study.up_to(role)] if roles else []
    return list(dict.fromkeys(shown))


PARTS: dict[str, Callable[[Study, Layout], tuple[list[str], list[str], Sequence[str]]]] = {
    "table1": lambda s, _: ([MASKBIT, *s.networks], list(s.runs), KINDS),
    "table2": lambda s, _: ([], s.shown(s.report.table2), ()),
    "figure2": lambda _, layout: ([MASKBIT, *layout.figure2_runs], [], ()),
    "figure7": lambda s, _: (s.shown(s.report.figure7), s.shown(s.report.figure7), ()),
    "figure8": lambda s, _: (_figure8(s), [], ()),
}


def rows_of_part(study: Study, layout: Layout, only: str) -> tuple[list[str], list[Path]]:
    """The keys of the work that makes a part's rows, and their files. Raises ValueError for a part that is empty."""
    scored, shown, kinds = PARTS[only](study, layout)
    measured = dict.fromkeys(split(name)[0] for name in shown)  # a milestone costs what its run does
    keys = [f"score {r}" for r in scored] + [f"measure {r}" for r in measured]
    keys += [f"score_reconstruction {kind}" for kind in kinds]
    paths = [layout.scores("sample", run, *names) for run in scored for names in study.drawings_of(run)]
    paths += [layout.measures(run) for run in measured] + [layout.scores("reconstruct", kind) for kind in kinds]
    if not keys:
        raise ValueError(f"--only: the study has no {only}; its report names no runs for it")
    return keys, paths


def _needed_by(work: dict[str, Work], keys: Iterable[str]) -> dict[str, Work]:
    found, left = set(), list(keys)
    while left:
        if (key := left.pop()) in work and key not in found:
            found.add(key)
            left += work[key].needs
    return {key: w for key, w in work.items() if key in found}


# Work


def images_of(study: Study, layout: Layout) -> tuple[dict[str, int], list[str]]:
    """Images of each split: of the manifest, of the data where they are, or of ImageNet. Raises ValueError."""
    if layout.manifest.is_file() or locate(study.data.path).exists():
        from mixar.data.manifest import count_images, count_rows  # imported here: pyarrow takes 55 MiB

        return count_rows(layout.manifest) or count_images(study.data), []
    if study.data.path == "asset:imagenet-train":
        return dict(IMAGENET), ["ImageNet is not here: 1,281,167 and 50,000 images are assumed."]
    raise ValueError(f"data.path: {study.data.path} is not there, so its images cannot be counted; get them first")


def all_work(study: Study, layout: Layout, counts: dict[str, int]) -> list[Work]:
    """Every job of the study's DAG."""
    codes = {kind: Codes(counted(encoding(study, kind)), counted(decoding(study, kind))) for kind in KINDS}
    tokens, runs = _token_work(study, layout, counts, codes), _run_work(study, counts, codes)
    return [*tokens, *runs, *_score_work(study, layout, counts, codes)]


@dataclass(frozen=True)
class Codes:
    """FLOPs of a tokenizer for one image."""

    encode: float
    decode: float


def _gpu(study: Study) -> int:
    return min(study.hardware.gpus, 1)


def _token_work(study: Study, layout: Layout, counts: dict[str, int], codes: dict[str, Codes]) -> list[Work]:
    images, e, gpu = sum(counts.values()), study.evaluation, _gpu(study)
    coding = _coding(study, KINDS, ENCODE_BATCH)
    trained: dict[str, Any] = {"continuous": study.continuous, "discrete": study.discrete}
    work = [Work("ingest", "", 1, (), minutes=images / DECODED / 60 / 4)]
    for kind in KINDS:
        section = trained[kind]
        flops, minutes = 0.0, 0.0
        if section.weights is None and section.train:
            flops = 3 * section.train.epochs * counts["train"] * (codes[kind].encode + codes[kind].decode)
            minutes = counts["train"] / DECODED / 60
        work.append(Work(f"tokenizer_{kind}", "", 1, ("ingest",), gpu * bool(flops), flops, "tf32", minutes))
    needs = ("ingest", "tokenizer_continuous", "tokenizer_discrete")
    if any(run.weights is None for run in study.runs.values()) or study.generator.weights is None:
        shards = study.data.num_shards
        size = images * 2 * study.num_tokens * (2 * study.continuous.latent_channels + 2) / GIB
        flops, minutes = 2 * images * sum(code.encode for code in codes.values()), images / shards / DECODED / 60
        narrow = 2 * images * in_bfloat16((trained[kind].precision, codes[kind].encode) for kind in KINDS)
        work.append(
            Work("tokenize", "", shards, needs, gpu, flops, "tf32", minutes, disk_gib=size, narrow=narrow, **coding)
        )
    forward, trains = generator_flops(study), study.generator.weights is None
    flops = 3 * study.generator.train.epochs * counts["train"] * forward if trains and study.generator.train else 0.0
    work.append(Work("generator", "", 1, ("tokenize",) if trains else (), gpu * bool(flops), flops))
    drawn = (
        e.num_images
        * study.generator.sampler.num_steps
        * forward
        * (2 if study.generator.sampler.guidance_scale else 1)
    )
    precision = study.generator.sampler.precision
    memory = generating_memory(study) if gpu else None
    work.append(Work("generate", "", e.num_shards, ("generator",), gpu, drawn, precision, memory_gib=memory))
    for count in sorted({sweep.num_images for sweep in study.sweeps.values()}):
        drawn_for_sweep = drawn * count / e.num_images
        jobs = study.shards_of(count)
        work.append(
            Work("generate_sweep", str(count), jobs, ("generator",), gpu, drawn_for_sweep, precision, memory_gib=memory)
        )
    return work


def _coding(study: Study, kinds: Sequence[str], images: int, precision: str | None = None) -> dict[str, Any]:
    """Fields of Work: peak GiB of a stage that holds these tokenizers, one of which works on a batch of images; or that
    one of them is the study's own. precision: None: that of each."""
    sections: list[Any] = [getattr(study, kind) for kind in kinds]
    if any(is_own(section.network) for section in sections):
        return {"is_own": True}
    if not _gpu(study):
        return {}
    held = sum(4 * tokenizer_parameters(study, kind) / GIB for kind in kinds)
    return {"memory_gib": held + max(tokenizer_memory(study, each, images, 0, precision) for each in sections)}


def tokenizer_parameters(study: Study, kind: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in tokenizers.build(kind, getattr(study, kind)).parameters())


def _sampling(study: Study, name: str, samplers: Iterable[str], tokenizer: int) -> dict[str, Any]:
    """Fields of Work: peak GiB while a network's images are drawn and decoded, or that it is the study's own.

    tokenizer: parameters of the continuous one.
    """
    run = split(name)[0]
    if is_own(study.runs[run].guidance.strategy) or is_own(study.continuous.network):
        return {"is_own": True}
    if not _gpu(study):
        return {}
    return {"memory_gib": max(sampling_memory(study, run, study.samplers[s], tokenizer) for s in samplers)}


def _run_work(study: Study, counts: dict[str, int], codes: dict[str, Codes]) -> list[Work]:
    work, decode, gpu, samplers = [], codes["continuous"].decode, _gpu(study), study.samplers
    for name in study.networks:
        work.append(_training(study, name, counts["train"]))
    images = study.evaluation.num_images
    extractor_trained = study.scoring.extractor.weights is None
    work.append(Work("extractor", "", 1, ("ingest",) if extractor_trained else (), gpu * extractor_trained))
    tokenizer = tokenizer_parameters(study, "continuous") if gpu else 0
    keep, of_file = study.evaluation.keep_images, study.evaluation.shard_size
    kept = 1 if keep == "all" else min(1, keep / of_file)
    own, size = codes["discrete"].decode, kept * image_bytes(study) + feature_bytes(study)
    for name in (MASKBIT, *study.networks):
        pairs, shards = study.drawings_of(name), study.evaluation.num_shards
        if name == MASKBIT:
            stage, of, jobs, networks = "sample_maskbit", "", 1, ["tokenizer_discrete"]
            drawn = [(study.generator.sampler.precision, own)]
            memory = _coding(study, ["discrete"], study.evaluation.batch_size, study.generator.sampler.precision)
        else:
            memory = _sampling(study, name, [sampler for _, sampler in pairs], tokenizer)
            stage, of, jobs, networks = "sample", name, len(pairs) * shards, ["tokenizer_continuous", f"train {name}"]
            drawn = [
                (samplers[s].precision, decode + cost.flops_sample(study, split(name)[0], samplers[s]))
                for _, s in pairs
            ]
            if sweep := _sweep(study, name, decode, tokenizer):
                work.append(sweep)
                networks.append(f"score_sweep {name}")
        total = images * (sum(flops for _, flops in drawn) + len(pairs) * extractor_flops(study))
        minutes, needs = len(pairs) * images / jobs / DECODED / 60, ("generate", "extractor", *networks)
        disk = len(pairs) * images * size / GIB
        narrow = images * in_bfloat16(drawn)
        work.append(Work(stage, of, jobs, needs, gpu, total, "float32", minutes, 240, disk, narrow=narrow, **memory))
    for name, run in study.runs.items():
        taken, precision = study.measure.batch_size * study.measure.repeats, study.training_of(name).precision
        timed = [(samplers[s].precision, taken * cost.flops_sample(study, name, samplers[s])) for s in run.samplers]
        timed.append((precision, taken * study.measure.train_steps * cost.flops_train(study, name)))
        flops = sum(flops for _, flops in timed)
        found = _sampling(study, name, run.samplers, tokenizer)  # in batches of its own, and training steps
        if step := training_memory(study, name) if "memory_gib" in found else None:
            found["memory_gib"] = max(found["memory_gib"], step.peak)
        swept = any(study.sweep_of(name, sampler) for sampler in run.samplers)
        needs = ("ingest", *([f"score_sweep {name}"] if swept else []))
        work.append(Work("measure", name, 1, needs, gpu, flops, narrow=in_bfloat16(timed), **found))
    return work


def _sweep(study: Study, name: str, decode: float, tokenizer: int) -> Work | None:
    """The images of a network's sweeps, at every scale of every sampler.

    decode: FLOPs of decoding one image. tokenizer: its parameters.
    """
    found = {sampler: sweep for (run, sampler), sweep in study.sweeps.items() if run == name}
    if not found:
        return None
    flops = narrow = minutes = disk = jobs = 0.0
    for sampler, sweep in found.items():
        scaled = [study.samplers[sampler].model_copy(update={"cfg": cfg}) for cfg in sweep.cfg]
        latents = sum(cost.flops_sample(study, split(name)[0], each) for each in scaled)
        drawn = sweep.num_images * (latents + len(scaled) * decode)
        flops += drawn + sweep.num_images * len(scaled) * extractor_flops(study)
        narrow += in_bfloat16([(study.samplers[sampler].precision, drawn)])
        disk += sweep.num_images * len(scaled) * feature_bytes(study) / GIB
        jobs += study.shards_of(sweep.num_images)
    networks = ("tokenizer_continuous", f"train {name}", "extractor")
    needs = (*(f"generate_sweep {sweep.num_images}" for sweep in found.values()), *networks)
    memory = _sampling(study, name, found, tokenizer)
    return Work(
        "sample_sweep", name, int(jobs), needs, _gpu(study), flops, "float32", minutes, 240, disk,
        narrow=narrow, **memory,
    )  # fmt: skip


def _training(study: Study, name: str, images: int) -> Work:
    (of, _), run = split(name), study.networks[name]
    is_ours = not is_own(study.runs[of].guidance.strategy)
    parameters = parameters_of(study, of) if is_ours else cost.count_parameters(study, of)
    seeds = len(run.seeds)
    disk = 4 * parameters * seeds / GIB
    if run.weights:
        return Work("train", name, seeds, (), disk_gib=disk, minutes=parameters / 1e9)
    settings, hardware, before = study.training_of(of), study.hardware_of(of), study.milestone_before(name)
    epochs = study.epochs_of(name) - (study.epochs_of(before) if before else 0)
    per_image = cost.flops_train(study, of) + (generator_flops(study) if run.ti_mix else 0)
    seen = epochs * (images // settings.batch_size) * settings.batch_size
    parents = [f"train {parent}" for parent in (before, run.parent) if parent]
    needs = ["tokenize", *parents, *(["generator"] if run.ti_mix else [])]
    # The newest two: weights, average and two moments, float32; shared by a run's milestones.
    states = 0.0 if before else 2 * 16 * parameters * seeds / GIB
    peak = training_memory(study, of) if hardware.gpus else None
    return Work(
        "train", name, seeds, tuple(needs), hardware.gpus, seen * seeds * per_image, settings.precision,
        limit=hardware.minutes, disk_gib=disk + states, memory_gib=peak.peak if peak else None,
        is_own=not is_ours,
    )  # fmt: skip


def _score_work(study: Study, layout: Layout, counts: dict[str, int], codes: dict[str, Codes]) -> list[Work]:
    gpu, splits = _gpu(study), {kind: layout.reconstruction_split(kind) for kind in KINDS}
    references = {"train": counts["train"], **dict.fromkeys(["held_out", *splits.values()], counts["held_out"])}
    work = []
    for kind in KINDS:
        pairs = codes[kind].encode + codes[kind].decode
        flops, minutes = counts["held_out"] * (pairs + extractor_flops(study)), 2 * counts["held_out"] / DECODED / 60
        narrow = counts["held_out"] * in_bfloat16([(getattr(study, kind).precision, pairs)])
        disk = counts["held_out"] * (image_bytes(study) + feature_bytes(study)) / GIB
        needs = ("ingest", "extractor", f"tokenizer_{kind}")
        held = _coding(study, [kind], ENCODE_BATCH)
        work.append(Work("reconstruct", kind, 1, needs, gpu, flops, "tf32", minutes, 120, disk, narrow=narrow, **held))
    n = sum(references.values())
    flops, minutes, disk = n * extractor_flops(study), n / DECODED / 60, n * feature_bytes(study) / GIB
    network, both = study.scoring.extractor.network, ("ingest", "extractor")
    work.append(
        Work(
            "features_reference", "", 1, both, gpu, flops, "tf32", minutes, disk_gib=disk,
            memory_gib=INCEPTION_GIB if gpu and network == "inception-v3" else None, is_own=is_own(network),
        )
    )  # fmt: skip
    minutes = 5 * study.evaluation.num_images / 50_000  # assumed
    for name in (MASKBIT, *study.networks):
        drawn = "sample_maskbit" if name == MASKBIT else f"sample {name}"
        of_score = (drawn, "features_reference")
        work.append(Work("score", name, len(study.drawings_of(name)), of_score, minutes=minutes))
    for name in dict.fromkeys(run for run, _ in study.sweeps):
        found = {sampler: sweep for (run, sampler), sweep in study.sweeps.items() if run == name}
        images = max(sweep.num_images * len(sweep.cfg) for sweep in found.values())
        of_sweep = (f"sample_sweep {name}", "features_reference")
        work.append(Work("score_sweep", name, len(found), of_sweep, minutes=5 * images / 50_000))  # assumed, as above
    for kind in KINDS:
        work.append(Work("score_reconstruction", kind, 1, (f"reconstruct {kind}", "features_reference"), minutes=1))
    rows = [w.key for w in work if w.stage.startswith("score")] + [f"measure {name}" for name in study.runs]
    return [*work, Work("report", "", 1, tuple(rows), minutes=1)]


def image_bytes(study: Study) -> float:
    return WRITTEN * 3 * study.data.image_size**2


def feature_bytes(study: Study) -> float:
    """Features and logits of one image, float32; Inception's, which are the widest of the built-in networks."""
    return (
        4 * (2048 + 1008)
        if study.scoring.extractor.network == "inception-v3"
        else 4 * 5 * study.scoring.extractor.channels
    )


def extractor_flops(study: Study) -> float:
    return INCEPTION_GFLOP * 1e9 if study.scoring.extractor.network == "inception-v3" else 0.0


# FLOPs of networks that are not runs, counted on the meta device for one image


def counted(work: Callable[[], object]) -> float:
    """FLOPs of a call: 2 for each multiply-add of matrix products and convolutions."""
    counter = FlopCounterMode(display=False)
    # A look at values ends the pass: the built-in networks check their result last.
    with suppress(RuntimeError, NotImplementedError), torch.device("meta"), torch.inference_mode(), counter:
        work()
    return float(counter.get_total_flops())


def generator_flops(study: Study) -> float:
    """One forward pass of the generator of discrete tokens for one image. Counted once for equal settings."""
    s = study.generator
    key = s.model_dump_json(), study.discrete.bits, study.num_tokens, study.data.num_classes
    if key not in _COUNTED:

        def forward() -> None:
            network: nn.Module = BitTransformer(s, study.discrete.bits, study.num_tokens, study.data.num_classes).eval()
            network(torch.zeros(1, study.num_tokens, s.splits, dtype=torch.long), torch.zeros(1, dtype=torch.long))

        _COUNTED[key] = counted(forward)
    return _COUNTED[key]


_COUNTED: dict[tuple, float] = {}


def encoding(study: Study, kind: str) -> Callable[[], object]:
    """A call that encodes one image with a tokenizer."""

    def encode() -> None:
        network: Any = tokenizers.build(kind, getattr(study, kind)).eval()
        image = torch.zeros(1, 3, study.data.image_size, study.data.image_size)
        network.encode(image) if kind == "continuous" else network.tokens(image)

    return encode


def decoding(study: Study, kind: str) -> Callable[[], object]:
    """A call that decodes one image with a tokenizer."""

    def decode() -> None:
        network: Any = tokenizers.build(kind, getattr(study, kind)).eval()
        if kind == "continuous":
            network.decode(torch.zeros(1, study.continuous.latent_channels, study.grid, study.grid))
        else:
            network.decode_tokens(torch.zeros(1, study.num_tokens, dtype=torch.long))

    return decode
