"""`generator`: the bit transformer that a study trains on its own tokens."""

import pytest
import torch
from toy_images import folder, pixels
from toy_tokens import prepared

from mixar.stages.generator import generator
from mixar.stages.ingest import ingest
from mixar.stages.tokenize import tokenize
from mixar.study.digests import Digests, seed_of
from mixar.tokens.generator import load
from mixar.weights import read_metadata, read_weights


@pytest.fixture
def house(tmp_path):
    """A tokenized study, whose generator is still to be trained."""
    study, layout = prepared(tmp_path)
    for shard in range(2):
        tokenize(study, layout, shard)
    layout.generator.unlink()
    return study, layout


def test_the_trained_generator_loads_and_names_what_it_was_made_of(house):
    study, layout = house

    generator(study, layout)

    assert not load(study, layout.generator).training
    found = read_metadata(layout.generator)
    assert found["digest"] == Digests(study).generator()
    assert found["seed"] == seed_of("generator", "train")
    assert found["steps"] > 0 and found["skipped_steps"] == 0


def test_training_it_again_gives_the_same_weights(house):
    study, layout = house
    generator(study, layout)
    before = read_weights(layout.generator)
    layout.generator.unlink()

    generator(study, layout)

    assert all(torch.equal(value, before[key]) for key, value in read_weights(layout.generator).items())


def test_tokens_of_other_images_are_refused(house, tmp_path):
    study, layout = house
    for label in range(9):
        folder(tmp_path / "other" / f"class{label}", pixels(4, seed=label, size=8))
    other = study.data.model_copy(update={"source": "folder", "path": str(tmp_path / "other"), "limit": None})
    ingest(study.model_copy(update={"data": other}), layout)

    with pytest.raises(ValueError, match="tokenize"):
        generator(study, layout)
    assert not layout.generator.exists()
