"""SpecError, and the words for what pydantic finds in a study."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from mixar.study import names
from mixar.study.choices import unknown

FORMER = {  # keys of earlier studies, and what says the same now
    "strategies": "name the class where it is used, as runs.NAME.guidance: {strategy: module:Class}",
    "own_metrics": "name the function in scoring.metrics, as module:function",
}
FORMS = {  # patterns of text, in words
    rf"^{names.RUN}$": "lower-case letters, digits and underscores",
    rf"^{names.NETWORK}$": "a run, or RUN@EPOCH for its milestone",
}


class SpecError(ValueError):
    """A study that cannot run, with the key, what was found and what would do."""


def _fields_at(model: type[BaseModel], path: tuple) -> list[str]:
    """Names allowed where `path` points, for the hint beside an unknown key."""
    current: type[BaseModel] | None = model
    in_dictionary = False
    for part in path:
        if in_dictionary:  # the user's own name
            in_dictionary = False
            continue
        assert current is not None, path
        annotation = current.model_fields[part].annotation
        in_dictionary = get_origin(annotation) is dict
        current = section_in(annotation)
    assert current is not None, path
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
            name, valid = str(e["loc"][-1]), _fields_at(model, e["loc"][:-1])
            lines.append(
                f"{key}: no longer a key; {FORMER[name]}" if name in FORMER else f"{key}: {unknown(name, valid)}"
            )
        elif e["type"] == "conflicts":
            where = key if e["loc"] else ""
            lines += [f"{'.'.join(filter(None, (where, inner)))}: {said}" for inner, said in e["ctx"]["found"]]
        elif e["type"] == "choice":
            of_key = key.removesuffix(f".{e['input']}.[key]")  # a choice that is itself the key of a mapping
            lines.append(f"{of_key}: {e['msg']}")
        elif e["type"] == "string_pattern_mismatch" and e["ctx"]["pattern"] in FORMS:
            lines.append(f"{key}: expected {FORMS[e['ctx']['pattern']]}; found {e['input']!r}")
        elif e["type"] == "missing":
            lines.append(f"{key}: is missing")
        elif e["type"] == "value_error":
            where = "".join(f"{part}." for part in e["loc"])  # of a preset; the study's own problems name their key
            lines.append(f"{where}{e['ctx']['error']}")
        else:
            lines.append(f"{key}: {e['msg']}; found {e['input']!r}")
    return "\n".join(lines)
