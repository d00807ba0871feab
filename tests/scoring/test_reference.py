"""References: which split and how many images, and the hashes that identify them."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import torch

from mixar.scoring.features import FeatureSet
from mixar.scoring.reference import hash_of, reference_of, rows_sha256, source_of
from mixar.study.load import parse_study

ROWS = {"index": [0, 1], "label": [0, 1], "name": ["a", "b"], "content": ["x", "y"]}


@pytest.mark.parametrize(
    ("split", "source"),
    [
        ("train", "sample"),
        ("held_out", "sample"),
        ("reconstructed", "continuous"),
        ("reconstructed_discrete", "discrete"),
    ],
)
def test_a_split_says_whose_protocol_holds(split, source):
    assert source_of(split) == source


def test_samples_are_measured_against_their_own_split(smoke):
    study = parse_study(smoke)

    assert reference_of(study, "held_out") == ("held_out", None)
    assert reference_of(study, "train")[0] == "train"


@pytest.mark.parametrize("column", ROWS)
def test_every_column_that_identifies_an_image_changes_the_hash(smoke, column):
    study = parse_study(smoke)
    other = ROWS | {column: ROWS[column][::-1]}

    assert rows_sha256(study, "train", pa.table(ROWS)) == rows_sha256(study, "train", pa.table(ROWS))
    assert rows_sha256(study, "train", pa.table(other)) != rows_sha256(study, "train", pa.table(ROWS))


def test_the_size_of_images_changes_the_hash(smoke):
    before = rows_sha256(parse_study(smoke), "train", pa.table(ROWS))
    smoke["data"]["image_size"] = 64

    assert rows_sha256(parse_study(smoke), "train", pa.table(ROWS)) != before


def test_features_are_identified_by_every_number_and_index():
    features = FeatureSet(np.arange(2), np.zeros(2, np.int64), torch.ones(2, 3), torch.zeros(2, 1))

    changed = features.features.clone()
    changed[1, 2] += 1e-6
    others = [
        dataclasses.replace(features, features=changed),
        dataclasses.replace(features, index=np.arange(1, 3)),
    ]
    assert len({hash_of(each) for each in (features, *others)}) == 3
    assert hash_of(features) == hash_of(dataclasses.replace(features, logits=torch.ones(2, 1)))
