"""Feature files: what is written is read, and damaged or foreign files are named."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mixar.scoring.files import check_fresh, read_features, write_features
from mixar.storage.files import write_table


@pytest.mark.parametrize(("key", "said"), [("mixar", "result rows, version 2"), ("mixar", "[]"), ("further", "{")])
def test_features_with_a_damaged_header_are_named(tmp_path, key, said):
    path = tmp_path / "a.parquet"
    write_features(path, [0], [0], (torch.zeros(1, 2), torch.zeros(1, 2)), {})
    table = pq.read_table(path)
    write_table(path, table.replace_schema_metadata(table.schema.metadata | {key.encode(): said}))

    with pytest.raises(ValueError, match=f"a.parquet: no features .*'{key}' in its metadata .*; delete it and run `sc"):
        read_features([path])


def written(path, index, further=None, seed=0, psnr=None):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(len(index), 3, generator=generator), torch.randn(len(index), 2, generator=generator)
    header = {"extractor": "toy", "sha256": "0", "protocol": "toy-gfd"}
    write_features(path, index, [i % 2 for i in index], outputs, header, psnr, further=further, images="made of these")
    return outputs


def test_files_merge_by_index_with_all_their_columns(tmp_path):
    extra = {"vgg16": (torch.arange(4.0).view(2, 2), "f" * 64)}
    first = written(tmp_path / "a", [5, 1], extra, seed=1, psnr=[30.0, 20.0])
    second = written(tmp_path / "b", [0, 3], extra, seed=2, psnr=[10.0, 40.0])

    found = read_features([tmp_path / "a", tmp_path / "b"])

    assert found.features.index.tolist() == [0, 1, 3, 5] and found.psnr.tolist() == [10.0, 20.0, 40.0, 30.0]
    assert torch.equal(found.features.features, torch.stack([second[0][0], first[0][1], second[0][1], first[0][0]]))
    assert found.further["vgg16"].features.tolist() == [[0, 1], [2, 3], [2, 3], [0, 1]]
    assert found.header["extractor"] == "toy" and found.further_sha256 == {"vgg16": "f" * 64}
    assert found.images == ("made of these",) * 2


def test_rows_in_several_groups_are_the_same_rows(tmp_path):
    values = torch.randn(7, 3), torch.randn(7, 2)
    write_features(tmp_path / "a", range(7), [0] * 7, values, {}, group_rows=2)

    assert pq.ParquetFile(tmp_path / "a").num_row_groups == 4
    assert torch.equal(read_features([tmp_path / "a"]).features.features, values[0])


def test_missing_cut_off_and_foreign_files_are_named(tmp_path):
    written(tmp_path / "whole", [0])
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-5])
    write_table(tmp_path / "foreign", pa.table({"index": [1]}))

    for name, said in (
        ("gone", "no such features; run `score`"),
        ("cut", "not a complete Parquet file"),
        ("foreign", "expected 'mixar features, version 1' with columns index, label, features, logits"),
    ):
        with pytest.raises(ValueError, match=f"{name}: {said}"):
            read_features([tmp_path / name])


def test_changed_images_make_their_features_stale_and_an_equal_copy_does_not(tmp_path):
    images, path = tmp_path / "images", tmp_path / "features"
    images.write_bytes(b"first")
    write_features(path, [0], [0], (torch.zeros(1, 2), torch.zeros(1, 2)), {}, images=images)

    check_fresh(path, images)
    os.utime(images, (1, 1))
    check_fresh(path, images)
    images.write_bytes(b"other")
    with pytest.raises(ValueError, match="features of images that .*images no longer holds; run `features --images"):
        check_fresh(path, images)
    images.unlink()
    check_fresh(path, images)
