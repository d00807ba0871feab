import json
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from mixar.data.shards import TokenStore, open_shard, read_generated, write_shard

L, C = 4, 3


def shard(n, first=0, grid=L, **changes):
    rng = np.random.default_rng(first)
    arrays = {
        "latents": rng.normal(size=(n, grid, C)).astype(np.float16),
        "latents_flip": rng.normal(size=(n, grid, C)).astype(np.float16),
        "tokens": rng.integers(0, 2**14, (n, grid)),
        "tokens_flip": rng.integers(0, 2**14, (n, grid)),
        "labels": rng.integers(0, 10, n),
        "index": np.arange(first, first + n),
        "held_out": np.arange(n) % 3 == 0,
    }
    return arrays | changes


@pytest.fixture
def paths(tmp_path):
    sizes, first, paths = (5, 1, 7), 0, []
    for i, n in enumerate(sizes):
        paths.append(tmp_path / f"shard-{i}.safetensors")
        write_shard(paths[-1], shard(n, first), {"digest": "abc", "shard": i})
        first += n
    return paths


def test_a_shard_is_a_plain_safetensors_file_with_its_metadata(paths):
    arrays, metadata = open_shard(paths[0])

    stored = load_file(paths[0])

    assert metadata == {"digest": "abc", "shard": 0}
    assert arrays.keys() == stored.keys()
    assert all(np.array_equal(arrays[key], stored[key]) and arrays[key].dtype == stored[key].dtype for key in stored)
    assert isinstance(arrays["latents"], np.memmap)
    assert sorted(os.listdir(paths[0].parent)) == sorted(p.name for p in paths)


def test_a_batch_equals_picking_one_image_at_a_time(paths):
    store = TokenStore(paths)
    stored = [load_file(p) for p in paths]
    joined = {key: np.concatenate([s[key] for s in stored]) for key in stored[0]}
    indices = torch.tensor([12, 0, 5, 4, 12, 6])
    flip = torch.tensor([True, False, True, False, False, True])

    batch = store.batch(indices, flip)

    for row, (i, flipped) in enumerate(zip(indices.tolist(), flip.tolist(), strict=True)):
        suffix = "_flip" if flipped else ""
        assert np.array_equal(batch["x"][row], joined["latents" + suffix][i].astype(np.float32))
        assert np.array_equal(batch["q"][row], joined["tokens" + suffix][i])
        assert batch["c"][row] == joined["labels"][i]
    assert [batch[k].dtype for k in "xqc"] == [torch.float32, torch.int64, torch.int64]


def test_the_store_knows_its_size_index_and_splits(paths):
    store = TokenStore(paths)

    assert (len(store), store.num_tokens, store.channels) == (13, L, C)
    assert store.index.tolist() == list(range(13))
    assert store.rows("held_out").tolist() == np.flatnonzero(store.held_out).tolist() == [0, 3, 5, 6, 9, 12]
    assert sorted([*store.rows("train").tolist(), *store.rows("held_out").tolist()]) == list(range(13))


def test_positions_outside_the_store_are_refused(paths):
    store = TokenStore(paths)

    for position in (-1, 13):
        with pytest.raises(IndexError, match="13 images"):
            store.batch([0, position], [False, False])


def test_generated_tokens_are_joined_in_the_order_of_the_shards(tmp_path):
    paths = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    for i, path in enumerate(paths):
        tokens = torch.full((2, L), 40_000 + i)
        write_shard(path, {"tokens": tokens, "labels": [i, i], "index": [2 * i, 2 * i + 1]}, {})

    tokens, labels, index = read_generated(paths)

    assert tokens[:, 0].tolist() == [40_000, 40_000, 40_001, 40_001]
    assert labels.tolist() == [0, 0, 1, 1]
    assert index.tolist() == [0, 1, 2, 3]
    assert tokens.dtype == labels.dtype == index.dtype == torch.int64


def test_values_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "a.safetensors"

    with pytest.raises(ValueError, match="tokens from .* do not fit uint16"):
        write_shard(path, shard(2, tokens=np.full((2, L), 2**16)), {})
    for bad in (np.nan, 1e6):
        with pytest.raises(ValueError, match="latents .* do not fit float16"):
            write_shard(path, shard(2, latents=np.full((2, L, C), bad)), {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_shard_is_named(paths, kept):
    paths[1].write_bytes(paths[1].read_bytes()[:kept])

    with pytest.raises(ValueError, match="shard-1.safetensors: .*(truncated|cut off)"):
        TokenStore(paths)


def test_surplus_bytes_foreign_and_missing_files_are_named(paths):
    paths[0].write_bytes(paths[0].read_bytes() + b"x")
    with pytest.raises(ValueError, match="header promises"):
        open_shard(paths[0])
    paths[0].write_bytes(b"some other file, long enough for a header")
    with pytest.raises(ValueError, match="not a shard of this project"):
        open_shard(paths[0])
    save_file({"tokens": np.zeros(2)}, paths[0])
    with pytest.raises(ValueError, match="not a shard of this project"):
        open_shard(paths[0])
    for metadata in ("[]", "{"):
        save_file({"tokens": np.zeros(2)}, paths[0], metadata={"mixar": metadata})
        with pytest.raises(ValueError, match="shard-0.safetensors: not a shard of this project"):
            open_shard(paths[0])
    with pytest.raises(ValueError, match="nowhere: no such shard"):
        open_shard(paths[0].parent / "nowhere")


def test_missing_keys_and_other_shapes_are_named(paths):
    arrays = shard(2)
    del arrays["tokens_flip"]
    write_shard(paths[0], arrays, {"digest": "abc"})
    with pytest.raises(ValueError, match=r"keys \['tokens_flip'\] are missing; .* run its stage again"):
        TokenStore(paths)
    write_shard(paths[0], shard(2, labels=np.zeros(3)), {"digest": "abc"})
    with pytest.raises(ValueError, match=r"is float16 \[2, 4, 3\]; expected float16 with 3 dimensions and 3 rows"):
        TokenStore(paths)
    save_file({"latents": np.zeros(2)}, paths[0], metadata={"mixar": json.dumps({})})
    with pytest.raises(ValueError, match="keys .* are missing"):
        TokenStore(paths)


def test_shards_of_other_grids_or_settings_do_not_mix(paths):
    write_shard(paths[2], shard(2, grid=9), {"digest": "abc"})
    with pytest.raises(ValueError, match=r"shard-2.*latents has \[9, 3\] per image, the first shard \[4, 3\]"):
        TokenStore(paths)
    write_shard(paths[2], shard(2), {"digest": "other"})
    with pytest.raises(ValueError, match="shard-2.safetensors: made with other settings"):
        TokenStore(paths)
    with pytest.raises(ValueError, match="no shards"):
        TokenStore([])


def test_a_batch_fills_given_buffers_with_what_it_returns_otherwise(paths):
    store = TokenStore(paths)
    indices, flip = [12, 0, 5, 4, 12], [True, False, True, False, False]
    buffers = store.buffers(8)

    filled = store.batch(indices, flip, out=buffers)

    expected = store.batch(indices, flip)
    assert all(torch.equal(filled[key].to(expected[key].dtype), expected[key]) for key in expected)
    assert all(filled[key].data_ptr() == buffers[key].data_ptr() for key in buffers)
    assert filled["x"].dtype == torch.float16


def test_buffers_that_are_too_small_are_refused(paths):
    store = TokenStore(paths)

    with pytest.raises(ValueError, match="buffers for 2 images, asked for 3"):
        store.batch([0, 1, 2], [False] * 3, out=store.buffers(2))
