"""`verify` finds what is wrong with a token store; `tokenize` keeps whole shards and replaces others."""

import re

import numpy as np
import pytest
from toy_tokens import prepared

from mixar.data.shards import open_shard, write_shard
from mixar.stages.tokenize import tokenize
from mixar.stages.verify import verify


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    study, layout = prepared(tmp_path_factory.mktemp("verify"))
    for shard in range(2):
        tokenize(study, layout, shard)
    return study, layout


@pytest.fixture
def shard(store):
    """Arrays (copies) and metadata of the second shard, which is put back afterwards."""
    path = store[1].token_shard(1)
    content = path.read_bytes()
    arrays, metadata = open_shard(path)
    yield {key: np.array(array) for key, array in arrays.items()}, metadata
    path.write_bytes(content)


def found(store):
    said = []
    images, faulty = verify(*store, said.append)
    return images, faulty, " ".join(said)


def test_a_whole_store_has_no_fault(store):
    assert found(store) == (30, [], "")


def test_a_changed_byte_is_a_hash_mismatch(store, shard):
    path = store[1].token_shard(1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    images, faulty, said = found(store)

    assert (images, faulty) == (15, [1]) and f"{path}: hash mismatch" in said


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("labels", 8, "labels differ from the manifest in .* rows"),
        ("index", 3, "index differ from the manifest"),
        ("held_out", 2, "held_out differ from the manifest"),
        ("latents_flip", np.nan, "latents_flip of row 4 are not finite"),
        ("tokens", 2**15, "tokens of row 4 reach 32768"),
    ],
)
def test_a_wrong_value_is_found(store, shard, key, value, message):
    arrays, metadata = shard
    arrays[key][4:] = value
    with np.errstate(invalid="ignore"):
        _write(store, arrays, metadata)

    _, faulty, said = found(store)

    assert faulty == [1] and re.search(message, said), said


def _write(store, arrays, metadata):
    """Write a shard with hashes that fit, around the check of values that writers make."""
    path = store[1].token_shard(1)
    finite = np.nan_to_num(arrays["latents_flip"])
    write_shard(path, arrays | {"latents_flip": finite}, metadata)
    if np.isfinite(arrays["latents_flip"]).all():
        return
    stored, _ = open_shard(path)
    place = stored["latents_flip"].offset
    with path.open("r+b") as file:
        file.seek(place)
        file.write(arrays["latents_flip"].tobytes())


def test_a_mirrored_half_that_is_a_copy_is_found(store, shard):
    arrays, metadata = shard
    _write(store, arrays | {f"{key}_flip": arrays[key] for key in ("latents", "tokens")}, metadata)

    assert "the mirrored half equals the other one" in found(store)[2]


def test_shards_of_other_settings_and_missing_ones_are_found(store, shard):
    arrays, metadata = shard
    _write(store, arrays, metadata | {"digest": "other"})
    assert "digest 'other' in its metadata" in found(store)[2]

    store[1].token_shard(1).unlink()
    assert "no such shard" in found(store)[2]


def test_tokenize_keeps_a_whole_shard_and_replaces_a_cut_off_one(store, shard):
    study, layout = store
    path = layout.token_shard(1)
    content, before = path.read_bytes(), path.stat()

    tokenize(study, layout, 1)
    kept = path.stat()
    path.write_bytes(content[:-100])
    tokenize(study, layout, 1)

    assert (kept.st_ino, kept.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert path.read_bytes() == content
