"""Hugging Face Parquet as the Hub holds it: train, validation and test files in one folder, names in the metadata."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
from toy_images import pixels, png

from mixar.data.manifest import ingest_manifest
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
