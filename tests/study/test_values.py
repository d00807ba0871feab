"""Single values that pydantic would let pass, or would change in silence."""

import copy
import datetime
import json
import re

import pytest

from mixar.study.errors import SpecError, section_in
from mixar.study.load import parse_study
from mixar.study.sections import Study


def refusal(content):
    with pytest.raises(SpecError) as caught:
        parse_study(content)
    return str(caught.value)


def itself():
    found = [1]
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), ".x: expected a finite number; found nan"),
        ([1, float("-inf")], ".x[1]: expected a finite number; found -inf"),
        ({1: 2}, ".x: 1 is not text, as a key must be"),
        ({"a": {None: 2}}, ".x.a: None is not text"),
        (datetime.date(2024, 2, 1), ".x: a date, which the jobs' JSON cannot hold"),
        ({1, 2}, ".x: a set, which the jobs' JSON cannot hold"),
        ([b"\xff"], ".x[0]: a bytes, which the jobs' JSON cannot hold"),
        (itself(), "nested more than 50 deep"),
    ],
)
def test_options_that_jobs_would_read_differently_are_refused(smoke, value, said):
    sections = {
        "runs.mar.guidance.options": smoke["runs"]["mar"].setdefault("guidance", {}),
        "continuous.options": smoke["continuous"],
        "discrete.options": smoke["discrete"],
    }
    for where, section in sections.items():
        section["options"] = {"x": value}
        assert f"{where}.x" in refusal(smoke) and said in refusal(smoke)
        del section["options"]


def test_options_reach_the_jobs_as_they_are_written(smoke):
    value = [1, 10**30, -0.5, 1.0e300, True, None, "é😀", {"a": [], "b": {}}]
    smoke["runs"]["mar"]["guidance"] = {"options": {"x": value}}

    read = json.loads(parse_study(smoke).model_dump_json())

    assert read["runs"]["mar"]["guidance"]["options"]["x"] == value


def test_spaces_and_line_ends_around_a_label_or_title_are_left_out(smoke):
    smoke["title"], smoke["runs"]["mar"]["label"] = "A title\n", " MAR\n"

    study = parse_study(smoke)

    assert (study.title, study.runs["mar"].label) == ("A title", "MAR")


def fields(model, path=()):
    """(keys that lead there, annotation) of every field below a section that the smoke study has."""
    for name, field in model.model_fields.items():
        section = section_in(field.annotation)
        inner = {"models": ("tiny",), "samplers": ("default",), "runs": ("mar",)}.get(name, ())
        if section:
            yield from fields(section, (*path, name, *inner))
        else:
            yield (*path, name), field.annotation


def test_no_number_of_a_study_may_be_a_yes_or_no_and_no_yes_or_no_a_number(smoke):
    checked = 0
    for path, annotation in fields(Study):
        kinds = set(re.findall(r"\b(?:int|float|bool)\b", repr(annotation)))
        wrong = [1, "yes"] if kinds == {"bool"} else [True, [True, True], {"1": [True, 2.0]}] if kinds else []
        for value in wrong:
            content = copy.deepcopy(smoke)
            section = content
            for key in path[:-1]:
                section[key] = section.get(key) or {}
                section = section[key]
            section[path[-1]] = value
            assert f"{'.'.join(path)}: expected " in refusal(content), (path, value)
            checked += 1
    assert checked > 120
    smoke["runs"]["mar"]["training"] = {"epochs": True}
    assert "runs.mar.training.epochs: expected a number; found True" in refusal(smoke)
