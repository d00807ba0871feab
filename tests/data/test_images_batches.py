"""Parquet files of images are written in small row groups and read a few rows at a time.

Arrow refuses arrays of structs with 2 GiB of bytes. `no_chunks` simulates that limit: under it no reader may ask for
a whole file or row group of images at once.
"""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toy_images import pixels, png

from mixar.data.collection import iter_pixels, open_collection
from mixar.data.images import RowReader, iter_images, read_images, write_images
from mixar.data.manifest import count_images, ingest_manifest
from mixar.data.sources import read_source
from mixar.reporting.pictures import read_selected
from mixar.scoring.files import read_features, write_features
from mixar.storage import files
from mixar.storage.listing import source_files
from mixar.study.sections import Data

COUNT = 100


@pytest.fixture
def no_chunks(monkeypatch):
    real = {name: getattr(pq.ParquetFile, name) for name in ("read", "read_row_group", "read_row_groups")}

    def refusing(name):
        def read(self, *args, columns=None, **options):
            if any(pa.types.is_nested(self.schema_arrow.field(c).type) for c in columns or self.schema_arrow.names):
                raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
            return real[name](self, *args, columns=columns, **options)

        return read

    def iterating(self, batch_size=65536, row_groups=None, columns=None, **options):
        assert batch_size <= files.BATCH_ROWS
        return real_iterator(self, batch_size, row_groups, columns, **options)

    real_iterator = pq.ParquetFile.iter_batches
    for name in real:
        monkeypatch.setattr(pq.ParquetFile, name, refusing(name))
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iterating)


@pytest.fixture
def foreign(tmp_path):
    """One row group, images as structs, as the `datasets` library writes them."""
    rows = [{"image": {"bytes": png(image), "path": None}, "label": i % 2} for i, image in enumerate(pixels(COUNT))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=COUNT)
    return tmp_path / "a.parquet"


def test_a_manifest_made_in_the_repository_is_read_from_any_folder(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    drawings = "resources/noto-emoji-32.parquet"
    data = Data(source="emoji", path=drawings, image_size=32, num_classes=9, limit=20)
    rows = ingest_manifest(data)
    here = list(iter_images(rows, 32))
    assert set(rows["file"].to_pylist()) == {drawings}

    monkeypatch.chdir(tmp_path)

    assert np.array_equal(list(iter_images(rows, 32)), here)


def test_one_large_row_group_is_ingested_and_read(no_chunks, foreign):
    data = Data(source="parquet", path=str(foreign), image_size=16, num_classes=2, held_out_rate=0.1)

    manifest = ingest_manifest(data)

    made = {row["row"]: image for row, image in zip(manifest.to_pylist(), iter_images(manifest, 16), strict=True)}
    assert np.array_equal([made[row] for row in range(COUNT)], pixels(COUNT))


def test_one_large_row_group_is_read_for_a_score(no_chunks, foreign):
    collection = open_collection(foreign)

    assert np.array_equal([image for _, image, _ in iter_pixels(collection, 0, COUNT)], pixels(COUNT))
    assert collection.labels.tolist() == [0, 1] * (COUNT // 2)


@pytest.mark.parametrize("group_rows", [1, 7, 40, COUNT])
def test_rows_are_found_in_any_order(foreign, group_rows):
    pq.write_table(pq.read_table(foreign), foreign, row_group_size=group_rows)
    reader, order = RowReader(), [5, 6, 99, 0, 41, 40, 41, 41, 39, 98, 98, 7, *range(COUNT)]

    found = [reader.encoded(str(foreign), row) for row in order]

    assert found == [png(pixels(COUNT)[row]) for row in order]


def test_drawn_images_are_written_in_small_row_groups_and_read_again(no_chunks, tmp_path):
    path, images, psnr = tmp_path / "a.parquet", pixels(COUNT), np.linspace(20, 30, COUNT)

    write_images(path, np.arange(COUNT), np.arange(COUNT) % 7, images, {"psnr": psnr}, group_bytes=30 * 16 * 16 * 3)

    parquet = pq.ParquetFile(path)
    assert [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)] == [30, 30, 30, 10]
    index, labels, found = read_images(path)
    assert np.array_equal(index, np.arange(COUNT)) and np.array_equal(labels, np.arange(COUNT) % 7)
    assert np.array_equal(found, images) and np.array_equal(parquet.read(columns=["psnr"])["psnr"], psnr)
    assert parquet.schema_arrow.names == ["index", "label", "image", "psnr"]
    assert np.array_equal(read_selected([path], [99, 3]), images[[99, 3]])


def test_batches_shrink_where_rows_are_large(foreign):
    parquet = pq.ParquetFile(foreign)
    room = 3.5 * parquet.metadata.row_group(0).total_byte_size / COUNT

    batches = files.iter_batches(parquet, foreign, ["image"], batch_bytes=room)

    assert {len(batch) for batch in batches} == {3, 1}


def test_features_are_written_in_small_row_groups_and_read_again(no_chunks, tmp_path):
    features, logits = torch.randn(COUNT, 8), torch.randn(COUNT, 3)
    header = {"extractor": "toy", "sha256": "", "protocol": "toy"}

    keys = np.arange(COUNT), np.zeros(COUNT)
    write_features(tmp_path / "a.parquet", *keys, (features, logits), header, group_rows=40)

    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3
    found = read_features([tmp_path / "a.parquet"])
    assert torch.equal(found.features.features, features) and torch.equal(found.features.logits, logits)
    assert found.header["extractor"] == "toy"


def test_a_file_damaged_within_is_refused_by_name(foreign):
    content = bytearray(foreign.read_bytes())
    content[100 : len(content) // 2] = bytes(len(content) // 2 - 100)
    foreign.write_bytes(content)
    data = Data(source="parquet", path=str(foreign), image_size=16, num_classes=2)

    for read in (lambda: ingest_manifest(data), lambda: list(iter_pixels(open_collection(foreign), 0, COUNT))):
        with pytest.raises(ValueError, match="a.parquet"):
            read()


def test_texts_of_a_manifest_may_have_more_than_two_gibibytes(foreign):
    manifest = ingest_manifest(Data(source="parquet", path=str(foreign), image_size=16, num_classes=2))

    assert not [name for name in manifest.schema.names if manifest.schema.field(name).type == pa.string()]


# Labels of a source


UNFIT = {
    "strings": (["cat", "dog"], "label 'cat'; expected the number of a class"),
    "floats": ([0.0, 1.0], "label 0.0; expected"),
    "booleans": ([False, True], "label False; expected"),
    "lists": ([[0], [1]], r"label \[0\]; expected"),
    "gaps": ([None, 1], "label None names no class"),
    "negative": ([-1, 1], "label -1 names no class"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_labels_of_a_source_that_number_no_class_are_refused(case, tmp_path):
    labels, message = UNFIT[case]
    table = pa.table({"image": [{"bytes": png(image)} for image in pixels(2)], "label": labels})
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(ValueError, match=f"a.parquet row 0: {message}"):
        ingest_manifest(Data(source="parquet", path=str(tmp_path), image_size=16, num_classes=2))


@pytest.mark.parametrize(
    ("labels", "num_classes", "said"),
    [
        ([1, 2], 2, "data.path: .* holds 2 classes with labels 1 to 2, but none with 0; number them from 0 without"),
        ([0, 2], 3, "holds 2 classes with labels 0 to 2, but none with 1; number them .* or give the images of all"),
        ([2**40, 2**40], 2, "holds 1 class with labels 1099511627776 to 1099511627776, but none with 0"),
        ([0, 1], 3, "data.num_classes: 3, but .* holds 2 classes with labels 0 to 1"),
    ],
)
def test_labels_with_gaps_are_told_from_a_wrong_number_of_classes(tmp_path, labels, num_classes, said):
    table = pa.table({"image": [{"bytes": png(image)} for image in pixels(2)], "label": labels})
    pq.write_table(table, tmp_path / "a.parquet")

    with pytest.raises(ValueError, match=said):
        count_images(Data(source="parquet", path=str(tmp_path), image_size=16, num_classes=num_classes))


def test_labels_too_large_for_any_study_are_refused(tmp_path):
    table = pa.table({"image": [{"bytes": png(image)} for image in pixels(2)], "label": [0, 2**40]})
    pq.write_table(table, tmp_path / "a.parquet")

    said = "holds 2 classes with labels 0 to 1099511627776, but none with 1; number them from 0 without gaps"
    with pytest.raises(ValueError, match=said):
        ingest_manifest(Data(source="parquet", path=str(tmp_path), image_size=16, num_classes=2))


@pytest.mark.parametrize("content", [[], {}, {"info": None}, {"info": {"features": {"label": []}}}, "no JSON"])
def test_metadata_without_class_names_do_not_stop_the_ingest(content, tmp_path):
    text = content if content == "no JSON" else json.dumps(content)
    table = pa.table({"image": [{"bytes": png(i)} for i in pixels(24)], "label": [0, 1] * 12})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), tmp_path / "a.parquet")

    manifest = ingest_manifest(
        Data(source="parquet", path=str(tmp_path), image_size=16, num_classes=2, held_out_rate=0.3)
    )

    assert set(manifest["class_name"].to_pylist()) == {"0", "1"}


@pytest.mark.parametrize("content", ["text", [1, 2], 3, None])
def test_images_of_a_source_that_are_no_bytes_are_refused(content, tmp_path):
    pq.write_table(pa.table({"image": [{"bytes": content}] * 2, "label": [0, 1]}), tmp_path / "a.parquet")

    with pytest.raises(ValueError, match="a.parquet: column 'image' is struct<.*>; expected a struct with binary"):
        ingest_manifest(Data(source="parquet", path=str(tmp_path), image_size=16, num_classes=2))


def struct_table(file, path_type, paths, **columns):
    """Two images with these paths, which Arrow takes as they are, UTF-8 or not."""
    paths = pa.array(paths, pa.binary()).view(pa.string()) if path_type == "bad text" else pa.array(paths, path_type)
    image = pa.StructArray.from_arrays([pa.array(map(png, pixels(2))), paths], ["bytes", "path"])
    table = pa.table({"image": image, "label": [0, 1], **columns})
    pq.write_table(table, file)
    return Data(source="parquet", path=str(file), image_size=16, num_classes=2)


@pytest.mark.parametrize(
    ("path_type", "paths", "said"),
    [
        (pa.int64(), [1, 2], "a.parquet: image.path is int64; expected text, or leave it out"),
        (pa.struct([("a", pa.int8())]), [{"a": 1}] * 2, "a.parquet: image.path is struct<a: int8>; expected text"),
        (pa.binary(), [b"a", b"b"], "a.parquet: image.path is binary; expected text"),
    ],
)
def test_paths_that_are_no_text_are_refused_before_any_image_is_read(tmp_path, path_type, paths, said):
    data = struct_table(tmp_path / "a.parquet", path_type, paths)

    for read in (ingest_manifest, count_images):
        with pytest.raises(ValueError, match=said):
            read(data)


def test_a_path_that_is_not_utf_8_is_named_with_its_row(tmp_path):
    data = struct_table(tmp_path / "a.parquet", "bad text", [b"a.png", b"\xff.png"])

    with pytest.raises(ValueError, match=r"a.parquet row 1: image.path is not UTF-8 \(b'\\xff.png'\); write it as"):
        ingest_manifest(data)

    collection = open_collection(tmp_path / "a.parquet")
    assert np.array_equal([image for _, image, _ in iter_pixels(collection, 0, 2)], pixels(2))  # needs no paths


@pytest.mark.parametrize("path_type", [pa.null(), pa.dictionary(pa.int8(), pa.string()), pa.large_string()])
def test_paths_may_be_missing_or_any_text(tmp_path, path_type):
    data = struct_table(tmp_path / "a.parquet", path_type, [None, None if path_type == pa.null() else "b.png"])

    listing = source_files("parquet", data.path, "data.path", "train")
    names = [original.name for original, _ in read_source("parquet", listing, "data.path").items]

    assert names == ["a.parquet:0", "a.parquet:1" if path_type == pa.null() else "b.png"]


def test_a_text_that_is_not_utf_8_is_no_label_and_no_image(tmp_path):
    text = pa.array([b"\xff", b"\xfe"], pa.binary()).view(pa.string())
    image = pa.array([{"bytes": png(image)} for image in pixels(2)])
    pq.write_table(pa.table({"image": image, "label": text}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet: column 'label' is string .*; expected the numbers of classes"):
        ingest_manifest(Data(source="parquet", path=str(tmp_path), image_size=16, num_classes=2))

    pq.write_table(pa.table({"image": text}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet row 0: image.bytes is missing"):
        list(iter_pixels(open_collection(tmp_path), 0, 2))


@pytest.mark.parametrize("column", ["image", "label", "index"])
def test_two_columns_of_one_name_are_refused(tmp_path, column):
    columns = {"image": pa.array([{"bytes": png(i)} for i in pixels(2)]), "label": pa.array([0, 1])}
    columns["index"] = columns["label"]
    names = [*columns, column]
    pq.write_table(pa.Table.from_arrays([columns[name] for name in names], names), tmp_path / "a.parquet")

    with pytest.raises(ValueError, match=f"a.parquet: 2 columns are named '{column}'; keep one of them"):
        open_collection(tmp_path)
    if column != "index":
        with pytest.raises(ValueError, match=f"a.parquet: 2 columns are named '{column}'; keep one of them"):
            count_images(Data(source="parquet", path=str(tmp_path), image_size=16, num_classes=2))


def test_a_mistyped_number_of_classes_is_refused_without_filling_the_memory(foreign):
    with pytest.raises(ValueError, match="data.num_classes: 1000000000, but .* holds 2 classes"):
        ingest_manifest(Data(source="parquet", path=str(foreign), image_size=16, num_classes=10**9))
