"""The precision of a kind of work is a part of the numbers that it makes, and of no others."""

from __future__ import annotations

import pytest

from mixar.study.digests import Digests
from mixar.study.errors import SpecError
from mixar.study.load import parse_study

WORK = {
    "tokenizer continuous": lambda d: d.tokenizer("continuous"),
    "tokenizer discrete": lambda d: d.tokenizer("discrete"),
    "tokenize": Digests.tokenize,
    "generator": Digests.generator,
    "generate": Digests.generate,
    "train": lambda d: d.train("mar", 0),
    "sample": lambda d: d.sample("mar", 0, "default"),
    "sample maskbit": lambda d: d.sample("maskbit", 0, "default"),
    "reconstruct continuous": lambda d: d.reconstruct("continuous"),
    "reconstruct discrete": lambda d: d.reconstruct("discrete"),
    "measure": lambda d: d.measure("mar"),
}
TOKENIZED = {"tokenize", "generator", "generate", "train", "sample", "sample maskbit", "measure"}
SETTINGS = {
    ("samplers", "default"): {"sample", "measure"},
    ("generator", "sampler"): {"generate", "sample", "sample maskbit", "measure"},
    ("continuous",): TOKENIZED | {"reconstruct continuous"},
    ("discrete",): TOKENIZED | {"reconstruct discrete"},
    ("training",): {"train", "sample", "measure"},
}


def digests_of(smoke, where, precision):
    """Digests of the study with this precision in one section; None: without the key."""
    section = smoke
    for key in where:
        section = section.setdefault(key, {})
    section.pop("precision", None)
    if precision:
        section["precision"] = precision
    return {name: of(Digests(parse_study(smoke))) for name, of in WORK.items()}


@pytest.mark.parametrize("where", SETTINGS, ids=".".join)
def test_another_precision_makes_again_what_it_computes_and_what_follows_from_it(smoke, where):
    plain, wide, narrow = (digests_of(smoke, where, precision) for precision in (None, "float32", "bfloat16"))

    assert wide == plain
    assert {name for name in WORK if narrow[name] != plain[name]} == SETTINGS[where]


@pytest.mark.parametrize("where", SETTINGS, ids=".".join)
def test_an_unknown_precision_is_one_message_that_names_the_key_and_the_choices(smoke, where):
    with pytest.raises(SpecError) as caught:
        digests_of(smoke, where, "float16")

    lines = [line for line in str(caught.value).splitlines() if "precision" in line]
    assert len(lines) == 1
    assert lines[0].strip().startswith(".".join([*where, "precision"]) + ":")
    assert all(word in lines[0] for word in ("'float16'", "float32", "bfloat16"))
