"""`verify` finds what is wrong with a token store; `tokenize` keeps whole shards and replaces others."""

import errno
import re

import numpy as np
import pytest
from toy_tokens import prepared

from mixar.data.shards import open_shard, write_shard
from mixar.stages.tokenize import tokenize
from mixar.stages.verify import verify
from mixar.storage.files import link


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
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    link(path, store[1].kept_shard(1))


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
    """Write a shard with hashes that fit, but without the check of values that writers make."""
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


def test_an_empty_file_and_one_of_another_kind_are_named(store, shard):
    path = store[1].token_shard(1)
    for content, size in ((b"", 0), (b"a text", 6)):
        path.write_bytes(content)
        assert f"{path}: not a shard of this project, or cut off within its header ({size} bytes)" in found(store)[2]


def test_foreign_files_are_named_and_are_no_fault(store, shard):
    surplus = store[1].token_shard(2)
    surplus.write_bytes(b"of a study with more shards")

    images, faulty, said = found(store)
    surplus.unlink()

    assert (images, faulty) == (30, []) and said == f"{surplus}: no shard of this study, which has 2; nothing reads it"


@pytest.fixture
def made(store, shard, capsys):
    """A function that tokenizes the second shard and returns what it printed and whether the file is still the same."""
    study, layout = store
    path = layout.token_shard(1)
    before = path.stat().st_ino

    def made():
        tokenize(study, layout, 1)
        return capsys.readouterr().out, path.stat().st_ino == before

    return made


def test_tokenize_keeps_a_whole_shard_and_one_that_was_deleted(store, made):
    said, is_kept = made()
    assert is_kept and "nothing to do" in said

    store[1].token_shard(1).unlink()
    said, is_kept = made()
    assert is_kept and "nothing to do" in said


def test_tokenize_makes_a_damaged_shard_again_under_both_names(store, made):
    path, kept = store[1].token_shard(1), store[1].kept_shard(1)
    content = path.read_bytes()
    path.write_bytes(content[:-100])  # in place: both names are this file

    said, is_kept = made()

    assert not is_kept and "cannot be kept" in said
    assert path.read_bytes() == content and path.samefile(kept)


def test_tokenize_takes_the_name_that_is_whole(store, made):
    path, kept = store[1].token_shard(1), store[1].kept_shard(1)
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(b"no shard")

    said, is_kept = made()

    assert is_kept and path.read_bytes() == content and path.samefile(kept)
    assert "header" in said and "nothing to do" in said


def test_a_shard_of_other_settings_is_not_kept(store, made):
    arrays, metadata = open_shard(store[1].token_shard(1))
    _write(store, dict(arrays), metadata | {"digest": "other"})
    store[1].kept_shard(1).unlink()

    said, is_kept = made()

    assert not is_kept and "digest 'other'" in said


def test_tokenize_needs_no_hard_links(store, made, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr("os.link", refused)
    store[1].kept_shard(1).unlink()
    store[1].token_shard(1).unlink()

    said, is_kept = made()

    assert not is_kept and store[1].token_shard(1).is_file() and not store[1].kept_shard(1).exists()
