"""What does not fit together between the sections of a study."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from mixar.scoring import catalogue
from mixar.study.choices import unknown
from mixar.study.errors import explain
from mixar.study.memory import too_large
from mixar.study.micro_batches import images_at_once
from mixar.study.names import milestone, split
from mixar.study.sections import NO_WEIGHTS, Guidance, MarTraining, Run, Study, TrainingHardware

PAIRS = 16  # sets of tokens that Figure 2 shows
STORED_BITS = 16  # of a token in a shard
# Run names of other result rows: the generator's own images, and the tokenizers' reconstructions.
RESERVED_RUNS = ("maskbit", "continuous", "discrete")
RESERVED_START = "own_"  # of the rows of images of other generators


def problems(s: Study) -> Iterator[str]:
    """Yield what is wrong between the sections of a study, each of which is valid alone: the key, what was found, what
    would do. What is wrong for several runs in the same words is said once."""
    parts = [_tokenizer_problems, _generator_problems, _scoring_problems]
    parts += [_run_problems, _hardware_problems, _report_problems, _kept_problems]
    yield from dict.fromkeys(problem for part in parts for problem in part(s))


def _tokenizer_problems(s: Study) -> Iterator[str]:
    size = s.data.image_size
    for where, tokenizer in (("continuous", s.continuous), ("discrete", s.discrete)):
        if size % tokenizer.stride:
            levels = len(tokenizer.multipliers)
            yield f"{where}.multipliers: {levels} levels need image_size divisible by {tokenizer.stride}, found {size}"
        if tokenizer.weights is None and tokenizer.train is None:
            yield f"{where}: {NO_WEIGHTS}"
        shift = tokenizer.train and tokenizer.train.max_shift
        if shift and shift >= size:
            yield f"{where}.train.max_shift: {shift} pixels move an image of {size} out of sight"
    if s.discrete.bits > STORED_BITS:
        yield f"discrete.bits: {s.discrete.bits}, but a token shard stores {STORED_BITS} bits a token; use fewer"
    if s.num_tokens < 4:
        yield f"data.image_size: {size} pixels give {s.num_tokens} tokens an image; at least 4 are needed"
    if s.continuous.stride != s.discrete.stride:
        yield (
            f"continuous and discrete grids differ: {size // s.continuous.stride} and {size // s.discrete.stride} "
            "tokens a side; give both tokenizers the same number of levels"
        )


def _generator_problems(s: Study) -> Iterator[str]:
    if s.generator.weights is None and s.generator.train is None:
        yield f"generator: {NO_WEIGHTS}"
    if s.discrete.bits % s.generator.splits:
        yield f"generator.splits: {s.generator.splits} does not divide discrete.bits {s.discrete.bits}"


def _scoring_problems(s: Study) -> Iterator[str]:
    """Metrics that the study's own number of images does not suffice for; the reference's is known only later."""
    drawn = s.evaluation.num_images
    metrics = [catalogue.metric_of(entry) for entry in s.scoring.metrics]
    for metric, minimum, found in catalogue.shortages(metrics, s.scoring, drawn):
        yield (
            f"scoring.{minimum.key}: metric {metric.name!r} needs at least {minimum.needed(s.scoring)} images, and "
            f"evaluation.num_images {drawn} leaves {found}; {minimum.advice} or draw more images"
        )


def _run_problems(s: Study) -> Iterator[str]:
    for name, run in s.runs.items():
        if name in RESERVED_RUNS or name.startswith(RESERVED_START):
            yield (
                f"runs.{name}: other results have this name ({', '.join(RESERVED_RUNS)}, {RESERVED_START}…); choose "
                "another"
            )
        if run.model not in s.models:
            yield f"runs.{name}.model: {unknown(run.model, s.models)}"
        for sampler in run.samplers:
            if sampler not in s.samplers:
                yield f"runs.{name}.samplers: {unknown(sampler, s.samplers)}"
        try:
            s.training_of(name)
        except ValidationError as error:
            yield "\n".join(f"runs.{name}.training.{line}" for line in explain(error, type(s.training)).splitlines())
        yield from _sweep_problems(s, name, run)
    yield from _label_problems(s)
    for name, run in s.runs.items():
        found = list(_chain_problems(s, name))
        yield from found
        if run.parent and not found:
            yield from _parent_problems(s, name, run)


def _sweep_problems(s: Study, name: str, run: Run) -> Iterator[str]:
    """A sweep that has nothing to guide, or too few images for the distance that chooses."""
    if run.sweep is None:
        return
    known = [sampler for sampler in run.samplers if sampler in s.samplers]
    if known and all(s.samplers[sampler].cfg == 1 for sampler in known):
        yield (
            f"runs.{name}.sweep: every sampler of the run has cfg 1, which is no guidance; give one another cfg, or "
            "leave the sweep out"
        )
    if run.weights is None and (run.training.get("label_drop_rate", s.training.label_drop_rate)) == 0:
        yield (
            f"runs.{name}.sweep: label_drop_rate is 0, so the run learns no images without a class and cannot be "
            "guided; raise it, or leave the sweep out"
        )
    drawn = run.sweep.num_images
    for _, minimum, found in catalogue.shortages([catalogue.METRICS["fd"]], s.scoring, drawn):
        yield (
            f"runs.{name}.sweep.num_images: {drawn} images leave {found}, but the distance needs at least "
            f"{minimum.needed(s.scoring)} (scoring.{minimum.key}); draw more"
        )


def _label_problems(s: Study) -> Iterator[str]:
    names: dict[str, str] = {}
    for name, run in s.networks.items():
        first = names.setdefault(run.label, name)
        if first != name:
            where = f"runs.{split(name)[0]}.label"
            yield f"{where}: {run.label!r} is the label of {first!r}, too; tables need one for each run"


def _chain_problems(s: Study, name: str) -> Iterator[str]:
    """A run whose chain of parents ends at no run, or comes back to where it was."""
    chain = [name]
    while named := s.runs[chain[-1]].parent:
        if named not in s.networks:
            yield f"runs.{chain[-1]}.parent: {_absent(s, named)}"
            return
        parent, _ = split(named)
        if parent in chain:
            yield f"runs.{name}.parent: {' -> '.join([*chain, parent])} is a circle"
            return
        chain.append(parent)


def _absent(s: Study, name: str) -> str:
    """What to say of a network that the study does not have."""
    run, epoch = split(name)
    if run not in s.runs:
        return unknown(run, s.runs)
    declared = [milestone(run, each) for each in s.milestones_of(run)]
    found = f"choose from {', '.join([*declared, run])}" if declared else f"{run!r} has no milestones"
    advice = "nothing of it is trained" if s.runs[run].weights else f"add {epoch} to its training.milestones"
    return f"{name!r} is no declared milestone; {found}, or {advice}"


def _parent_problems(s: Study, name: str, run: Run) -> Iterator[str]:
    parent = s.networks[str(run.parent)]
    kinds = {"model": (parent.model, run.model), "guidance": (_in_words(parent.guidance), _in_words(run.guidance))}
    for what, (theirs, ours) in kinds.items():
        if theirs != ours:
            yield f"runs.{name}.parent: {run.parent!r} has the {what} {theirs}, not {ours}; name one of the same {what}"
    if missing := set(run.seeds) - set(parent.seeds):
        yield f"runs.{name}.seeds: {run.parent!r} has no seed {sorted(missing)}; it has {list(parent.seeds)}"


def _in_words(guidance: Guidance) -> str:
    return f"{guidance.strategy} {guidance.options}" if guidance.options else guidance.strategy


def _hardware_problems(s: Study) -> Iterator[str]:
    for name in s.hardware.runs:
        if name not in s.runs:
            yield f"hardware.runs: {unknown(name, s.runs)}"
    for name, run in s.runs.items():
        where = f"hardware.runs.{name}"
        try:
            hardware = s.hardware_of(name)
        except ValidationError as error:
            yield "\n".join(f"{where}.{line}" for line in explain(error, TrainingHardware).splitlines())
            continue
        if hardware.gpus and s.hardware.device == "cpu" and not s.hardware.gpus:
            yield f"{where}.gpus: {hardware.gpus} GPUs, but hardware.device is 'cpu'; set gpus 0, or device cuda"
        try:
            training = s.training_of(name)
        except ValidationError:  # which _run_problems reports
            continue
        if run.weights is None:
            found = list(_batch_problems(s, name, training, hardware))
            yield from found
            if not found and run.model in s.models and (reason := too_large(s, name)):
                yield f"{where if name in s.hardware.runs else 'hardware'}: {name}: {reason}"


def _batch_problems(s: Study, name: str, training: MarTraining, hardware: TrainingHardware) -> Iterator[str]:
    """Processes, groups and micro-batches that do not divide a run's batch."""
    batch, group = training.batch_size, training.mask_group or training.batch_size
    try:
        images_at_once(batch, hardware.processes, hardware.micro_batch, group)
    except ValueError as error:
        key = str(error).partition(":")[0]
        if key == "micro_batch":
            where = f"hardware.runs.{name}" if key in s.hardware.runs.get(name, {}) else "hardware"
        else:
            where = f"runs.{name}.training" if key in s.runs[name].training else "training"
        yield f"{where}.{error}"


def _report_problems(s: Study) -> Iterator[str]:
    r = s.report
    named = [("table2", n) for n in r.table2 or ()] + [("figure7", n) for n in r.figure7 or ()]
    if r.figure8:
        named += [("figure8", n) for n in (r.figure8.parent, r.figure8.plain, r.figure8.ti_mix)]
    if r.claims:
        named += [("claims", n) for n in r.claims.model_dump().values() if n]
    for where, name in named:
        if name not in s.networks:
            yield f"report.{where}: {_absent(s, name)}"
    if r.sampler not in s.samplers:
        yield f"report.sampler: {unknown(r.sampler, s.samplers)}"


def _kept_problems(s: Study) -> Iterator[str]:
    """Image sheets that need more drawn images than the study keeps. Each is cut from a few files of a run."""
    keep = s.evaluation.keep_images
    if keep == "all":
        return
    if s.scoring.copies:
        yield f"evaluation.keep_images: {keep}, but scoring.copies compares the pixels of all drawn images; give all"
    rows, columns = s.report.grid
    files = min(rows, s.evaluation.num_shards)
    is_paired = s.report.claims or any(run.guidance.strategy != "none" for run in s.runs.values())
    for figure, images in (("figure 6", rows * columns), *([("figure 2", PAIRS)] if is_paired else [])):
        needed = min(-(-images // files), s.evaluation.shard_size)
        if keep < needed:
            yield (
                f"evaluation.keep_images: {keep} of each file, but {figure} shows {images} images of {files} files; "
                f"keep {needed} or more, or all"
            )
