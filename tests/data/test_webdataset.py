"""WebDataset tars are read where they are, and their samples refused by name where they do not fit."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from toy_images import pixels, png

from mixar.data.images import load_images
from mixar.data.manifest import count_images, ingest_manifest
from mixar.study.sections import Data

SIZE, COUNT = 8, 12


def tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def samples(seed=0, label=lambda n: (".cls", b"%d" % (n % 2))):
    members = {}
    for number, image in enumerate(pixels(COUNT, seed, SIZE)):
        suffix, content = label(number)
        members |= {f"{number:06}.png": png(image), f"{number:06}{suffix}": content}
    return members


def study(path, **changes):
    return Data(source="webdataset", path=str(path), image_size=SIZE, num_classes=2, **changes)


def as_json(number):
    return ".json", json.dumps({"label": number % 2, "caption": "a dog"}).encode()


def test_images_are_read_from_the_tar_by_offset(tmp_path):
    shards = [tar(tmp_path / "a-000000.tar", samples()), tar(tmp_path / "a-000001.tar", samples(1, as_json))]

    manifest = ingest_manifest(study(tmp_path, held_out_rate=0.3))

    assert np.array_equal(load_images(manifest, SIZE), np.concatenate([pixels(COUNT, seed, SIZE) for seed in (0, 1)]))
    assert manifest["label"].to_pylist() == [n % 2 for n in range(COUNT)] * 2
    for row in manifest.to_pylist():
        content = Path(row["file"]).read_bytes()[row["offset"] : row["offset"] + row["size"]]
        assert content == samples(shards.index(tmp_path / row["file"]))[row["name"]]


def test_shards_of_all_splits_in_one_folder_serve_both(tmp_path):
    for seed, split in enumerate(("train", "validation", "test")):
        tar(tmp_path / f"imagenet-{split}-0000.tar", samples(seed))

    data = study(tmp_path, held_out_path=str(tmp_path))
    manifest = ingest_manifest(data)

    files = dict(zip(manifest["split"].to_pylist(), manifest["file"].to_pylist(), strict=True))
    assert files == {split: str(tmp_path / f"imagenet-{name}-0000.tar")
                     for split, name in (("train", "train"), ("held_out", "validation"))}  # fmt: skip
    assert count_images(data) == {"train": COUNT, "held_out": COUNT}


def test_samples_without_an_image_are_left_out_and_other_members_ignored(tmp_path):
    tar(tmp_path / "a.tar", samples() | {"000099.cls": b"1", "000000.txt": b"a caption", "._000001.png": b"x"})
    said = []

    manifest = ingest_manifest(study(tmp_path), said.append)

    assert len(manifest) == COUNT and said == [f"data.path: skipped in {tmp_path}: 1 sample without an image"]


def test_all_unreadable_members_are_listed(tmp_path):
    tar(tmp_path / "a.tar", samples() | {"000003.png": b"no image", "000005.png": b""})

    with pytest.raises(ValueError, match="2 of 12 images cannot be used") as caught:
        ingest_manifest(study(tmp_path))

    assert all(f"{tmp_path}/a.tar member 00000{n}.png: not readable" in str(caught.value) for n in (3, 5))


FAULTS = {
    "no label": ({"x/1.jpg": b""}, "sample x/1 has no label, a .cls or .json beside its image"),
    "two images": ({"000000.jpg": b""}, "sample 000000 has the images 000000.png and 000000.jpg; keep one"),
    "text": ({"000000.cls": b"dog"}, "a.tar member 000000.cls: b'dog'; expected the number of a class"),
    "negative": ({"000000.cls": b"-1"}, "a.tar member 000000.cls: b'-1'; expected"),
    "no key": ({"000000.json": b'{"class": 1}'}, 'a.tar member 000000.json: .* as an object with "label"'),
    "no object": ({"000000.json": b"[1]"}, "a.tar member 000000.json: .*; expected the number of a class"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_samples_that_do_not_fit_are_named_before_any_image_is_read(tmp_path, fault):
    members, message = FAULTS[fault]
    tar(tmp_path / "a.tar", samples() | members)

    for read in (ingest_manifest, count_images):
        with pytest.raises(ValueError, match=message):
            read(study(tmp_path))


def test_a_tar_that_is_cut_off_and_a_folder_without_tars_are_named(tmp_path):
    whole = tar(tmp_path / "a.tar", samples()).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: whole.index(b"000003.png") + 520])
    with pytest.raises(ValueError, match="a.tar: not a whole tar archive"):
        ingest_manifest(study(tmp_path))

    (tmp_path / "a.tar").rename(tmp_path / "a.tar.gz")
    with pytest.raises(ValueError, match=r"no .tar at .*found: 1 .gz \(not read\)\); unpack compressed ones"):
        ingest_manifest(study(tmp_path))

    (tmp_path / "a.tar.gz").unlink()
    with pytest.raises(ValueError, match=r"no .tar at [^ ]*; give a tar, a folder of tars, or a pattern"):
        ingest_manifest(study(tmp_path))
