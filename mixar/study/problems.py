"""What does not fit together in a study, and the words in which its problems are told."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from mixar.scoring.catalogue import FURTHER, NETWORKS, metric_of, shortages
from mixar.study.choices import is_own, unknown

if TYPE_CHECKING:
    from mixar.study.sections import Run, Study

# Run names that result rows give to something else: the generator's own images, and the tokenizers' reconstructions.
RESERVED_RUNS = ("maskbit", "continuous", "discrete")
RESERVED_START = "own_"  # of the rows of images that somebody brought
STORED_BITS = 16  # of a token in a shard
MAX_SHARDS = 100_000  # the number of a shard has five digits
MAX_DEPTH = 50  # of sections in each other: JSON's readers have a limit, too


class SpecError(ValueError):
    """A study that cannot run, with the key, what was found and what would do."""


def check_number(value: Any, annotation: Any) -> None:
    """Raise PydanticCustomError where a field of numbers holds a yes or no, or a field of yes or no something else.

    pydantic would take `epochs: true` for 1, and `decoder_attention: 1` for true.
    """
    kinds = _scalars(annotation)
    parts = value if isinstance(value, (list, tuple)) else [value]
    if bool in kinds and not isinstance(value, bool):
        raise PydanticCustomError("boolean", "expected true or false")
    if {int, float} & kinds and bool not in kinds and any(isinstance(part, bool) for part in parts):
        raise PydanticCustomError("number", "expected a number")


def _scalars(annotation: Any) -> set[Any]:
    """The types at the ends of an annotation such as `tuple[Annotated[int, ...], ...] | None`."""
    parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return set().union(*map(_scalars, parts)) if parts else {annotation}


def check_label(text: str) -> str:
    """`text` without spaces around it. Raises PydanticCustomError for a text that shows nothing, or several lines."""
    text = text.strip()
    kinds = {unicodedata.category(letter) for letter in text}
    if kinds & {"Cc", "Zl", "Zp"}:
        raise PydanticCustomError("label", "a line break or control character; use a text of one line")
    if kinds <= {"Cf", "Zs"}:  # spaces, and marks without width
        raise PydanticCustomError("label", "is empty; tables and figures print it")
    return text


def not_json(value: Any, key: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the values that would change on their way to the jobs, which read JSON. key: the path of `value`."""
    where = f"{key}: " if key else ""
    if depth > MAX_DEPTH:
        yield f"{where}nested more than {MAX_DEPTH} deep; use fewer levels"
    elif isinstance(value, dict):
        for name, part in value.items():
            if isinstance(name, str) and not _is_surrogate(name):
                yield from not_json(part, f"{key}.{name}" if key else name, depth + 1)
            else:
                yield f"{where}{name!r} is no text, and keys must be; put it in quotes or choose another"
    elif isinstance(value, (list, tuple)):
        for place, part in enumerate(value):
            yield from not_json(part, f"{key}[{place}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield f"{where}expected a finite number; found {value}"
    elif isinstance(value, str):
        if _is_surrogate(value):
            yield f"{where}{value!r} holds half of a character (a lone surrogate); write it in UTF-8"
    elif not isinstance(value, (bool, int, type(None))):
        yield f"{where}a {type(value).__name__}, which the jobs' JSON cannot hold; use numbers, text, lists or sections"


def _is_surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def problems(s: Study) -> Iterator[str]:
    """Yield what is wrong between the sections of a study whose own values are valid, the first finding first."""
    yield from _tokenizer_problems(s)
    if s.generator.weights is None and s.generator.train is None:
        yield "generator: give `weights` (a file) or `train` (settings to train it); both are missing"
    if s.discrete.bits % s.generator.splits:
        yield f"generator.splits: {s.generator.splits} does not divide discrete.bits {s.discrete.bits}"
    if s.generator.width % s.generator.heads:
        yield f"generator.width: {s.generator.width} is not divisible by heads {s.generator.heads}"
    if s.scoring.extractor.weights is None and s.scoring.extractor.train is None:
        yield "scoring.extractor: give `weights` (a file) or `train` (settings to train it); both are missing"
    network = NETWORKS.get(s.scoring.extractor.network)
    if s.scoring.extractor.weights is None and network and not network.is_trainable:
        yield f"scoring.extractor: {s.scoring.extractor.network!r} is not trained here; give its `weights`"
    for name in s.scoring.further:
        if name not in FURTHER and not is_own(name):
            yield f"scoring.further: {unknown(name, FURTHER)}"
    for name in s.scoring.further_statistics:
        if name not in s.scoring.further:
            yield f"scoring.further_statistics: {name!r} is no network of scoring.further"
    for name, model in s.models.items():
        if model.width % model.heads:
            yield f"models.{name}.width: {model.width} is not divisible by heads {model.heads}"
        width, heads = model.decoder_width or model.width, model.decoder_heads or model.heads
        if width % heads:
            yield f"models.{name}: the decoder's width {width} is not divisible by its heads {heads}"
    if s.evaluation.num_shards > MAX_SHARDS:
        yield (
            f"evaluation.shard_size: {s.evaluation.num_images} images in shards of {s.evaluation.shard_size} are "
            f"{s.evaluation.num_shards} shards, at most {MAX_SHARDS} are possible; make them larger"
        )
    yield from _scoring_problems(s)
    yield from _run_problems(s)
    yield from _hardware_problems(s)
    yield from _report_problems(s)


def _hardware_problems(s: Study) -> Iterator[str]:
    h = s.hardware
    if h.gpus and h.device == "cpu":
        yield f"hardware.gpus: {h.gpus} GPUs a training, but hardware.device is 'cpu'; set gpus 0, or device cuda"
    if h.gpus % h.nodes:
        yield f"hardware.gpus: {h.gpus} GPUs cannot be shared equally by {h.nodes} nodes; give a multiple"
    for name, run in s.runs.items():
        if run.weights is None and (found := s.training_of(name).batch_size) % h.processes:
            where = f"runs.{name}.training" if "batch_size" in run.training else "training"
            yield f"{where}.batch_size: {found} images do not divide over {h.processes} processes; give a multiple"


def _tokenizer_problems(s: Study) -> Iterator[str]:
    for where, tokenizer in (("continuous", s.continuous), ("discrete", s.discrete)):
        if s.data.image_size % tokenizer.stride:
            yield (
                f"{where}.multipliers: {len(tokenizer.multipliers)} levels need image_size divisible by "
                f"{tokenizer.stride}, found {s.data.image_size}"
            )
        if tokenizer.weights is None and tokenizer.train is None:
            yield f"{where}: give `weights` (a file) or `train` (settings to train it); both are missing"
        if tokenizer.options and not is_own(tokenizer.network):
            yield f"{where}.options: they go to a network of your own; name it with `network`, or leave them out"
        if not is_own(tokenizer.network) and tokenizer.channels % 32:
            yield f"{where}.channels: {tokenizer.channels} is no multiple of 32 (GroupNorm has 32 groups)"
        shift = tokenizer.train and tokenizer.train.max_shift
        if shift and shift >= s.data.image_size:
            yield f"{where}.train.max_shift: {shift} pixels move an image of {s.data.image_size} out of sight"
    beyond = [level for level in s.continuous.attention_levels if level >= len(s.continuous.multipliers)]
    if beyond and not is_own(s.continuous.network):
        yield (
            f"continuous.attention_levels: {beyond[0]} is no level of {len(s.continuous.multipliers)} multipliers; "
            "levels count from 0"
        )
    groups = s.discrete.train.entropy_groups if s.discrete.train else 1
    if groups > s.discrete.bits:
        yield f"discrete.train.entropy_groups: {groups} groups of {s.discrete.bits} bits; use fewer"
    if s.discrete.bits > STORED_BITS:
        yield f"discrete.bits: {s.discrete.bits}, but a token shard stores {STORED_BITS} bits a token; use fewer"
    if s.num_tokens < 4:
        yield f"data.image_size: {s.data.image_size} pixels give {s.num_tokens} tokens an image; at least 4 are needed"
    if s.continuous.stride != s.discrete.stride:
        yield (
            f"continuous and discrete grids differ: {s.data.image_size // s.continuous.stride} and "
            f"{s.data.image_size // s.discrete.stride} tokens a side; give both tokenizers the same number of levels"
        )


def _scoring_problems(s: Study) -> Iterator[str]:
    """Metrics that the study's own number of images does not suffice for; the reference's is known only later."""
    drawn, metrics = s.evaluation.num_images, [metric_of(entry) for entry in s.scoring.metrics]
    for metric, minimum, found in shortages(metrics, s.scoring, drawn):
        yield (
            f"scoring.{minimum.key}: metric {metric.name!r} needs at least {minimum.needed(s.scoring)} images, and "
            f"evaluation.num_images {drawn} leaves {found}; {minimum.advice} or draw more images"
        )


def _run_problems(s: Study) -> Iterator[str]:
    for name, run in s.runs.items():
        if name in RESERVED_RUNS or name.startswith(RESERVED_START):
            yield (
                f"runs.{name}: this name stands for other results ({', '.join(RESERVED_RUNS)}, {RESERVED_START}…); "
                "choose another"
            )
        if len(set(run.seeds)) < len(run.seeds):
            yield f"runs.{name}.seeds: {list(run.seeds)} names a seed twice"
        if run.ti_mix and run.ti_mix.start < run.ti_mix.end:
            yield (
                f"runs.{name}.ti_mix: the rate of ground truth rises from {run.ti_mix.start:g} to {run.ti_mix.end:g}; "
                "it must fall (Eq. 12)"
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
        if run.ti_mix and run.guidance.strategy == "none":
            yield (
                f"runs.{name}.ti_mix: TI-Mix mixes discrete tokens, and guidance.strategy is 'none'; "
                "choose a guided strategy"
            )
        if len(given := [key for key in ("parent", "start", "weights") if getattr(run, key)]) > 1:
            yield f"runs.{name}: {' and '.join(f'`{key}`' for key in given)} each say where weights come from; keep one"
        if run.weights and (run.ti_mix or run.training):
            yield f"runs.{name}.weights: nothing is trained, so `ti_mix` and `training` have no meaning; leave them out"
        if len(set(run.samplers)) < len(run.samplers):
            yield f"runs.{name}.samplers: {list(run.samplers)} names a sampler twice"
    yield from _label_problems(s)
    for name in s.runs:  # first for all runs: on the way round a circle, nothing else can be said
        yield from _chain_problems(s, name)
    for name, run in s.runs.items():
        if run.parent:
            yield from _parent_problems(s, name, run)


def _label_problems(s: Study) -> Iterator[str]:
    names: dict[str, str] = {}
    for name, run in s.runs.items():
        first = names.setdefault(run.label, name)
        if first != name:
            yield f"runs.{name}.label: {run.label!r} is the label of {first!r}, too; tables need one for each run"


def _chain_problems(s: Study, name: str) -> Iterator[str]:
    """A run whose chain of parents ends at no run, or comes back to where it was."""
    chain = [name]
    while parent := s.runs[chain[-1]].parent:
        if parent not in s.runs:
            yield f"runs.{chain[-1]}.parent: {unknown(parent, s.runs)}"
            return
        if parent in chain:
            yield f"runs.{name}.parent: {' -> '.join([*chain, parent])} is a circle"
            return
        chain.append(parent)


def _parent_problems(s: Study, name: str, run: Run) -> Iterator[str]:
    parent = s.runs[run.parent]
    if parent.model != run.model or parent.guidance != run.guidance:
        yield f"runs.{name}.parent: {run.parent!r} has another model or guidance; a run continues only its own kind"
    if missing := set(run.seeds) - set(parent.seeds):
        yield f"runs.{name}.seeds: {run.parent!r} has no seed {sorted(missing)}; it has {list(parent.seeds)}"


def _report_problems(s: Study) -> Iterator[str]:
    r = s.report
    named = [("table2", n) for n in r.table2 or ()] + [("figure7", n) for n in r.figure7 or ()]
    if r.figure8:
        named += [("figure8", n) for n in (r.figure8.parent, r.figure8.plain, r.figure8.ti_mix)]
    if r.claims:
        named += [("claims", n) for n in r.claims.model_dump().values() if n]
    for where, name in named:
        if name not in s.runs:
            yield f"report.{where}: {unknown(name, s.runs)}"
    if r.sampler not in s.samplers:
        yield f"report.sampler: {unknown(r.sampler, s.samplers)}"


def _fields_at(model: type[BaseModel], path: tuple) -> list[str]:
    """Names allowed where `path` points, for the hint beside an unknown key."""
    current: type[BaseModel] | None = model
    in_dictionary = False
    for part in path:
        if in_dictionary:  # the user's own name
            in_dictionary = False
            continue
        annotation = current.model_fields[part].annotation
        in_dictionary = get_origin(annotation) is dict
        current = section_in(annotation)
    return list(current.model_fields)


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation such as `Run`, `TiMix | None` or `dict[str, Run]` holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_in(part))), None)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Every problem that pydantic found, a line each: the key, what was found, and the nearest valid name."""
    lines = []
    found = error.errors()
    inside = {e["loc"][:end] for e in found for end in range(len(e["loc"]))}
    for e in found:
        if e["type"] == "too_short" and e["loc"] in inside:  # pydantic does not count entries that are wrong themselves
            continue
        key = ".".join(str(p) for p in e["loc"]) or "study"
        if e["type"] == "extra_forbidden":
            valid = _fields_at(model, e["loc"][:-1])
            lines.append(f"{key}: {unknown(str(e['loc'][-1]), valid)}")
        elif e["type"] == "choice":
            lines.append(f"{key}: {e['msg']}")
        elif e["type"] == "missing":
            lines.append(f"{key}: is missing")
        elif e["type"] == "value_error":
            where = "".join(f"{part}." for part in e["loc"])  # of a preset; the study's own problems name their key
            lines.append(f"{where}{e['ctx']['error']}")
        else:
            lines.append(f"{key}: {e['msg']}; found {e['input']!r}")
    return "\n".join(lines)
