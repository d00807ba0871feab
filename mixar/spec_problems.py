"""What does not fit together in a study, and the words in which its problems are told."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from mixar.spec import Run, Study


def problems(s: Study) -> Iterator[str]:
    """Yield what is wrong between the sections of a study whose own values are valid, the first finding first."""
    for where, tokenizer in (("continuous", s.continuous), ("discrete", s.discrete)):
        if s.data.image_size % tokenizer.stride:
            yield (
                f"{where}.multipliers: {len(tokenizer.multipliers)} levels need image_size divisible by "
                f"{tokenizer.stride}, found {s.data.image_size}"
            )
        if tokenizer.weights is None and tokenizer.train is None:
            yield f"{where}: give `weights` (a file) or `train` (settings to train it); both are missing"
    if s.continuous.stride != s.discrete.stride:
        yield (
            f"continuous and discrete grids differ: {s.data.image_size // s.continuous.stride} and "
            f"{s.data.image_size // s.discrete.stride} tokens a side; give both tokenizers the same number of levels"
        )
    if s.discrete.channels % 32:
        yield f"discrete.channels: {s.discrete.channels} is no multiple of 32 (GroupNorm has 32 groups)"
    if s.continuous.channels % 32:
        yield f"continuous.channels: {s.continuous.channels} is no multiple of 32 (GroupNorm has 32 groups)"
    if s.generator.weights is None and s.generator.train is None:
        yield "generator: give `weights` (a file) or `train` (settings to train it); both are missing"
    if s.discrete.bits % s.generator.splits:
        yield f"generator.splits: {s.generator.splits} does not divide discrete.bits {s.discrete.bits}"
    if s.generator.width % s.generator.heads:
        yield f"generator.width: {s.generator.width} is not divisible by heads {s.generator.heads}"
    if s.scoring.extractor.weights is None and s.scoring.extractor.train is None:
        yield "scoring.extractor: give `weights` (a file) or `train` (settings to train it); both are missing"
    for name, model in s.models.items():
        if model.width % model.heads:
            yield f"models.{name}.width: {model.width} is not divisible by heads {model.heads}"
    yield from _run_problems(s)
    yield from _report_problems(s)


def _run_problems(s: Study) -> Iterator[str]:
    for name, run in s.runs.items():
        if run.model not in s.models:
            yield f"runs.{name}.model: {_unknown(run.model, s.models)}"
        if run.guidance.strategy not in s.guidance_table:
            yield f"runs.{name}.guidance.strategy: {_unknown(run.guidance.strategy, s.guidance_table)}"
        for sampler in run.samplers:
            if sampler not in s.samplers:
                yield f"runs.{name}.samplers: {_unknown(sampler, s.samplers)}"
        try:
            s.training_of(name)
        except ValidationError as error:
            yield f"runs.{name}.training: {explain(error, type(s.training))}"
        if run.ti_mix and run.guidance.strategy == "none":
            yield (
                f"runs.{name}.ti_mix: TI-Mix mixes discrete tokens, and guidance.strategy is 'none'; "
                "choose a guided strategy"
            )
        if run.parent and run.start:
            yield f"runs.{name}: `parent` and `start` both say where training begins; keep one"
        if run.parent:
            yield from _parent_problems(s, name, run)


def _parent_problems(s: Study, name: str, run: Run) -> Iterator[str]:
    seen = [name]
    while run.parent:
        if run.parent not in s.runs:
            yield f"runs.{seen[-1]}.parent: {_unknown(run.parent, s.runs)}"
            return
        if run.parent in seen:
            yield f"runs.{name}.parent: {' -> '.join([*seen, run.parent])} is a circle"
            return
        parent = s.runs[run.parent]
        if parent.model != run.model or parent.guidance != run.guidance:
            yield (
                f"runs.{seen[-1]}.parent: {run.parent!r} has another model or guidance; "
                "a run continues only its own kind"
            )
        missing = set(run.seeds) - set(parent.seeds)
        if missing:
            yield f"runs.{seen[-1]}.seeds: {run.parent!r} has no seed {sorted(missing)}; it has {list(parent.seeds)}"
        seen.append(run.parent)
        run = parent


def _report_problems(s: Study) -> Iterator[str]:
    r = s.report
    named = [("table2", n) for n in r.table2 or ()] + [("figure7", n) for n in r.figure7 or ()]
    if r.figure8:
        named += [("figure8", n) for n in (r.figure8.parent, r.figure8.plain, r.figure8.ti_mix)]
    if r.claims:
        named += [("claims", n) for n in r.claims.model_dump().values() if n]
    for where, name in named:
        if name not in s.runs:
            yield f"report.{where}: {_unknown(name, s.runs)}"
    if r.sampler not in s.samplers:
        yield f"report.sampler: {_unknown(r.sampler, s.samplers)}"


def _unknown(found: str, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(found, list(valid), n=1)
    choices = f"hoose from {', '.join(valid)}"
    return f"{found!r} is unknown; " + (f"did you mean {near[0]!r}? C{choices}" if near else f"c{choices}")


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
    for e in error.errors():
        key = ".".join(str(p) for p in e["loc"]) or "study"
        if e["type"] == "extra_forbidden":
            valid = _fields_at(model, e["loc"][:-1])
            lines.append(f"{key}: {_unknown(str(e['loc'][-1]), valid)}")
        elif e["type"] == "missing":
            lines.append(f"{key}: is missing")
        elif e["type"] == "value_error":
            lines.append(str(e["ctx"]["error"]))
        else:
            lines.append(f"{key}: {e['msg']}; found {e['input']!r}")
    return "\n".join(lines)
