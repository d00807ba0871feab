"""ILSVRC as downloaded: every layout of the same images gives the same manifest, in the order of released networks."""

import io
import shutil
import tarfile

import numpy as np
import pytest
from scipy.io import savemat
from toy_images import pixels, png

from mixar.data.images import load_images
from mixar.data.manifest import count_images, images_sha256, ingest_manifest
from mixar.study.sections import Data

SIZE, EACH = 8, 6
SYNSETS = ["n01440764", "n02084071", "n07930864"]  # sorted: as released networks number them
IDS = {"n01440764": 3, "n02084071": 1, "n07930864": 2}  # the devkit's own numbers
TRUTH = ["n07930864", "n01440764", "n01440764", "n02084071"]  # of the validation images, in order


def training_images():
    images = pixels(EACH * len(SYNSETS), 0, SIZE)
    return {(s, f"{s}_{10 * i}.JPEG"): png(images[EACH * n + i]) for n, s in enumerate(SYNSETS) for i in range(EACH)}


def validation_images():
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(TRUTH) + 1)]
    return dict(zip(names, map(png, pixels(len(TRUTH), 9, SIZE)), strict=True))


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tar(files):
    """A tar of these members, out of order, as ILSVRC's are."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in reversed(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def class_tars():
    images = training_images()
    return {f"{s}.tar": tar({name: data for (of, name), data in images.items() if of == s}) for s in SYNSETS}


def class_folders(root):
    return write(root, {f"{synset}/{name}": data for (synset, name), data in training_images().items()})


def devkit(root, ids=IDS, truth=TRUTH):
    """Leaves of the synset tree with their numbers, then a group of them, as in meta.mat."""
    rows = [(number, synset, 0) for synset, number in sorted(ids.items(), key=lambda pair: pair[1])]
    rows.append((len(ids) + 1, "n00001740", len(ids)))
    types = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    (root / "data").mkdir(parents=True, exist_ok=True)
    savemat(root / "data" / "meta.mat", {"synsets": np.array(rows, types)})
    text = "\n".join(str(ids[synset]) for synset in truth) + "\n"
    (root / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text(text)
    return root


def kaggle(root):
    lines = [f"ILSVRC2012_val_{i:08d},{s} 1 2 3 4 {s} 5 6 7 8 " for i, s in enumerate(TRUTH, 1)]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(lines)]))
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{s} some, words\n" for s in SYNSETS))
    return root


def unpacked(root):
    return class_folders(root / "train"), write(root / "val", validation_images()), devkit(root / "devkit")


def tar_of_class_tars(root):
    archives = {"ILSVRC2012_img_train.tar": tar(class_tars()), "ILSVRC2012_img_val.tar": tar(validation_images())}
    write(root, archives)
    devkit(root / "ILSVRC2012_devkit_t12")
    with tarfile.open(root / "devkit.tar.gz", "w:gz") as archive:
        archive.add(root / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    return *(root / name for name in archives), root / "devkit.tar.gz"


def folder_of_class_tars(root):
    return write(root / "train", class_tars()), write(root / "val", validation_images()), devkit(root / "devkit")


def half_unpacked(root):
    paths = unpacked(root)
    shutil.rmtree(root / "train" / SYNSETS[1])
    (root / "train" / f"{SYNSETS[1]}.tar").write_bytes(class_tars()[f"{SYNSETS[1]}.tar"])
    return paths


def kaggle_download(root):
    images = root / "ILSVRC" / "Data" / "CLS-LOC"
    write(images / "test", {"ILSVRC2012_test_00000001.JPEG": png(pixels(1, 5, SIZE)[0])})
    return class_folders(images / "train"), write(images / "val", validation_images()), kaggle(root)


def kaggle_file(root):
    return *kaggle_download(root)[:2], root / "LOC_val_solution.csv"


def sorted_validation(root):
    placed = {f"{s}/{name}": data for s, (name, data) in zip(TRUTH, validation_images().items(), strict=True)}
    return class_folders(root / "train"), write(root / "val", placed), None


LAYOUTS = (unpacked, tar_of_class_tars, folder_of_class_tars, half_unpacked, kaggle_download, kaggle_file,
           sorted_validation)  # fmt: skip


def study(train, val=None, labels=None, **changes):
    paths = {"path": train, "held_out_path": val, "held_out_labels": labels}
    values = {key: str(path) for key, path in paths.items() if path is not None}
    return Data(source="ilsvrc", image_size=SIZE, num_classes=3, **values | changes)


def ingested(*paths, **changes):
    said = []
    return ingest_manifest(study(*paths, **changes), said.append), said


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_labels_are_positions_in_the_sorted_synset_ids(tmp_path, layout):
    manifest, _ = ingested(*layout(tmp_path))

    rows = manifest.to_pylist()
    assert all(SYNSETS[row["label"]] == row["class_name"] for row in rows)
    train = [(row["class_name"], row["name"]) for row in rows if row["split"] == "train"]
    assert train == sorted(training_images())
    held_out = {row["name"]: row["class_name"] for row in rows if row["split"] == "held_out"}
    assert held_out == dict(zip(validation_images(), TRUTH, strict=True))
    assert [row["label"] for row in rows if row["split"] == "held_out"] == [0, 0, 1, 2]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_images_that_sorted_folders_give(tmp_path, layout):
    train, val, _ = sorted_validation(tmp_path / "sorted")
    data = Data(source="folder", path=str(train), held_out_path=str(val), image_size=SIZE, num_classes=3)
    plain = ingest_manifest(data)

    paths = layout(tmp_path / "other")
    manifest, _ = ingested(*paths)

    assert images_sha256(manifest) == images_sha256(plain)
    assert np.array_equal(load_images(manifest, SIZE), load_images(plain, SIZE))
    assert count_images(study(*paths)) == {"train": 18, "held_out": 4}


def test_a_split_by_hash_is_the_same_for_folders_and_archives(tmp_path):
    folders, _ = ingested(unpacked(tmp_path / "a")[0], held_out_rate=0.3)
    archive, _ = ingested(tar_of_class_tars(tmp_path / "b")[0], held_out_rate=0.3)

    assert images_sha256(folders) == images_sha256(archive)


def test_images_of_archives_are_addressed_by_their_bytes(tmp_path):
    train, *others = tar_of_class_tars(tmp_path)

    manifest, _ = ingested(train, *others)

    for row in manifest.filter(np.array(manifest["split"]) == "train").to_pylist():
        content = train.read_bytes()[row["offset"] : row["offset"] + row["size"]]
        assert (row["file"], row["row"]) == (str(train), -1)
        assert content == training_images()[row["class_name"], row["name"]]


def test_unreadable_members_are_all_listed_with_their_archive(tmp_path):
    train, val, labels = folder_of_class_tars(tmp_path)
    unreadable = {"n01440764_1.JPEG": b"no image", "n01440764_2.JPEG": b"nor this"}
    readable = {"n01440764_0.JPEG": training_images()[SYNSETS[0], "n01440764_0.JPEG"]}
    (train / "n01440764.tar").write_bytes(tar(unreadable | readable))

    with pytest.raises(ValueError, match="2 of 19 images cannot be used") as caught:
        ingested(train, val, labels)

    for name in unreadable:
        assert f"{train}/n01440764.tar member {name}: not readable as an image" in str(caught.value)


def remove(path, name):
    (path / name).unlink()


def put(path, name, content=b"x"):
    write(path, {name: content})


FAULTS = {
    "no labels": (lambda t, v, d: shutil.rmtree(d), "data.held_out_labels: .*devkit is no devkit"),
    "no ground truth": (
        lambda t, v, d: remove(d, "data/ILSVRC2012_validation_ground_truth.txt"),
        "has no data/ILSVRC2012_validation_ground_truth.txt and no LOC_val_solution.csv; give the folder ILSVRC",
    ),
    "no mapping": (lambda t, v, d: remove(d, "data/meta.mat"), "devkit has no data/meta.mat"),
    "damaged mapping": (lambda t, v, d: put(d, "data/meta.mat"), "data/meta.mat in .*devkit cannot be read"),
    "mapping with a gap": (lambda t, v, d: devkit(d, IDS | {SYNSETS[0]: 7}), "does not number its 3 classes from 1"),
    "foreign ground truth": (
        lambda t, v, d: put(d, "data/ILSVRC2012_validation_ground_truth.txt", b"1\n4\n1\n1"),
        "line 2 of data/ILSVRC2012_validation_ground_truth.txt in .* is '4'; expected the number of a class, 1 to 3",
    ),
    "too few images": (
        lambda t, v, d: remove(v, "ILSVRC2012_val_00000002.JPEG"),
        "val has 3 images, but .*devkit labels 4; missing: ILSVRC2012_val_00000002; unpack the archive again",
    ),
    "too many images": (
        lambda t, v, d: put(v, "ILSVRC2012_val_00000005.JPEG"),
        "ILSVRC2012_val_00000005.JPEG in .*val has no label in .*devkit",
    ),
    "an image twice": (lambda t, v, d: put(v, "ILSVRC2012_val_00000002.png"), "00000002.JPEG and .*00000002.png"),
    "an unknown synset": (
        lambda t, v, d: put(t, "n09999999/a.JPEG"),
        "data.path: .*train has n09999999, which is none of the 3 synsets of .*devkit",
    ),
    "a class missing": (
        lambda t, v, d: shutil.rmtree(t / SYNSETS[1]),
        f"data.path: .*train has no image of 1 class, such as {SYNSETS[1]}, of the 3 of .*devkit; download them again",
    ),
    "an empty class": (
        lambda t, v, d: [file.unlink() for file in (t / SYNSETS[1]).iterdir()],
        f"class folder .*train/{SYNSETS[1]} has no image .*; unpack its archive again",
    ),
    "a class twice": (
        lambda t, v, d: put(t, f"{SYNSETS[0]}.tar", class_tars()[f"{SYNSETS[0]}.tar"]),
        f"has class {SYNSETS[0]} twice, in {SYNSETS[0]} and {SYNSETS[0]}.tar; remove one",
    ),
    "an archive that is cut off": (
        lambda t, v, d: put(t, "n09999999.tar", class_tars()[f"{SYNSETS[0]}.tar"][:1000]),
        "n09999999.tar: not a whole tar archive",
    ),
    "a compressed archive": (
        lambda t, v, d: put(t, "n09999999.tar", b"\x1f\x8b" + bytes(600)),
        "n09999999.tar: not a whole tar archive .*; copy or download it again, and unpack a compressed one",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_data_that_do_not_fit_are_named_before_any_image_is_read(tmp_path, fault):
    paths = unpacked(tmp_path)
    (paths[0] / SYNSETS[0] / f"{SYNSETS[0]}_0.JPEG").write_text("no image")
    spoil, message = FAULTS[fault]
    spoil(*paths)

    for read in (ingest_manifest, count_images):
        with pytest.raises(ValueError, match=message):
            read(study(*paths))


def test_kaggle_files_that_do_not_fit_are_named(tmp_path):
    paths = kaggle_download(tmp_path)
    solution = tmp_path / "LOC_val_solution.csv"
    whole = solution.read_text()

    solution.write_text(whole.replace("n07930864", "n09999999"))
    with pytest.raises(ValueError, match="solution.csv has n09999999, which is not in .*LOC_synset_mapping.txt"):
        ingested(*paths)
    solution.write_text(whole.replace("n07930864", "dog"))
    with pytest.raises(ValueError, match="solution.csv line 5: 'dog' is no synset id"):
        ingested(*paths)
    solution.write_text("id,label\n1,2\n")
    with pytest.raises(ValueError, match="has the columns id, label; expected ImageId and PredictionString"):
        ingested(*paths)


def test_flat_images_without_labels_and_foreign_folders_are_refused_with_what_would_do(tmp_path):
    train, val, _ = unpacked(tmp_path)

    with pytest.raises(
        ValueError, match="data.held_out_path: .*val has 4 images, but no class folder .*held_out_labels"
    ):
        ingested(train, val)
    with pytest.raises(ValueError, match="data.path: no image .* and no .tar at .*devkit; skipped: 1 .mat, 1 .txt"):
        ingested(tmp_path / "devkit")
    (train / SYNSETS[0]).rename(train / "fish")
    with pytest.raises(ValueError, match="data.num_classes: 3, but .*train holds 2 classes"):
        ingested(train)


def test_labels_of_a_source_that_reads_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="held_out_labels: source 'folder' reads no such labels; use `ilsvrc`"):
        Data(source="folder", path="a", held_out_labels="b", image_size=SIZE, num_classes=3)
