"""The ImageNet protocols field by field, and stages that follow every field of their protocol."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy_networks
from PIL import Image
from toy_images import folder, pixels
from toy_scored import NUM_IMAGES, SIZE, changed, darkened, draw, drawings, reference
from toy_scored import house as house

from mixar.data.images import CROPS, images_to_unit, read_images, unit_to_uint8
from mixar.data.manifest import SPLITS, read_manifest
from mixar.scoring.catalogue import NETWORKS
from mixar.scoring.extractors import extract, load_extractor
from mixar.scoring.protocols import PROTOCOLS
from mixar.stages.features import image_features, reference_features
from mixar.stages.reconstruct import reconstruct
from mixar.stages.score_images import score_images

SAMPLES, RECONSTRUCTIONS = "emoji-gfd", "emoji-rfd"  # protocols of the house

FIELDS = ("crop", "resize", "rounding", "reference", "statistics", "num_images")
PINNED = {
    "adm256-gfid": ("adm", "tensorflow-1", "half-even", "train", "asset:adm-statistics", 50_000),
    "val256-rfid": ("adm", "tensorflow-1", "half-even", "held_out", None, 50_000),
    "mar-train-rfid": ("adm", "tensorflow-1", "half-even", "train", "asset:adm-statistics", 50_000),
    "vavae-val-rfid": ("bilinear", "half-pixel", "half-up", "held_out", None, 50_000),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 60 oblong images in three class folders, so that each crop makes other pixels of them."""
    root = tmp_path_factory.mktemp("pictures")
    for label in range(3):
        folder(root / f"class{label}", pixels(20, seed=label, size=2 * SIZE)[:, : SIZE + 8])
    return root


def state(monkeypatch, name, **fields):
    monkeypatch.setitem(PROTOCOLS, name, replace(PROTOCOLS[name], **fields))


def cropped(layout, split, crop) -> np.ndarray:
    """All images of a split after a crop, straight from their files."""
    files = read_manifest(layout.manifest, split)["file"].to_pylist()
    return np.stack([CROPS[crop](Image.open(file), SIZE) for file in files])


@pytest.mark.parametrize("name", PINNED)
def test_an_imagenet_protocol_says_what_its_numbers_were_measured_with(name):
    assert tuple(getattr(PROTOCOLS[name], field) for field in FIELDS) == PINNED[name]


# Crop and rounding


def reconstructed(study, layout):
    """Every held-out image, darker, as `reconstruct` writes it."""
    shards = range(study.data.num_shards)
    for shard in shards:
        # The digest has the protocol's name, not its fields, so an existing file would be kept.
        layout.reconstruction("continuous", shard).unlink(missing_ok=True)
        reconstruct(study, layout, "continuous", shard)
    return np.concatenate([read_images(layout.reconstruction("continuous", shard))[2] for shard in shards])


def test_reconstructions_have_the_crop_and_the_rounding_that_the_protocol_says(house, monkeypatch):
    study, layout = darkened(*house), house[1]
    found = []

    for crop, rounding in (("adm", "half-even"), ("adm", "down"), ("bilinear", "half-even"), ("bilinear", "down")):
        state(monkeypatch, RECONSTRUCTIONS, crop=crop, rounding=rounding)
        found.append(reconstructed(study, layout))
        unit = images_to_unit(cropped(layout, "held_out", crop))
        assert np.array_equal(found[-1], unit_to_uint8(unit * 0.9037, rounding).numpy()), (crop, rounding)

    assert len({images.tobytes() for images in found}) == len(found)


@pytest.mark.parametrize("split", [*SPLITS, "reconstructed"])
def test_references_are_made_of_images_after_the_crop_that_the_protocol_says(house, monkeypatch, split):
    study, layout = house
    own = split == "reconstructed"
    study = layout.study = changed(study, reconstructions=RECONSTRUCTIONS) if own else study
    extractor, found = load_extractor(study.scoring.extractor, layout.extractor()), []

    for crop in CROPS:
        state(monkeypatch, RECONSTRUCTIONS if own else SAMPLES, crop=crop)
        reference_features(study, layout, split)
        images = torch.from_numpy(cropped(layout, "held_out" if own else split, crop))
        found.append(reference(study, layout, split).features.features)
        assert torch.allclose(found[-1], extract(extractor, [images])[0], atol=1e-6), crop

    assert not torch.allclose(*found, atol=1e-4)


def test_references_after_another_crop_than_the_protocols_are_refused(house, monkeypatch):
    state(monkeypatch, SAMPLES, crop="bilinear")

    with pytest.raises(ValueError, match="train.parquet: not the features of the study's current"):
        reference(*house, "train")


# Resize


@pytest.fixture
def resizes(monkeypatch):
    """The resize of every feature network that is loaded, in order."""
    network = replace(NETWORKS["subgroup-cnn"], load="toy_networks:noting_resize")
    monkeypatch.setitem(NETWORKS, network.name, network)
    toy_networks.resizes.clear()
    return toy_networks.resizes


@pytest.mark.parametrize(("own", "other"), [("tensorflow-1", "half-pixel"), ("half-pixel", "tensorflow-1")])
def test_images_and_references_go_through_the_network_with_the_resize_of_their_protocol(
    house, monkeypatch, resizes, own, other
):
    study, layout = darkened(*house), house[1]
    state(monkeypatch, SAMPLES, resize=own)
    state(monkeypatch, RECONSTRUCTIONS, resize=other)
    draw(layout, drawings(NUM_IMAGES, 1), shards=(0,))
    reconstruct(study, layout, "continuous", 0)

    reference_features(study, layout, "train")
    image_features(study, layout, layout.samples("mar", 0, "default", 0))
    image_features(study, layout, layout.reconstruction("continuous", 0))

    assert resizes == [own, own, other]


@pytest.mark.parametrize("resize", ["tensorflow-1", "half-pixel"])
def test_brought_images_go_through_the_network_with_the_resize_of_the_protocol(
    house, monkeypatch, resizes, tmp_path, resize
):
    state(monkeypatch, SAMPLES, resize=resize)

    score_images(*house, folder(tmp_path / "drawn", pixels(size=SIZE)), None, None, False)

    assert resizes == [resize]
