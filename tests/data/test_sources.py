"""Hugging Face Parquet as the Hub holds it: train, validation and test files in one folder, names in the metadata. And
the embedded drawings: split by concept or by designer."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from toy_images import pixels, png

from mixar.data.manifest import count_images, ingest_manifest
from mixar.study.sections import Data

SIZE, EACH = 8, 8
NAMES = ["tench, Tinca tinca", "goldfish"]


def shard(path, seed, labels):
    """Rows {image: {bytes, path}, label}, with the features in the metadata."""
    rows = [{"image": {"bytes": png(image), "path": f"{seed}_{n}.JPEG"}, "label": labels[n % len(labels)]}
            for n, image in enumerate(pixels(EACH, seed, SIZE))]  # fmt: skip
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), path)


def test_one_folder_serves_both_splits_and_a_test_split_without_labels_is_left_alone(tmp_path):
    data = tmp_path / "data"
    for number in range(2):
        shard(data / f"train-0000{number}-of-00002.parquet", number, [0, 1])
    shard(data / "validation-00000-of-00001.parquet", 7, [1, 0])
    shard(data / "test-00000-of-00001.parquet", 8, [-1])
    said = []

    study = Data(source="parquet", path=str(data), held_out_path=str(data), image_size=SIZE, num_classes=2)
    manifest = ingest_manifest(study, said.append)

    assert manifest["split"].to_pylist() == ["train"] * 2 * EACH + ["held_out"] * EACH
    assert manifest["name"].to_pylist()[-EACH:] == [f"7_{n}.JPEG" for n in range(EACH)]
    assert all(NAMES[row["label"]] == row["class_name"] for row in manifest.to_pylist())
    assert "data.held_out_path: skipped" in said[1] and "1 file of the split test" in said[1]


# The embedded drawings


def drawings(**changes):
    return Data(source="drawings", path="resources/drawings-32.parquet", image_size=32, num_classes=9, **changes)


@pytest.fixture(scope="module")
def by_concept():
    return ingest_manifest(drawings())


def column(manifest, name, split):
    return np.array(manifest[name])[np.array(manifest["split"]) == split]


def test_no_concept_is_in_both_splits_and_each_split_has_every_class_and_designer(by_concept):
    train, held_out = (set(column(by_concept, "name", split)) for split in ("train", "held_out"))

    assert len(train) + len(held_out) == 1863 and not train & held_out
    assert abs(len(held_out) / 1863 - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 1863)
    for split in ("train", "held_out"):
        assert len(set(column(by_concept, "designer", split))) == 7
        assert set(column(by_concept, "label", split)) == set(range(9))
    assert set(by_concept["fine_label"].to_pylist()) == set(range(99))


def test_the_drawings_have_the_stated_counts_and_are_counted_without_reading_them(by_concept):
    assert np.bincount(by_concept["label"]).tolist() == [928, 1685, 876, 767, 1381, 495, 1534, 1339, 292]
    assert count_images(drawings()) == {
        split: len(column(by_concept, "name", split)) for split in ("train", "held_out")
    }


def test_a_held_out_designer_has_no_drawing_in_the_training_split():
    held_out = drawings(held_out_designer="Mozilla FxEmoji")

    manifest = ingest_manifest(held_out)

    assert set(column(manifest, "designer", "held_out")) == {"Mozilla FxEmoji"}
    assert len(set(column(manifest, "designer", "train")) - {"Mozilla FxEmoji"}) == 6
    assert count_images(held_out) == {"train": 9297 - 467, "held_out": 467}


def test_a_designer_that_the_drawings_lack_is_refused_with_those_there_are(tmp_path):
    message = "held_out_designer: 'Mozilla' leaves a split empty; the designers are EmojiOne 2, Google Noto, "
    for read in (ingest_manifest, count_images):
        with pytest.raises(ValueError, match=message):
            read(drawings(held_out_designer="Mozilla"))

    table = pq.read_table("resources/drawings-32.parquet").slice(0, 0)
    pq.write_table(table, tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="empty.parquet holds no rows; rebuild it with resources/build_drawings.py"):
        ingest_manifest(drawings().model_copy(update={"path": str(tmp_path / "empty.parquet")}))


def test_only_drawings_have_designers_and_one_key_says_what_is_held_out():
    with pytest.raises(ValidationError, match="source 'emoji' names no designers; use `drawings`, or leave it out"):
        Data(source="emoji", path="x", image_size=32, num_classes=9, held_out_designer="Twitter")
    with pytest.raises(ValidationError, match="`held_out_path` says already which images are held out; keep one"):
        drawings(held_out_designer="Twitter", held_out_path="y")
