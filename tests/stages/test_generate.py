"""`generate`: the tokens of the evaluation labels, one shard after the other."""

import pytest
import torch
from toy_tokens import prepared

from mixar.data.shards import open_shard, read_generated
from mixar.stages.generate import generate
from mixar.storage.files import file_sha256
from mixar.study.digests import Digests


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("tokens"))


def test_generated_shards_hold_balanced_labels_once_each_and_repeat_exactly(house):
    study, layout = house
    for shard in range(study.evaluation.num_shards):
        generate(study, layout, shard)
    paths = [layout.generated_shard(s) for s in range(study.evaluation.num_shards)]
    q, labels, index = read_generated(paths)

    assert index.tolist() == list(range(6))
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert q.shape == (6, study.num_tokens)
    assert q.min() >= 0 and q.max() < 2**study.discrete.bits
    assert len({tuple(row) for row in q.tolist()}) > 1
    before = paths[1].read_bytes()
    generate(study, layout, 1)
    assert paths[1].read_bytes() == before


def test_a_generated_shard_names_its_settings_and_the_weights_that_drew_it(house):
    study, layout = house

    generate(study, layout, 0)

    _, metadata = open_shard(layout.generated_shard(0))
    assert metadata["digest"] == Digests(study).generate()
    assert metadata["generator"] == file_sha256(layout.generator)


def test_drawing_tokens_leaves_the_global_random_numbers_alone(house):
    state = torch.get_rng_state()

    generate(*house, 0)

    assert torch.equal(torch.get_rng_state(), state)


def test_a_shard_beyond_the_studys_is_refused(house):
    with pytest.raises(ValueError, match="shard 2 does not exist; the study has 2"):
        generate(*house, 2)
