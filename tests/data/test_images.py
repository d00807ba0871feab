import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from mixar.data.images import (
    ROUNDINGS,
    augment,
    centre_crop,
    images_to_unit,
    iter_images,
    load_images,
    read_images,
    unit_to_uint8,
    write_images,
)
from mixar.data.manifest import count_smaller, ingest_manifest
from mixar.scoring.protocols import PROTOCOLS
from mixar.study.sections import Data

EMOJI = "resources/noto-emoji-32.parquet"


def emoji(**changes):
    return Data(source="emoji", path=EMOJI, image_size=32, num_classes=9, **changes)


@pytest.fixture(scope="module")
def emoji_manifest():
    return ingest_manifest(emoji())


def picture(seed, width=20, height=16, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def class_folders(root, classes=("cat", "dog"), each=12, first=0):
    """Folders of random images; other numbers `first` give other images."""
    for c, name in enumerate(classes, first):
        (root / name).mkdir(parents=True)
        for i in range(each):
            picture(100 * c + i).save(root / name / f"{i:02d}.{('png', 'webp')[i % 2]}")
    return root


def folder(path, **changes):
    return Data(**{"source": "folder", "path": str(path), "image_size": 8, "num_classes": 2} | changes)


def hugging_face(path, order=range(24), names=("cat", "dog"), row_group_size=5):
    rows = [{"image": {"bytes": png(picture(i)), "path": f"{i}.png"}, "label": i % 2} for i in order]
    table = pa.Table.from_pylist(rows)
    if names:
        content = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(content)})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def parquet(path, **changes):
    return Data(**{"source": "parquet", "path": str(path), "image_size": 8, "num_classes": 2} | changes)


# Sources


def test_emoji_without_skin_tones_and_duplicates_have_the_stated_counts(emoji_manifest):
    counts = np.bincount(emoji_manifest["label"].to_numpy())

    assert counts.tolist() == [166, 362, 152, 133, 218, 85, 261, 223, 261]
    assert len(set(emoji_manifest["fine_name"].to_pylist())) == 99
    assert set(emoji_manifest["fine_label"].to_pylist()) == set(range(99))


def test_a_folder_takes_its_classes_in_the_order_of_their_names(tmp_path):
    manifest = ingest_manifest(folder(class_folders(tmp_path, ("zebra", "ant"))))

    assert set(zip(*(manifest[k].to_pylist() for k in ("label", "class_name")), strict=True)) == {
        (0, "ant"),
        (1, "zebra"),
    }
    assert manifest["index"].to_pylist() == list(range(24))
    assert set(manifest["row"].to_pylist()) == {-1}


def test_parquet_reads_class_names_from_its_schema(tmp_path):
    manifest = ingest_manifest(parquet(hugging_face(tmp_path / "a.parquet")))

    assert manifest["class_name"].to_pylist()[:3] == ["cat", "dog", "cat"]
    assert manifest["name"].to_pylist()[:2] == ["0.png", "1.png"]


def test_a_folder_of_parquet_files_and_a_pattern_read_all_training_files(tmp_path):
    hugging_face(tmp_path / "train-0.parquet", range(12))
    hugging_face(tmp_path / "train-1.parquet", range(12, 24), names=None)
    hugging_face(tmp_path / "test-0.parquet", range(24, 28))

    assert len(ingest_manifest(parquet(tmp_path))) == 24, "the training files alone"
    assert len(ingest_manifest(parquet(tmp_path / "train-*.parquet"))) == 24


# Split


def test_the_split_holds_out_about_the_asked_share(emoji_manifest):
    held_out = np.array(emoji_manifest["split"]) == "held_out"

    assert abs(held_out.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / len(held_out))
    assert set(np.array(emoji_manifest["label"])[held_out]) == set(range(9))


def test_an_image_stays_in_its_split_whatever_else_is_there(tmp_path):
    hugging_face(tmp_path / "all.parquet", range(24))
    hugging_face(tmp_path / "reversed.parquet", reversed(range(4, 24)))

    def splits(name):
        manifest = ingest_manifest(parquet(tmp_path / name, held_out_rate=0.5))
        return dict(zip(manifest["name"].to_pylist(), manifest["split"].to_pylist(), strict=True))

    everything = splits("all.parquet")
    assert all(everything[name] == split for name, split in splits("reversed.parquet").items())


def test_a_second_source_is_the_held_out_split(tmp_path):
    data = folder(class_folders(tmp_path / "a"), held_out_path=str(class_folders(tmp_path / "b", each=3, first=2)))

    assert ingest_manifest(data)["split"].to_pylist() == ["train"] * 24 + ["held_out"] * 6


def test_an_asset_is_looked_for_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXAR_ASSETS", str(tmp_path))
    study = {"source": "folder", "image_size": 16, "num_classes": 1000, "path": "asset:imagenet-train"}
    with pytest.raises(ValueError, match="asset 'imagenet-train' is missing"):
        ingest_manifest(Data(**study))

    names = [f"n{number:08}" for number in range(1000)]
    class_folders(tmp_path / "imagenet" / "train", names, each=1)
    class_folders(tmp_path / "imagenet" / "val", names, each=1, first=1000)
    manifest = ingest_manifest(Data(**study, held_out_path="asset:imagenet-val"))

    assert manifest["split"].value_counts().to_pylist() == [
        {"values": "train", "counts": 1000},
        {"values": "held_out", "counts": 1000},
    ]


def test_a_limit_keeps_every_class_in_both_splits():
    manifest = ingest_manifest(emoji(limit=60))

    assert manifest["index"].to_pylist() == list(range(60))
    for split, count in (("train", 48), ("held_out", 12)):
        rows = np.array(manifest["label"])[np.array(manifest["split"]) == split]
        assert len(rows) == count
        assert set(rows) == set(range(9))
        assert np.ptp(np.bincount(rows)) <= 1


# Bad input


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="data.path: .*nowhere"):
        ingest_manifest(folder(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="has no class folders"):
        ingest_manifest(folder(tmp_path))
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="cat has no image"):
        ingest_manifest(folder(tmp_path))
    with pytest.raises(ValueError, match="no Parquet file"):
        ingest_manifest(parquet(tmp_path))


def test_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data.num_classes: 3, but .* holds 2 classes"):
        ingest_manifest(folder(class_folders(tmp_path), num_classes=3))


def test_other_classes_in_the_held_out_source_are_refused(tmp_path):
    extra = class_folders(tmp_path / "b", ("cat", "eel"))

    with pytest.raises(ValueError, match="data.held_out_path: .*'eel'"):
        ingest_manifest(folder(class_folders(tmp_path / "a"), held_out_path=str(extra)))


def test_an_image_that_changes_after_ingest_is_named_when_it_is_read(tmp_path):
    root = class_folders(tmp_path)
    manifest = ingest_manifest(folder(root))
    (root / "cat" / "00.png").write_text("no image")

    with pytest.raises(ValueError, match="00.png: not readable"):
        load_images(manifest, 8)


def test_a_truncated_parquet_and_missing_columns_are_named(tmp_path):
    path = hugging_face(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="a.parquet: not a complete Parquet file"):
        ingest_manifest(parquet(path))
    pq.write_table(pa.table({"picture": [1]}), path)
    with pytest.raises(ValueError, match="columns .*image.*label.* are missing"):
        ingest_manifest(parquet(path))


def test_parquet_rows_without_label_or_bytes_are_named(tmp_path):
    for row, problem in (
        ({"image": {"bytes": png(picture(0)), "path": None}, "label": -1}, "row 0: label -1"),
        ({"image": {"bytes": None, "path": "a.png"}, "label": 0}, "row 0: image.bytes is missing"),
    ):
        good = {"image": {"bytes": png(picture(1)), "path": None}, "label": 1}
        pq.write_table(pa.Table.from_pylist([row, good]), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=problem):
            ingest_manifest(parquet(tmp_path / "a.parquet"))


def test_emoji_of_mixed_or_too_small_sizes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="data.image_size: 64 pixels"):
        ingest_manifest(emoji().model_copy(update={"image_size": 64}))
    table = pq.read_table(EMOJI)
    images = table["image"].to_pylist()
    images[3] = png(picture(0, 30, 30))
    pq.write_table(table.set_column(0, "image", pa.array(images)), tmp_path / "mixed.parquet")
    with pytest.raises(ValueError, match=r"one square size, found \[\(30, 30\), \(32, 32\)\]"):
        ingest_manifest(emoji().model_copy(update={"path": str(tmp_path / "mixed.parquet")}))


def test_an_empty_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the held_out split has no image"):
        ingest_manifest(folder(class_folders(tmp_path), held_out_rate=1e-9))


# Pixels


def test_an_image_of_the_right_size_passes_the_crop_unchanged():
    image = picture(1, 8, 8)

    assert np.array_equal(centre_crop(image, 8), np.asarray(image))


def test_grey_images_become_three_equal_channels():
    cropped = centre_crop(picture(1, mode="L"), 8)

    assert cropped.shape == (8, 8, 3)
    assert np.array_equal(cropped[..., 0], cropped[..., 2])


def test_small_images_are_counted_and_enlarged(tmp_path):
    manifest = ingest_manifest(folder(class_folders(tmp_path), image_size=17))

    assert count_smaller(manifest, 17) == 24
    assert count_smaller(manifest, 16) == 0
    assert next(iter_images(manifest, 17)).shape == (17, 17, 3)


def test_rows_come_in_the_order_asked_for_across_row_groups_and_files(tmp_path):
    hugging_face(tmp_path / "a.parquet", range(12))
    hugging_face(tmp_path / "b.parquet", range(12, 24))
    manifest = ingest_manifest(parquet(tmp_path))
    order = [23, 0, 7, 12, 6, 5]

    images = list(iter_images(manifest.take(order), 16))

    for seed, image in zip(order, images, strict=True):
        assert np.array_equal(image, centre_crop(picture(seed), 16))


def test_uint8_survives_the_round_trip_through_unit_range():
    levels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 16, 16, 3)

    assert torch.equal(unit_to_uint8(images_to_unit(levels)), levels)


@pytest.mark.parametrize(
    ("rounding", "expected"),
    [
        ("half-even", [0, 0, 2, 0, 3, 255, 255]),
        ("half-up", [0, 1, 2, 0, 3, 255, 255]),
        ("down", [0, 0, 1, 0, 2, 254, 255]),
    ],
)
def test_unit_values_are_clamped_and_rounded_as_their_project_does(rounding, expected):
    levels = torch.tensor([-1.0, 0.5, 1.5, 0.4, 2.6, 254.9, 300.0], dtype=torch.float64)
    values = (levels / 255).view(1, 1, 1, 7).expand(1, 3, 1, 7)

    assert unit_to_uint8(values, rounding)[0, 0, :, 0].tolist() == expected


def test_images_are_rounded_half_to_even_by_default():
    values = torch.tensor([0.5 / 255, 1.5 / 255]).view(1, 1, 1, 2).expand(1, 3, 1, 2)

    assert unit_to_uint8(values)[0, 0, :, 0].tolist() == [0, 2]


@pytest.mark.parametrize(("max_shift", "reach"), [(None, 2), (0, 0), (1, 1)])
def test_training_images_move_by_so_many_pixels_at_most_and_are_mirrored(max_shift, reach):
    images = torch.zeros(400, 16, 16, 3, dtype=torch.uint8)
    images[:, 8, 5] = 255

    moved = augment(images, torch.Generator().manual_seed(0), torch.device("cpu"), max_shift)

    rows, columns = moved[:, 0].nonzero()[:, 1:].unique(dim=0).T
    assert set(rows.tolist()) == set(range(8 - reach, 9 + reach))
    assert set(columns.tolist()) == {c + move for c in (5, 10) for move in range(-reach, reach + 1)}


def test_every_protocol_names_a_rounding():
    assert {protocol.rounding for protocol in PROTOCOLS.values()} <= ROUNDINGS.keys()


def test_written_images_come_back_and_nothing_else_is_left_behind(tmp_path):
    images = np.stack([np.asarray(picture(i, 8, 8)) for i in range(3)])
    path = tmp_path / "deep" / "shard.parquet"

    write_images(path, [4, 5, 6], [0, 1, 0], torch.from_numpy(images), {"psnr": [1.0, 2.0, 3.0]})
    index, labels, found = read_images(path)

    assert index.tolist() == [4, 5, 6]
    assert labels.tolist() == [0, 1, 0]
    assert np.array_equal(found, images)
    assert pq.read_table(path)["psnr"].to_pylist() == [1.0, 2.0, 3.0]
    assert os.listdir(path.parent) == ["shard.parquet"]
