"""Faults of a token shard: nothing for a whole one, and one line for each thing that is wrong."""

import numpy as np
import pyarrow as pa
import pytest

from mixar.data.shards import write_shard
from mixar.data.verifying import ROWS, shard_faults

COUNT = 6
ROWS_OF_MANIFEST = pa.table(
    {
        "index": pa.array(range(COUNT), pa.int64()),
        "label": pa.array([0, 1, 2] * 2, pa.int32()),
        "split": ["held_out", *["train"] * (COUNT - 1)],
    }
)


def arrays(count=COUNT):
    rng = np.random.default_rng(0)
    return {
        "latents": rng.normal(size=(count, 4, 2)).astype(np.float16),
        "latents_flip": rng.normal(size=(count, 4, 2)).astype(np.float16),
        "tokens": rng.integers(16, size=(count, 4)).astype(np.uint16),
        "tokens_flip": rng.integers(16, size=(count, 4)).astype(np.uint16),
        "labels": np.arange(count, dtype=np.int32) % 3,
        "index": np.arange(count),
        "held_out": (np.arange(count) == 0).astype(np.uint8),
    }


def faults(folder, bits=4, rows=ROWS_OF_MANIFEST, **changes):
    path = folder / "shard.safetensors"
    write_shard(path, arrays() | changes, {"digest": "a"})
    return list(shard_faults(path, rows, {"digest": "a"}, 4, 2, bits))


def test_a_whole_shard_has_no_fault_also_with_sixteen_bits(tmp_path):
    assert faults(tmp_path) == faults(tmp_path, bits=16) == []


def wrong(key, place, value):
    changed = arrays()[key]
    changed[place] = value
    return {key: changed}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (wrong("tokens_flip", (3, 1), 16), "tokens_flip of row 3 reach 16; 4 bits end at 15"),
        (wrong("latents", (2, 0, 1), np.inf), None),  # write_shard refuses it before
        (wrong("labels", 4, 2), "labels differ from the manifest in 1 rows, first in row 4: 2; the manifest has 1"),
        (wrong("held_out", 5, 1), "held_out differ from the manifest in 1 rows, first in row 5: 1; the manifest has 0"),
        (
            {"latents": np.zeros((COUNT, 4, 3), np.float16)},
            "latents [4, 3] and tokens [4] per image; the study has [4, 2] and [4]",
        ),
        (
            {f"{key}_flip": arrays()[key] for key in ("latents", "tokens")},
            "the mirrored half equals the other one in every row",
        ),
    ],
)
def test_each_wrong_value_is_one_line(tmp_path, changes, said):
    if said is None:
        with pytest.raises(ValueError, match="do not fit float16"):
            faults(tmp_path, **changes)
    else:
        assert faults(tmp_path, **changes) == [said]


def test_other_settings_and_another_number_of_images_are_named(tmp_path):
    path = tmp_path / "shard.safetensors"
    write_shard(path, arrays(), {"digest": "b"})

    found = list(shard_faults(path, ROWS_OF_MANIFEST.slice(0, 5), {"digest": "a"}, 4, 2, 4))

    assert found == [
        "digest 'b' in its metadata; the study has 'a'",
        "6 images; its part of the manifest has 5",
    ]


def test_a_missing_file_is_one_fault_without_its_path(tmp_path):
    found = list(shard_faults(tmp_path / "gone", ROWS_OF_MANIFEST, {}, 4, 2, 4))

    assert len(found) == 1 and "no such shard" in found[0] and str(tmp_path) not in found[0]


def test_a_wrong_row_beyond_the_first_piece_is_numbered_in_the_whole_shard(tmp_path):
    count = ROWS + 3
    many = arrays(count)
    many["tokens"][ROWS + 1, 0] = 99
    path = tmp_path / "shard.safetensors"
    write_shard(path, many, {})
    split = np.where(many["held_out"], "held_out", "train")
    rows = pa.table({"index": many["index"], "label": many["labels"], "split": split})

    assert list(shard_faults(path, rows, {}, 4, 2, 4)) == [f"tokens of row {ROWS + 1} reach 99; 4 bits end at 15"]
