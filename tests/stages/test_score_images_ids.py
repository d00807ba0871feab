"""`score-images`: what the rows of brought images are called by labels, and what statistics alone can measure."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toy_brought import house as house
from toy_brought import pictures as pictures
from toy_brought import rows, scored, values
from toy_images import COUNT, folder, pixels
from toy_scored import SMOKE_ID

from mixar.data.images import read_images
from mixar.data.manifest import SPLITS
from mixar.scoring.catalogue import NETWORKS
from mixar.scoring.files import read_features
from mixar.scoring.protocols import PROTOCOLS
from mixar.storage.files import file_sha256


def test_statistics_alone_give_the_metrics_that_need_no_reference_images(house, tmp_path, monkeypatch):
    study, layout = house
    path = folder(tmp_path / "a", pixels())
    whole = values(layout, scored(house, path, "Whole"))
    moments = read_features([layout.reference_features("train")]).features.moments
    np.savez(tmp_path / "statistics.npz", **moments)
    protocol = replace(PROTOCOLS["emoji-gfd"], statistics=str(tmp_path / "statistics.npz"))
    monkeypatch.setitem(PROTOCOLS, "emoji-gfd", protocol)
    for split in SPLITS:
        layout.reference_features(split).unlink()

    alone = values(layout, scored(house, path, "Alone"))

    assert list(alone) == ["fd", "is"]
    assert alone["is"] == whole["is"] and alone["fd"] == pytest.approx(whole["fd"], rel=1e-5)


LABELS = {
    "even": (np.arange(COUNT) % 3, "emoji-gfd"),
    "even but for one": (np.arange(COUNT - 1) % 3, "emoji-gfd"),
    "uneven": (np.arange(COUNT) % 5, "emoji-gfd[labels=uneven]"),
    "two of three classes": (np.arange(COUNT) % 2, "emoji-gfd[labels=uneven]"),
    "one class": (np.zeros(COUNT, int), "emoji-gfd[labels=uneven]"),
    "none": (None, "emoji-gfd[labels=unknown]"),
    "some": (np.arange(COUNT) % 4 - 1, "emoji-gfd[labels=unknown]"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_named_where_the_protocol_wants_equally_many_of_every_class(case, house, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "emoji-gfd", replace(PROTOCOLS["emoji-gfd"], labels="balanced", metrics={}))
    labels, expected = LABELS[case]
    given = {} if labels is None else {"arr_1": labels}
    np.savez(tmp_path / "drawn.npz", arr_0=pixels()[: COUNT if labels is None else len(labels)], **given)

    found = rows(house[1], scored(house, tmp_path / "drawn.npz"))

    assert found[0]["protocol"] == expected


@pytest.mark.parametrize(("classes", "said"), [(5, "9 labels outside the study's classes 0 to 2"), (3, "")])
def test_labels_outside_the_studys_classes_are_reported(classes, said, house, tmp_path, capsys):
    np.savez(tmp_path / "drawn.npz", arr_0=pixels(), arr_1=np.arange(COUNT) % classes)

    scored(house, tmp_path / "drawn.npz")

    printed = capsys.readouterr().out
    assert said in printed and ("outside the study's classes" in printed) is bool(said)


def test_statistics_alone_also_give_the_distances_of_further_networks_that_have_some(
    house, tmp_path, monkeypatch, capsys
):
    study, layout = house
    further = {name: str(tmp_path / name) for name in ("dinov2-vitl14", "vgg16")}
    file = b"stands for a file"
    for name in further:
        (tmp_path / name).write_bytes(file)
        monkeypatch.setitem(NETWORKS, name, replace(NETWORKS[name], load="toy_networks:colours"))
    np.savez(tmp_path / "known.npz", mu=np.zeros(6), sigma=np.eye(6))
    np.savez(tmp_path / "statistics.npz", **read_features([layout.reference_features("train")]).features.moments)
    protocol = replace(PROTOCOLS["emoji-gfd"], statistics=str(tmp_path / "statistics.npz"))
    monkeypatch.setitem(PROTOCOLS, "emoji-gfd", protocol)
    given = {"further": further, "further_statistics": {"dinov2-vitl14": str(tmp_path / "known.npz")}}
    study = study.model_copy(update={"scoring": study.scoring.model_copy(update=given)})
    for split in SPLITS:
        layout.reference_features(split).unlink()

    found = rows(layout, scored((study, layout), folder(tmp_path / "a", pixels())))

    assert [r["metric"] for r in found] == ["fd", "is", "fd_dinov2"] and found[-1]["value"] > 0
    sha256 = file_sha256(tmp_path / "known.npz")
    otherwise = f"network=dinov2-vitl14:{hashlib.sha256(file).hexdigest()[:8]}, statistics={sha256[:8]}"
    assert found[-1]["protocol"] == f"{SMOKE_ID[:-1]}, {otherwise}]"
    assert json.loads(found[-1]["hashes"])["statistics_dinov2-vitl14"] == sha256
    said = " ".join(capsys.readouterr().out.split())
    assert "no kid, precision, recall, precision_vgg, recall_vgg without reference images" in said


def as_files(root, format, **options):
    """Images in a format that their names, 0.png to 23.png, do not tell."""
    root.mkdir()
    for i, image in enumerate(pixels()):
        Image.fromarray(image).save(root / f"{i}.png", format, **options)
    return root


def as_rows(root, format, **options):
    """The same in a Parquet file."""
    files = sorted(as_files(root, format, **options).iterdir(), key=lambda file: int(file.stem))
    pq.write_table(pa.table({"image": [file.read_bytes() for file in files]}), root.with_suffix(".parquet"))
    return root.with_suffix(".parquet")


def half(root):
    as_files(root, "PNG")
    for i in range(12):
        Image.fromarray(pixels()[i]).save(root / f"{i}.png", "JPEG")
    return root


LOSSY = {
    "JPEG": (lambda root: as_files(root, "JPEG", quality=100), "JPEG"),
    "JPEG in Parquet": (lambda root: as_rows(root, "JPEG"), "JPEG"),
    "WebP": (lambda root: as_files(root, "WEBP"), "WEBP"),
    "WebP in Parquet": (lambda root: as_rows(root, "WEBP"), "WEBP"),
    "WebP with more chunks": (lambda root: as_files(root, "WEBP", exif=b"Exif\0\0"), "WEBP"),
    "JPEG 2000": (lambda root: as_files(root, "JPEG2000", irreversible=True), "JPEG2000"),
    "TIFF of JPEG": (lambda root: as_rows(root, "TIFF", compression="jpeg"), "TIFF"),
    "some": (half, "JPEG"),
    "PNG": (lambda root: as_files(root, "PNG"), None),
    "lossless WebP": (lambda root: as_files(root, "WEBP", lossless=True), None),
    "lossless WebP with more chunks": (lambda root: as_files(root, "WEBP", lossless=True, exif=b"Exif\0\0"), None),
    "lossless WebP in Parquet": (lambda root: as_rows(root, "WEBP", lossless=True), None),
    "TIFF": (lambda root: as_rows(root, "TIFF", compression="tiff_lzw"), None),
    "BMP": (lambda root: as_files(root, "BMP"), None),
}


@pytest.mark.parametrize("case", LOSSY)
def test_images_in_a_lossy_format_are_marked_in_the_protocol(case, house, tmp_path, capsys):
    make, format = LOSSY[case]

    found = rows(house[1], scored(house, make(tmp_path / "mine")))

    said = capsys.readouterr().out
    if format is None:
        assert found[0]["protocol"] == SMOKE_ID and "lossy format" not in said
    else:
        assert found[0]["protocol"] == f"{SMOKE_ID[:-1]}, format={format}]"
        assert f"{12 if case == 'some' else COUNT} {format} of {COUNT} images are in a lossy format" in said


def test_drawn_images_of_the_study_are_never_lossy(tmp_path):
    image = {"bytes": (as_files(tmp_path / "a", "JPEG") / "0.png").read_bytes()}
    pq.write_table(pa.table({"index": [0], "label": [0], "image": [image]}), tmp_path / "a.parquet")

    with pytest.raises(ValueError, match="a.parquet row 0: a JPEG image, whose pixels are not those that were drawn"):
        read_images(tmp_path / "a.parquet")
