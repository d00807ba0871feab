"""`ingest` decodes every image once, keeps the splits apart, and reports what it leaves out."""

import io
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_images import folder, pixels, png

from mixar.data.images import load_images
from mixar.data.manifest import SPLITS, ingest_manifest, read_manifest
from mixar.study.sections import Data

SIZE = 8


def classes(root, names=("cat", "dog"), each=12, seed=0):
    for label, name in enumerate(names):
        folder(root / name, pixels(each, seed + label, SIZE))
    return root


def study(path, **changes):
    values = {"source": "folder", "path": str(path), "image_size": SIZE, "num_classes": 2} | changes
    return Data(**{key: str(value) if key.endswith("path") else value for key, value in values.items()})


def table(path, images, label=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"image": {"bytes": png(image), "path": None}, "label": (label + i) % 2} for i, image in enumerate(images)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def ingested(*arguments, **changes):
    said = []
    return ingest_manifest(study(*arguments, **changes), said.append), said


# Folders


def test_linked_class_folders_and_folders_below_them_are_read(tmp_path):
    classes(tmp_path / "data", ("cat",))
    classes(tmp_path / "elsewhere", ("dog", "more"), seed=9)
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    (tmp_path / "data" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")

    manifest, _ = ingested(tmp_path / "data")

    assert np.bincount(manifest["label"]).tolist() == [24, 12]
    assert manifest["name"].to_pylist()[12] == "more/00000.png"


def test_a_linked_folder_of_parquet_files_is_read(tmp_path):
    table(tmp_path / "data" / "a.parquet", pixels(24, 0, SIZE))
    table(tmp_path / "elsewhere" / "b.parquet", pixels(24, 1, SIZE))
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")

    assert len(ingested(tmp_path / "data", source="parquet")[0]) == 48


def test_a_loop_of_links_is_refused(tmp_path):
    classes(tmp_path)
    (tmp_path / "cat" / "all").symlink_to(tmp_path)

    with pytest.raises(ValueError, match="cat/all: a link to .*, a folder that contains it"):
        ingested(tmp_path)


def test_a_service_folder_is_no_class_and_its_images_do_not_count(tmp_path):
    classes(tmp_path, ("cat", "dog", ".ipynb_checkpoints", "__MACOSX", "@eaDir"))
    shutil.copytree(tmp_path / "dog", tmp_path / "cat" / ".ipynb_checkpoints")
    (tmp_path / "cat" / "._00000.png").write_text("no image")

    manifest, said = ingested(tmp_path)

    assert set(manifest["class_name"].to_pylist()) == {"cat", "dog"} and len(manifest) == 24
    assert "5 hidden or service entries (1 ._*, 2 .ipynb_checkpoints, 1 @eaDir, 1 __MACOSX)" in said[0]


def test_what_is_skipped_is_said_by_suffix(tmp_path):
    classes(tmp_path)
    for name in ("cat/a.bmp", "cat/b.BMP", "dog/a.tif", "dog/a.jfif", "labels.txt", "stray.png"):
        (tmp_path / name).write_text("anything")

    manifest, said = ingested(tmp_path)

    assert len(manifest) == 24
    assert said == [
        f"data.path: skipped in {tmp_path}: 1 image outside of the class folders; "
        "2 .bmp, 1 .jfif, 1 .tif, 1 .txt (not read)"
    ]


def test_a_class_folder_without_images_is_named_with_what_was_found(tmp_path):
    classes(tmp_path, ("cat",))
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "a.bmp").write_text("")

    with pytest.raises(ValueError, match=r"class folder .*dog has no image .*1 \.bmp \(not read\)"):
        ingested(tmp_path)


def test_a_wrong_number_of_classes_is_reported_with_the_classes_before_any_image_is_read(tmp_path):
    classes(tmp_path, ("cat", "dog", "notes"))
    (tmp_path / "cat" / "00000.png").write_text("no image")

    with pytest.raises(ValueError, match=r"data.num_classes: 2, but .* 3 classes .*\(cat, dog, notes\)"):
        ingested(tmp_path)


def test_folders_of_splits_and_parts_of_a_numbered_set_are_no_classes(tmp_path):
    classes(tmp_path / "a" / "train")
    classes(tmp_path / "a" / "val", seed=5)
    with pytest.raises(ValueError, match="are splits, not classes: train, val; give one as data.path"):
        ingested(tmp_path / "a")
    for start in (0, 12):
        (tmp_path / "b" / f"{start:06}").mkdir(parents=True)
        for number, image in enumerate(pixels(12, start, SIZE), start):
            (tmp_path / "b" / f"{start:06}" / f"{number:06}.png").write_bytes(png(image))
    with pytest.raises(ValueError, match=r"\(000000, 000012, …\) are parts of one numbered set, not classes"):
        ingested(tmp_path / "b")


def test_a_name_that_is_not_utf_8_is_named(tmp_path):
    classes(tmp_path)
    os.rename(tmp_path / "cat" / "00003.png", os.path.join(os.fsencode(tmp_path), b"cat", b"\xe9.png"))

    with pytest.raises(ValueError, match=r"cat/\\xe9.png': a name that is not UTF-8"):
        ingested(tmp_path)


# Unreadable images


def damage(root):
    """Three kinds of bad images; what is said of each."""
    whole = (root / "cat" / "00001.png").read_bytes()
    (root / "cat" / "00001.png").write_bytes(whole[: len(whole) // 2])
    (root / "dog" / "00002.png").write_text("no image")
    (root / "dog" / "00003.png").unlink()
    (root / "dog" / "00003.png").symlink_to("gone.png")
    return ("cat/00001.png: not readable", "dog/00002.png: not readable", "dog/00003.png: No such file")


def test_all_unreadable_images_are_listed_at_once(tmp_path):
    problems = damage(classes(tmp_path / "a"))
    damage(classes(tmp_path / "b", seed=5))

    with pytest.raises(ValueError, match="data: 6 of 48 images cannot be used:\n") as caught:
        ingested(tmp_path / "a", held_out_path=tmp_path / "b")

    for problem in problems:
        assert str(caught.value).count(problem) == 2
    assert "data.skip_unreadable: true" in str(caught.value)


def test_unreadable_images_are_left_out_where_the_study_says_so(tmp_path):
    problems, seen = damage(classes(tmp_path)), []

    said = []
    manifest = ingest_manifest(study(tmp_path, skip_unreadable=True), said.append, lambda *done: seen.append(done))

    assert len(manifest) == 21 and len(load_images(manifest, SIZE)) == 21
    assert said[0].startswith("data.skip_unreadable: left out 3 of 24 images:\n")
    assert all(problem in said[0] for problem in problems)
    assert (seen[0], seen[-1]) == ((0, 24), (24, 24))


def test_a_message_names_some_unreadable_images_and_a_file_all_of_them(tmp_path):
    folder(tmp_path / "images" / "cat", pixels(120, 0, SIZE))
    folder(tmp_path / "images" / "dog", pixels(12, 1, SIZE))
    bad = sorted((tmp_path / "images" / "cat").iterdir())[:103]
    for image in bad:
        image.write_bytes(image.read_bytes()[:50])
    file = tmp_path / "unreadable.txt"

    with pytest.raises(ValueError, match="data: 103 of 132 images cannot be used") as caught:
        ingest_manifest(study(tmp_path / "images"), unreadable=file)

    lines = file.read_text().splitlines()
    assert [line.split(":")[0] for line in lines] == [str(image) for image in bad]
    assert str(caught.value).count("not readable") == 100
    assert f"and 3 more\nAll of them: {file}\n" in str(caught.value)

    for image in bad:
        image.unlink()
    ingest_manifest(study(tmp_path / "images"), unreadable=file)
    assert not file.exists()


def test_unreadable_rows_of_parquet_are_listed_and_left_out_alike(tmp_path):
    rows = [{"image": {"bytes": png(i), "path": None}, "label": n % 2} for n, i in enumerate(pixels(24, 0, SIZE))]
    rows[3]["image"] = None
    rows[5]["image"]["bytes"] = rows[5]["image"]["bytes"][:60]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")

    with pytest.raises(ValueError, match="2 of 24 images(.|\n)*row 3: image.bytes is missing(.|\n)*row 5: not read"):
        ingested(tmp_path, source="parquet")
    manifest, _ = ingested(tmp_path, source="parquet", skip_unreadable=True)

    assert sorted(manifest["row"].to_pylist()) == [row for row in range(24) if row not in (3, 5)]
    assert len(load_images(manifest, SIZE)) == 22


def test_a_class_that_loses_all_its_images_is_named(tmp_path):
    classes(tmp_path)
    for file in (tmp_path / "dog").iterdir():
        file.write_text("no image")

    with pytest.raises(ValueError, match="data.path: class 1 has no readable image"):
        ingested(tmp_path, skip_unreadable=True)


# Splits


def test_files_that_both_splits_read_are_refused_whatever_leads_to_them(tmp_path):
    classes(tmp_path / "data" / "all")
    (tmp_path / "val").symlink_to(tmp_path / "data" / "all")
    for held_out in (tmp_path / "data" / "all", tmp_path / "val"):
        with pytest.raises(ValueError, match="data.held_out_path: shares 24 files with data.path"):
            ingested(tmp_path / "data" / "all", held_out_path=held_out)
    table(tmp_path / "p" / "a.parquet", pixels(24, 0, SIZE))
    table(tmp_path / "p" / "b.parquet", pixels(24, 1, SIZE))
    with pytest.raises(ValueError, match="shares 1 file with data.path, such as .*b.parquet"):
        ingested(tmp_path / "p", source="parquet", held_out_path=tmp_path / "p" / "b.parquet")


def test_training_and_validation_files_of_one_folder_stay_apart(tmp_path):
    table(tmp_path / "train-0.parquet", pixels(24, 0, SIZE))
    table(tmp_path / "train-1.parquet", pixels(24, 1, SIZE))
    table(tmp_path / "validation-0.parquet", pixels(12, 2, SIZE))

    for held_out in (tmp_path, tmp_path / "validation-*.parquet"):
        manifest, said = ingested(tmp_path, source="parquet", held_out_path=held_out)
        assert manifest["split"].to_pylist() == ["train"] * 48 + ["held_out"] * 12
    manifest, said = ingested(tmp_path, source="parquet")
    assert len(manifest) == 48
    assert said == [f"data.path: skipped in {tmp_path}: 1 file of the split validation"]


def test_copies_of_training_images_among_the_held_out_ones_are_refused(tmp_path):
    classes(tmp_path / "a")
    classes(tmp_path / "b", seed=5)
    shutil.copy(tmp_path / "a" / "cat" / "00002.png", tmp_path / "b" / "dog" / "copy.png")

    with pytest.raises(ValueError, match="1 of 25 held-out images .*\n.*dog/copy.png and .*cat/00002.png") as caught:
        ingested(tmp_path / "a", held_out_path=tmp_path / "b")

    assert "data.max_overlap: 0.04" in str(caught.value)
    manifest, said = ingested(tmp_path / "a", held_out_path=tmp_path / "b", max_overlap=0.04)
    assert len(manifest) == 49 and said[0].startswith("data.max_overlap: found 1 of 25 held-out images")


def test_copies_in_parquet_are_refused_as_well(tmp_path):
    images = pixels(24, 0, SIZE)
    table(tmp_path / "train.parquet", images)
    table(tmp_path / "test.parquet", images[:4])

    with pytest.raises(ValueError, match="4 of 4 held-out images .*\n.*test.parquet row 0 and .*train.parquet row 0"):
        ingested(tmp_path, source="parquet", held_out_path=tmp_path / "test.parquet")


def test_copies_within_one_source_share_a_split(tmp_path):
    classes(tmp_path, each=40)
    for name in ("cat", "dog"):
        shutil.copytree(tmp_path / name, tmp_path / name / "copies")

    manifest, _ = ingested(tmp_path, held_out_rate=0.5)

    held_out = [set() for _ in range(2)]
    for split, content in zip(manifest["split"].to_pylist(), manifest["content"].to_pylist(), strict=True):
        held_out[split == "held_out"].add(content)
    assert all(held_out) and not held_out[0] & held_out[1]


@pytest.mark.parametrize("held_out", [False, True])
def test_one_image_with_several_labels_is_reported_in_a_line(tmp_path, held_out):
    data = classes(tmp_path / "data", each=30)
    other = classes(tmp_path / "other", each=30, seed=5)
    for number in range(3):
        shutil.copy(data / "cat" / f"{number:05}.png", (other if held_out else data) / "dog" / f"copy{number}.png")
    changes = {"held_out_path": other, "max_overlap": 0.5} if held_out else {}

    _, said = ingested(data, **changes)

    line = next(line for line in said if "several labels" in line)
    copy = (other if held_out else data) / "dog" / "copy0.png"
    examples = f"{data}/cat/00000.png (cat) and {copy} (dog)"
    assert line.startswith(f"data: found 3 images with copies under several labels, such as {examples}; all copies")
    assert "\n" not in line


def test_a_split_that_leaves_a_class_without_training_images_is_refused(tmp_path):
    classes(tmp_path, each=40)
    shutil.rmtree(tmp_path / "dog")
    folder(tmp_path / "dog", pixels(1, 9, SIZE))

    with pytest.raises(ValueError, match=r"data.held_out_rate: 0.9999 leaves class cat without a training image \(it"):
        ingested(tmp_path, held_out_rate=0.9999)


def test_a_limit_that_leaves_a_split_empty_is_named(tmp_path):
    with pytest.raises(ValueError, match="data.limit: the train split has no image among 1"):
        ingested(classes(tmp_path, each=40), limit=1)


# Contents


def test_the_manifest_tells_a_replaced_image(tmp_path):
    before, _ = ingested(classes(tmp_path))
    again, _ = ingested(tmp_path)
    (tmp_path / "dog" / "00004.png").write_bytes(png(pixels(1, 99, SIZE)[0]))
    after, _ = ingested(tmp_path)

    assert before.equals(again)
    different = np.array(before["content"]) != np.array(after["content"])
    assert np.array(before["name"])[different].tolist() == ["00004.png"]


@pytest.mark.parametrize("source", ["folder", "parquet"])
def test_an_image_that_was_replaced_after_ingest_is_refused_where_it_is_read(tmp_path, source):
    path = classes(tmp_path / "d") if source == "folder" else table(tmp_path / "d.parquet", pixels(24, 0, SIZE))
    manifest, _ = ingested(path, source=source)
    if source == "folder":
        (path / "dog" / "00004.png").write_bytes(png(pixels(1, 99, SIZE)[0]))
    else:
        table(path, pixels(24, 99, SIZE))

    with pytest.raises(ValueError, match="the image has changed since `ingest`; run `ingest` again"):
        load_images(manifest, SIZE)


def test_pictures_are_measured_as_people_see_them(tmp_path):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    content = io.BytesIO()
    Image.new("RGB", (20, 10)).save(content, "JPEG", exif=exif)
    (classes(tmp_path) / "cat" / "a.jpg").write_bytes(content.getvalue())

    manifest, _ = ingested(tmp_path)

    row = manifest["name"].to_pylist().index("a.jpg")
    assert (manifest["width"][row].as_py(), manifest["height"][row].as_py()) == (10, 20)


# The file


def test_the_manifest_of_an_earlier_version_is_named_with_what_would_do(tmp_path):
    manifest, _ = ingested(classes(tmp_path / "data"))
    file = tmp_path / "manifest.parquet"
    pq.write_table(manifest, file)
    assert read_manifest(file) == manifest
    for columns in (["label"], ["content", "split"]):
        for split in SPLITS:
            assert read_manifest(file, split, columns) == read_manifest(file, split).select(columns)
        assert read_manifest(file, columns=columns) == manifest.select(columns)

    pq.write_table(manifest.drop_columns(["offset", "size", "designer"]), file)  # as before archives and designers
    assert read_manifest(file) == manifest and read_manifest(file, "train", ["size"]).column_names == ["size"]

    pq.write_table(manifest.drop_columns(["content"]), file)
    with pytest.raises(ValueError, match="manifest.parquet: the manifest of an earlier version, without content; run "):
        read_manifest(file, "train")

    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"manifest.parquet: not a complete Parquet file .*; run `ingest` again"):
        read_manifest(file, "train")
    file.unlink()
    with pytest.raises(ValueError, match="manifest.parquet: no manifest yet; run `ingest` first"):
        read_manifest(file)
