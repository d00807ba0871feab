"""Protocols as data, the ids of rows where a study differs, and protocols of reconstructions."""

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from toy_networks import Colours
from toy_scored import NUM_IMAGES, SMOKE_ID, changed, darkened, draw, drawings, features, rows_of
from toy_scored import house as house
from toy_scored import pictures as pictures

from mixar.assets.table import ASSETS
from mixar.data import images
from mixar.data.images import CROPS, ROUNDINGS, bilinear_crop, read_images, write_images
from mixar.data.manifest import SPLITS, ingest_manifest, read_manifest
from mixar.reporting.results import read_rows
from mixar.reporting.summary import summarise
from mixar.reporting.tables import quality_table
from mixar.reporting.writers import to_markdown
from mixar.scoring.catalogue import NETWORKS
from mixar.scoring.extractors import load_extractor
from mixar.scoring.networks.inception import INCEPTIONS
from mixar.scoring.protocols import PROTOCOLS, is_of_its_data, protocol_of, row_id
from mixar.scoring.reference import source_of
from mixar.stages.features import image_features, reference_features
from mixar.stages.reconstruct import reconstruct
from mixar.stages.score import score_reconstructions, score_samples
from mixar.storage.files import file_sha256, write_table
from mixar.study.digests import Digests
from mixar.study.errors import SpecError
from mixar.study.layout import Layout
from mixar.study.load import load_study, parse_study
from mixar.study.names import KINDS
from mixar.weights import save_weights, tensors_sha256


def test_every_protocol_names_things_that_exist():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and protocol.source in ("sample", "reconstruct")
        assert protocol.crop in CROPS and protocol.rounding in ROUNDINGS
        assert protocol.reference in SPLITS
        assert protocol.statistics is None or protocol.statistics.removeprefix("asset:") in ASSETS
        if protocol.network == "inception-v3":
            assert protocol.resize in INCEPTIONS and protocol.num_images == 50_000
            assert protocol.extractor_sha256.startswith("6726825d")
    assert {"adm256-gfid", "val256-rfid", "mar-train-rfid", "vavae-val-rfid", "emoji-gfd"} <= set(PROTOCOLS)


def test_the_papers_study_keeps_to_its_protocol_and_the_rows_name_whatever_differs(root):
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
        protocol = protocol_of(study, "sample")
        assert row_id(protocol, study, protocol.extractor_sha256, 100) == expected


def test_the_emoji_protocol_belongs_to_the_embedded_drawings_their_split_and_the_network_that_comes_with_them(
    root, tmp_path
):
    study = load_study(root / "config" / "demo.yaml")
    network = load_extractor(study.scoring.extractor, root / study.scoring.extractor.weights).module
    protocol, sha256 = protocol_of(study, "sample"), tensors_sha256(network.state_dict())

    def with_data(**changes):
        return study.model_copy(update={"data": study.data.model_copy(update=changes)})

    assert is_of_its_data(protocol, study, None) and row_id(protocol, study, sha256, 512) == "emoji-gfd"
    assert is_of_its_data(protocol_of(study, "continuous"), study, None)
    assert row_id(protocol, study, "ab" * 32, 512) == "emoji-gfd[extractor=abababab]"
    assert row_id(protocol, study, sha256, 512, other_data="cd" * 32) == "emoji-gfd[data=cdcdcdcd]"
    assert row_id(protocol, with_data(image_size=16, num_classes=2), sha256, 512) == (
        "emoji-gfd[image_size=16, num_classes=2]"
    )
    other = tmp_path / "other.parquet"
    other.write_bytes((root / study.data.path).read_bytes()[:-1])
    for changes in ({"source": "folder"}, {"held_out_rate": 0.3}, {"limit": 96}, {"path": str(other)},
                    {"path": "nowhere"}, {"held_out_path": str(other)}):  # fmt: skip
        assert not is_of_its_data(protocol, with_data(**changes), None), changes


def test_the_imagenet_protocols_belong_to_all_of_imagenet(root):
    study = load_study(root / "config" / "imagenet256.yaml")
    elsewhere = study.model_copy(update={"data": study.data.model_copy(update={"path": "/data/imagenet"})})

    for source in ("sample", *KINDS):
        protocol = protocol_of(study, source)
        assert is_of_its_data(protocol, study, None)
        assert not is_of_its_data(protocol, elsewhere, None)
        assert is_of_its_data(protocol, elsewhere, {"train": 1_281_167, "held_out": 50_000})
        assert not is_of_its_data(protocol, study, {"train": 1_281_000, "held_out": 50_000})
    few = study.model_copy(update={"data": study.data.model_copy(update={"num_classes": 2})})
    protocol = protocol_of(few, "sample")
    found = row_id(protocol, few, protocol.extractor_sha256, 50_000, other_data="cd" * 32)
    assert found == "adm256-gfid[num_classes=2, data=cdcdcdcd]"


@pytest.mark.parametrize("network", ["subgroup-cnn", "inception-v3"])
def test_an_own_study_has_a_neutral_protocol_whose_id_names_data_and_network(smoke, network):
    smoke["scoring"]["protocol"] = "own-gfd"
    smoke["scoring"]["extractor"] = {"network": network, "weights": "x"}
    study = parse_study(smoke)
    protocol = protocol_of(study, "sample")

    assert protocol_of(study, "continuous").name == "own-rfd"
    assert not is_of_its_data(protocol, study, None)
    settings = "is_splits=2, kid_subsets=4, kid_subset_size=16"
    assert row_id(protocol, study, "ab" * 32, 36, other_data="cd" * 32) == (
        f"own-gfd[{settings}, data=cdcdcdcd, extractor=abababab]"
    )


def test_the_drawings_protocol_belongs_to_the_split_by_concept_and_the_network_that_comes_with_it(root):
    study = load_study(root / "config" / "emoji.yaml")
    extractor = load_extractor(study.scoring.extractor, root / study.scoring.extractor.weights)
    protocol = protocol_of(study, "sample")

    assert is_of_its_data(protocol, study, None) and row_id(protocol, study, extractor.sha256, 9) == "drawings-gfd"
    assert extractor.name.startswith("drawings-styles-c32-")
    assert protocol_of(study, "continuous").name == "drawings-rfd"
    for changes in ({"held_out_designer": "Twitter"}, {"held_out_rate": 0.3}, {"source": "emoji"}):
        other = study.model_copy(update={"data": study.data.model_copy(update=changes)})
        assert not is_of_its_data(protocol, other, None)


def test_rows_and_columns_of_other_images_have_no_name_of_the_emoji(smoke, house, monkeypatch):
    monkeypatch.undo()  # the house's images are no emoji
    study, layout = house
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    score_samples(study, layout, "mar", 0, "default")

    row = rows_of(layout.scores("sample", "mar", 0, "default"))["fd"]
    hashes = json.loads(row["hashes"])
    assert row["protocol"] == SMOKE_ID.replace("]", f", image_size=16, num_classes=3, data={hashes['data'][:8]}, "
                                                    f"extractor={hashes['extractor'][:8]}]")  # fmt: skip
    assert hashes["extractor_name"] == f"smoke-c8-{hashes['extractor'][:8]}"
    rows = read_rows(layout.root)
    assert summarise(study, rows).distance() == "gFD-smoke-c8"
    hashes["extractor_name"] = "emoji-subgroups-c32-ca3aeee1"  # the emoji's network, for images of a study's own
    assert summarise(study, rows.assign(hashes=json.dumps(hashes))).distance() == "gFD-smoke"
    assert "emoji" not in to_markdown(quality_table(summarise(study, rows))).replace("emoji-gfd[", "")


def test_reconstructions_have_the_samples_protocol_or_one_of_their_own(root):
    study = changed(load_study(root / "config" / "imagenet256.yaml"), reconstructions=None)

    assert protocol_of(study, "continuous").name == "val256-rfid"
    for name in ("mar-train-rfid", "vavae-val-rfid"):
        assert protocol_of(changed(study, reconstructions=name), "discrete").name == name
    for name in ("emoji-rfd", "adm256-gfid", "nothing"):
        with pytest.raises(SpecError, match=f"{name}.*choose from val256-rfid, mar-train-rfid, vavae-val-rfid"):
            protocol_of(changed(study, reconstructions=name), "discrete")


def test_each_tokenizer_may_have_a_protocol_of_its_own(root):
    study = load_study(root / "config" / "imagenet256.yaml")
    own = changed(study, reconstructions={"continuous": "vavae-val-rfid"})  # as it is
    layout = Layout(own)

    assert [protocol_of(own, kind).name for kind in KINDS] == ["vavae-val-rfid", "val256-rfid"]
    assert [layout.reconstruction_split(kind) for kind in KINDS] == ["reconstructed_continuous", "held_out"]
    assert source_of("reconstructed_continuous") == "continuous" and source_of("held_out") == "sample"
    with pytest.raises(SpecError, match="no_such.*choose from val256-rfid"):
        protocol_of(changed(study, reconstructions={"discrete": "no_such"}), "discrete")


def test_another_protocol_of_reconstructions_has_its_own_reference_and_renews_all_features(root):
    study = changed(load_study(root / "config" / "imagenet256.yaml"), reconstructions=None)
    other = changed(study, reconstructions="vavae-val-rfid")

    assert Layout(study).reconstruction_split("discrete") == "held_out"
    assert Layout(other).reconstruction_split("discrete") == "reconstructed"
    assert Digests(study).features() != Digests(other).features()
    assert Digests(study).features() == Digests(changed(study, is_splits=3)).features()  # a metric's setting alone


def test_reconstructions_of_training_images_are_scored_against_references_of_their_own(house, monkeypatch):
    study, layout = house
    own = replace(PROTOCOLS["emoji-rfd"], name="emoji-train-rfd", reference="train", reference_images=40)
    monkeypatch.setitem(PROTOCOLS, own.name, own)
    study = layout.study = changed(darkened(study, layout), reconstructions=own.name)

    reference_features(study, layout, "reconstructed")
    for shard in range(study.data.num_shards):
        reconstruct(study, layout, "continuous", shard)
        image_features(study, layout, layout.reconstruction("continuous", shard))
    score_reconstructions(study, layout, "continuous")

    row = rows_of(layout.scores("reconstruct", "continuous"))["rfd"]
    train = read_manifest(layout.manifest, "train")["index"].to_pylist()
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
    for changes, message in (
        ({"further": {"vgg19": "x"}}, "scoring.further: 'vgg19'.*vgg16"),
        ({"further_statistics": {"vgg16": "x"}}, "'vgg16' is not a network of scoring.further"),
    ):
        with pytest.raises(SpecError, match=message):
            parse_study({**smoke, "scoring": smoke["scoring"] | changes})


# Images and features that are refused


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


def test_features_of_images_that_were_drawn_again_are_refused(house):
    study, layout = house
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    score_samples(study, layout, "mar", 0, "default")
    path = layout.samples("mar", 0, "default", 1)
    later = layout.features(path).stat().st_mtime + 10
    same = path.read_bytes()

    path.write_bytes(same)
    touch(path, later)
    score_samples(study, layout, "mar", 0, "default")  # touched, but the same images

    write_images(path, np.arange(20, 40), np.arange(20, 40) % 3, drawings(20, 7))
    touch(path, later)
    with pytest.raises(ValueError, match="features of images that .*shard-00001.parquet no longer holds"):
        score_samples(study, layout, "mar", 0, "default")


def test_images_that_were_replaced_by_older_ones_are_noticed_too(house):
    study, layout = house
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    path = layout.samples("mar", 0, "default", 1)
    earlier = layout.features(path).stat().st_mtime - 100

    write_images(path, np.arange(20, 40), np.arange(20, 40) % 3, drawings(20, 7))
    touch(path, earlier)  # as a copy that keeps its time

    with pytest.raises(ValueError, match="features of images that .*shard-00001.parquet no longer holds"):
        score_samples(study, layout, "mar", 0, "default")


@pytest.mark.parametrize("split", SPLITS)
def test_references_of_images_that_the_manifest_no_longer_has_there_are_refused(house, split):
    study, layout = house
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    study = study.model_copy(update={"data": study.data.model_copy(update={"held_out_rate": 0.3})})
    write_table(layout.manifest, ingest_manifest(study.data))
    for other in set(SPLITS) - {split}:
        reference_features(study, layout, other)

    with pytest.raises(
        ValueError, match=f"{split}.parquet: not the features of the study's current .*features --reference {split}"
    ):
        score_samples(study, layout, "mar", 0, "default")

    reference_features(study, layout, split)
    score_samples(study, layout, "mar", 0, "default")


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
        score_samples(study, layout, "mar", 0, "default")


# Further networks


FURTHER_FILE = b"a file"
FURTHER_SHA256 = hashlib.sha256(FURTHER_FILE).hexdigest()


@pytest.fixture
def further(house, monkeypatch, tmp_path):
    """The house with a second network under DINOv2's name; returns (study, layout)."""
    study, layout = house
    (tmp_path / "second.pth").write_bytes(FURTHER_FILE)
    monkeypatch.setitem(NETWORKS, "dinov2-vitl14", replace(NETWORKS["dinov2-vitl14"], load="toy_networks:colours"))
    study = changed(study, further={"dinov2-vitl14": str(tmp_path / "second.pth")})
    layout.study = study
    for split in SPLITS:
        reference_features(study, layout, split)
    return study, layout


def test_a_further_network_adds_rows_of_its_own_with_the_hash_of_its_file(further):
    study, layout = further
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)

    score_samples(study, layout, "mar", 0, "default")

    rows = rows_of(layout.scores("sample", "mar", 0, "default"))
    assert rows["fd_dinov2"]["value"] > 0 and rows["fd_dinov2"]["value"] != rows["fd"]["value"]
    assert FURTHER_SHA256 in rows["fd_dinov2"]["hashes"]
    assert rows["fd_dinov2"]["protocol"] == SMOKE_ID.replace("]", f", network=dinov2-vitl14:{FURTHER_SHA256[:8]}]")
    assert rows["fd_dinov2"]["low"] <= rows["fd_dinov2"]["value"] <= rows["fd_dinov2"]["high"]


def test_a_further_network_of_the_studys_own_adds_its_distance(house, tmp_path):
    study, layout = house
    save_weights(tmp_path / "own.safetensors", Colours().state_dict(), {})
    study = changed(study, further={"toy_networks:Colours": str(tmp_path / "own.safetensors")})
    layout.study = study
    for split in SPLITS:
        reference_features(study, layout, split)
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)

    score_samples(study, layout, "mar", 0, "default")

    row = rows_of(layout.scores("sample", "mar", 0, "default"))["fd_Colours"]
    sha256 = json.loads(row["hashes"])["toy_networks:Colours"]
    assert row["low"] <= row["value"] <= row["high"] and row["value"] > 0
    assert row["protocol"] == SMOKE_ID.replace("]", f", network=toy_networks:Colours:{sha256[:8]}]")


def test_features_of_two_files_of_a_further_network_are_refused(further, tmp_path):
    study, layout = further
    draw(layout, drawings(NUM_IMAGES, 1))
    (tmp_path / "second.pth").write_bytes(b"another file")
    features(study, layout)

    with pytest.raises(ValueError, match="scoring.further.dinov2-vitl14: images and reference have features of"):
        score_samples(study, layout, "mar", 0, "default")


def test_statistics_may_stand_for_the_reference_of_a_further_network(further, tmp_path):
    study, layout = further
    np.savez(tmp_path / "known.npz", mu=np.zeros(6), sigma=np.eye(6))
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    statistics = {"dinov2-vitl14": str(tmp_path / "known.npz")}

    score_samples(changed(study, further_statistics=statistics), layout, "mar", 0, "default")

    row, sha256 = (
        rows_of(layout.scores("sample", "mar", 0, "default"))["fd_dinov2"],
        file_sha256(tmp_path / "known.npz"),
    )
    assert row["value"] > 1 and json.loads(row["hashes"])["statistics_dinov2-vitl14"] == sha256
    otherwise = f"network=dinov2-vitl14:{FURTHER_SHA256[:8]}, statistics={sha256[:8]}"
    assert row["protocol"] == SMOKE_ID.replace("]", f", {otherwise}]")
