"""Protocols as data, what rows say where a study differs, and the protocols of reconstructions in a study."""

import json
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from test_stage_score import NUM_IMAGES, SMOKE_ID, draw, drawings, features, rows_of
from test_stage_score import house as house
from test_stage_score import pictures as pictures

from mixar.asset_table import ASSETS
from mixar.assets import file_sha256
from mixar.data import images
from mixar.data.images import CROPS, ROUNDINGS, bilinear_crop, read_images, write_images
from mixar.data.manifest import ingest_manifest
from mixar.files import write_table
from mixar.layout import Digests, Layout
from mixar.scoring import metrics, released
from mixar.scoring.protocols import PROTOCOLS, protocol_of, row_id
from mixar.scoring.released import INCEPTIONS
from mixar.spec import SpecError, load_study, parse_study
from mixar.spec_problems import FURTHER
from mixar.stages import score as stage
from mixar.stages import tokens


def changed(study, **changes):
    """The study with other settings of `scoring`."""
    return study.model_copy(update={"scoring": study.scoring.model_copy(update=changes)})


def test_every_protocol_names_things_that_exist():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and protocol.source in ("sample", "reconstruct")
        assert protocol.crop in CROPS and protocol.rounding in ROUNDINGS
        assert protocol.reference in stage.SPLITS
        assert protocol.statistics is None or protocol.statistics.removeprefix("asset:") in ASSETS
        if protocol.network == "inception-v3":
            assert protocol.resize in INCEPTIONS and protocol.num_images == 50_000
            assert protocol.extractor_sha256.startswith("6726825d")
    assert {"adm256-gfid", "val256-rfid", "mar-train-rfid", "vavae-val-rfid", "emoji-gfd"} <= set(PROTOCOLS)


def test_the_papers_study_keeps_to_its_protocol_and_whatever_differs_stands_in_the_rows(root):
    study = load_study(root / "config" / "imagenet256.yaml")
    protocol = protocol_of(study, "sample")

    assert row_id(protocol, study, protocol.extractor_sha256, 50_000) == "adm256-gfid"
    assert row_id(protocol, study, "ab" * 32, 50_000) == "adm256-gfid[extractor=abababab]"
    assert row_id(protocol, study, protocol.extractor_sha256, 10_000) == "adm256-gfid[n=10000]"
    other = changed(study, is_splits=1, neighbours=5)
    assert row_id(protocol, other, protocol.extractor_sha256, 50_000) == "adm256-gfid[is_splits=1, neighbours=5]"
    evaluation = study.evaluation.model_copy(update={"labels": "training"})
    drawn = study.model_copy(update={"evaluation": evaluation})
    assert row_id(protocol, drawn, protocol.extractor_sha256, 50_000) == "adm256-gfid[labels=training]"


def test_the_demo_keeps_to_its_protocol_and_the_smoke_study_says_where_it_does_not(root):
    for name, expected in (("demo", "emoji-gfd"), ("smoke", SMOKE_ID)):
        study = load_study(root / "config" / f"{name}.yaml")
        assert row_id(protocol_of(study, "sample"), study, "ab" * 32, 100) == expected


def test_reconstructions_have_the_samples_protocol_or_one_of_their_own(root):
    study = load_study(root / "config" / "imagenet256.yaml")

    assert protocol_of(study, "reconstruct").name == "val256-rfid"
    for name in ("mar-train-rfid", "vavae-val-rfid"):
        assert protocol_of(changed(study, reconstructions=name), "reconstruct").name == name
    for name in ("emoji-rfd", "adm256-gfid", "nothing"):
        with pytest.raises(SpecError, match=f"{name}.*choose from val256-rfid, mar-train-rfid, vavae-val-rfid"):
            protocol_of(changed(study, reconstructions=name), "reconstruct")


def test_another_protocol_of_reconstructions_has_its_own_reference_and_renews_all_features(root):
    study = load_study(root / "config" / "imagenet256.yaml")
    other = changed(study, reconstructions="vavae-val-rfid")

    assert Layout(study).reconstruction_split == "held_out" and Layout(other).reconstruction_split == "reconstructed"
    assert Digests(study).features() != Digests(other).features()
    assert Digests(study).features() == Digests(changed(study, is_splits=3)).features()  # a metric's setting alone


def test_reconstructions_of_training_images_are_scored_against_references_of_their_own(house, monkeypatch):
    study, layout = house
    own = replace(PROTOCOLS["emoji-rfd"], name="emoji-train-rfd", reference="train", reference_images=40)
    monkeypatch.setitem(PROTOCOLS, own.name, own)
    monkeypatch.setattr("mixar.scoring.protocols._TABLE", tuple(PROTOCOLS.values()))
    study = changed(study, reconstructions=own.name)
    layout.study = study
    monkeypatch.setitem(tokens.RECONSTRUCTIONS, "continuous", lambda *_: lambda unit: unit * 0.9)

    stage.reference_features(study, layout, "reconstructed")
    for shard in range(study.data.num_shards):
        tokens.reconstruct(study, layout, "continuous", shard)
        stage.score_features(study, layout, layout.reconstruction("continuous", shard))
    stage.score(study, layout, "reconstruct", "continuous")

    row = rows_of(layout.scores("reconstruct", "continuous"))["rfd"]
    train = stage._manifest(layout, "train")["index"].to_pylist()
    scored = pq.read_table(layout.reference_features("reconstructed"))["index"].to_pylist()
    assert (row["protocol"], row["n"]) == ("emoji-train-rfd", 40)
    assert len(scored) == 40 and set(scored) <= set(train)


def test_the_bilinear_crop_keeps_exact_sizes_and_takes_the_centre():
    picture = np.zeros((20, 40, 3), np.uint8)
    picture[:, 10:30] = 200

    found = bilinear_crop(Image.fromarray(picture), 20)

    assert np.array_equal(found, picture[:, 10:30])
    assert bilinear_crop(Image.fromarray(picture), 8).shape == (8, 8, 3)
    small = bilinear_crop(Image.fromarray(picture), 10)
    assert small[:, 2:-2].min() == 200 and not np.array_equal(small, images.centre_crop(Image.fromarray(picture), 10))


def test_unknown_further_networks_and_stray_statistics_are_refused_with_the_study(smoke):
    assert set(FURTHER) == set(released.FURTHER) == set(metrics.FURTHER)
    for changes, message in (
        ({"further": {"vgg19": "x"}}, "scoring.further: 'vgg19'.*vgg16"),
        ({"further_statistics": {"vgg16": "x"}}, "'vgg16' is no network of scoring.further"),
    ):
        with pytest.raises(SpecError, match=message):
            parse_study({**smoke, "scoring": smoke["scoring"] | changes})


# Images that no score should be made of


def encoded(path, pictures, index=None):
    """A file of drawn images from Pillow images, as `write_images` lays it out."""
    files = []
    for picture in pictures:
        picture.save(path.with_suffix(".png"))
        files.append({"bytes": path.with_suffix(".png").read_bytes()})
    count = range(len(files))
    pq.write_table(pa.table({"index": list(count), "label": [0] * len(files), "image": files}), path)
    return path


def test_grey_transparent_mixed_broken_and_no_images_are_refused_by_name(tmp_path):
    colour = Image.new("RGB", (8, 8))

    for other, message in (
        (Image.new("L", (8, 8)), "row 1: an image of mode L; expected RGB"),
        (Image.new("RGBA", (8, 8)), "row 1: an image of mode RGBA"),
        (Image.new("RGB", (9, 8)), "row 1: images of several sizes, 8 x 8 and 9 x 8"),
    ):
        with pytest.raises(ValueError, match=message):
            read_images(encoded(tmp_path / "images.parquet", [colour, other]))
    path = encoded(tmp_path / "images.parquet", [colour])
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(ValueError, match="holds no images"):
        read_images(path)
    pq.write_table(table.set_column(2, "image", pa.array([{"bytes": b"no image"}])), path)
    with pytest.raises(ValueError, match="row 0: not readable as an image"):
        read_images(path)


def test_features_of_images_that_were_drawn_anew_are_refused(house):
    study, layout = house
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    stage.score(study, layout, "sample", "mar", 0, "default")
    path = layout.samples("mar", 0, "default", 1)
    later = layout.features(path).stat().st_mtime + 10
    same = path.read_bytes()

    path.write_bytes(same)
    touch(path, later)
    stage.score(study, layout, "sample", "mar", 0, "default")  # touched, but the same images

    write_images(path, np.arange(20, 40), np.arange(20, 40) % 3, drawings(20, 7))
    touch(path, later)
    with pytest.raises(ValueError, match="features of images that .*shard-00001.parquet no longer holds"):
        stage.score(study, layout, "sample", "mar", 0, "default")


def test_images_that_were_replaced_by_older_ones_are_noticed_too(house):
    study, layout = house
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    path = layout.samples("mar", 0, "default", 1)
    earlier = layout.features(path).stat().st_mtime - 100

    write_images(path, np.arange(20, 40), np.arange(20, 40) % 3, drawings(20, 7))
    touch(path, earlier)  # as a copy that keeps its time

    with pytest.raises(ValueError, match="features of images that .*shard-00001.parquet no longer holds"):
        stage.score(study, layout, "sample", "mar", 0, "default")


@pytest.mark.parametrize("split", stage.SPLITS)
def test_references_of_images_that_the_manifest_no_longer_has_there_are_refused(house, split):
    study, layout = house
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    study = study.model_copy(update={"data": study.data.model_copy(update={"held_out_rate": 0.3})})
    write_table(layout.manifest, ingest_manifest(study.data))
    for other in set(stage.SPLITS) - {split}:
        stage.reference_features(study, layout, other)

    with pytest.raises(ValueError, match=f"{split}.parquet: features of other images .*score --reference {split}"):
        stage.score(study, layout, "sample", "mar", 0, "default")

    stage.reference_features(study, layout, split)
    stage.score(study, layout, "sample", "mar", 0, "default")


def touch(path, seconds):
    os.utime(path, (seconds, seconds))


def test_a_feature_that_is_not_finite_is_named_by_its_image(house):
    study, layout = house
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    path = layout.features(layout.samples("mar", 0, "default", 1))
    table = pq.read_table(path)
    values = np.stack(table["features"].to_pylist()).astype(np.float32)
    values[3, 0] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    place = table.column_names.index("features")
    pq.write_table(table.set_column(place, "features", column), path)

    with pytest.raises(ValueError, match="values of image 23 are not finite"):
        stage.score(study, layout, "sample", "mar", 0, "default")


# Networks beside the protocol's own


FURTHER_FILE = b"stands for a file".hex()  # its bytes, and in these tests its hash, too


class Colours(torch.nn.Module):
    """Mean and deviation of each colour: six features."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixels):
        unit = pixels.float().flatten(2) / 255 * self.scale
        return (torch.cat([unit.mean(2), unit.std(2)], dim=1),)


@pytest.fixture
def further(house, monkeypatch, tmp_path):
    """The house with a second network under DINOv2's name; returns (study, layout)."""
    study, layout = house
    (tmp_path / "second.pth").write_bytes(bytes.fromhex(FURTHER_FILE))
    monkeypatch.setitem(released.FURTHER, "dinov2-vitl14", lambda path: (Colours(), path.read_bytes().hex()))
    study = changed(study, further={"dinov2-vitl14": str(tmp_path / "second.pth")})
    layout.study = study
    for split in stage.SPLITS:
        stage.reference_features(study, layout, split)
    return study, layout


def test_a_further_network_adds_rows_of_its_own_with_the_hash_of_its_file(further):
    study, layout = further
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)

    stage.score(study, layout, "sample", "mar", 0, "default")

    rows = rows_of(layout.scores("sample", "mar", 0, "default"))
    assert rows["fd_dinov2"]["value"] > 0 and rows["fd_dinov2"]["value"] != rows["fd"]["value"]
    assert FURTHER_FILE in rows["fd_dinov2"]["hashes"]
    assert rows["fd_dinov2"]["protocol"] == SMOKE_ID.replace("]", f", network=dinov2-vitl14:{FURTHER_FILE[:8]}]")
    assert rows["fd_dinov2"]["low"] <= rows["fd_dinov2"]["value"] <= rows["fd_dinov2"]["high"]


def test_features_of_two_files_of_a_further_network_are_refused(further, tmp_path):
    study, layout = further
    draw(layout, drawings(NUM_IMAGES, 1))
    (tmp_path / "second.pth").write_bytes(b"another file")
    features(study, layout)

    with pytest.raises(ValueError, match="scoring.further.dinov2-vitl14: images and reference have features of"):
        stage.score(study, layout, "sample", "mar", 0, "default")


def test_statistics_may_stand_for_the_reference_of_a_further_network(further, tmp_path):
    study, layout = further
    np.savez(tmp_path / "known.npz", mu=np.zeros(6), sigma=np.eye(6))
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    statistics = {"dinov2-vitl14": str(tmp_path / "known.npz")}

    stage.score(changed(study, further_statistics=statistics), layout, "sample", "mar", 0, "default")

    row, sha256 = (
        rows_of(layout.scores("sample", "mar", 0, "default"))["fd_dinov2"],
        file_sha256(tmp_path / "known.npz"),
    )
    assert row["value"] > 1 and json.loads(row["hashes"])["statistics_dinov2-vitl14"] == sha256
    otherwise = f"network=dinov2-vitl14:{FURTHER_FILE[:8]}, statistics={sha256[:8]}"
    assert row["protocol"] == SMOKE_ID.replace("]", f", {otherwise}]")
