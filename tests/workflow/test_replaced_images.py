"""After images were replaced and ingested again, no stage uses what was made from the old ones."""

import pytest
from toy_images import folder, pixels, png
from toy_runs import toy_study, write_networks
from toy_scored import reference
from toy_strategies import Fused

from mixar.stages import train as stage
from mixar.stages.extractor import extractor
from mixar.stages.features import reference_features
from mixar.stages.generator import generator
from mixar.stages.ingest import ingest
from mixar.stages.tokenize import tokenize
from mixar.study.layout import Layout


@pytest.fixture
def house(tmp_path):
    """A toy study of its own images in class folders, tokenized in two shards; and the folder of the images."""
    images = tmp_path / "images"
    for seed, name in enumerate(("a", "b", "c")):
        folder(images / name, pixels(8, seed, 8))
    data = {"source": "folder", "path": str(images), "num_shards": 2}
    runs = {"fused": {"model": "s", "guidance": {"strategy": "toy_strategies:Fused"}}}
    hardware = {"checkpoint_minutes": 1e-9}
    study = toy_study(tmp_path / "results", data=data, runs=runs, hardware=hardware)
    layout = Layout(study)
    write_networks(study, layout)
    made(study, layout)
    return study, layout, images


def made(study, layout, shards=(0, 1)):
    ingest(study, layout)
    for shard in shards:
        tokenize(study, layout, shard)


def replace_one(images):
    (images / "b" / "00003.png").write_bytes(png(pixels(1, 99, 8)[0]))


@pytest.mark.parametrize("train", [lambda *house: stage.train(*house, "mar", 0), generator])
def test_tokens_of_replaced_images_are_refused(house, train):
    study, layout, images = house
    replace_one(images)
    ingest(study, layout)

    with pytest.raises(ValueError, match="the shards hold other images than .*manifest.parquet does now; run `tokeni"):
        train(study, layout)

    made(study, layout, shards=[1])
    with pytest.raises(ValueError, match="shard-00001.safetensors: made of other images than .*shard-00000"):
        train(study, layout)


def test_images_that_were_moved_are_the_same_images(house, tmp_path):
    study, layout, images = house
    images.rename(tmp_path / "elsewhere")
    moved = study.model_copy(update={"data": study.data.model_copy(update={"path": str(tmp_path / "elsewhere")})})

    ingest(moved, layout)

    stage.train(moved, layout, "mar", 0)
    assert layout.weights("mar", 0).is_file()


def test_reference_features_of_replaced_images_are_refused(house):
    study, layout, images = house
    extractor(study, layout)
    reference_features(study, layout, "train")
    reference(study, layout, "train")
    for file in images.glob("*/00003.png"):  # some of them are training images
        file.write_bytes(png(pixels(1, 50 + ord(file.parent.name), 8)[0]))
    ingest(study, layout)

    with pytest.raises(ValueError, match="train.parquet: not the features of the study's current train images"):
        reference(study, layout, "train")


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_training_in_flight_continues_with_its_own_images_alone(house, is_replaced, capsys):
    study, layout, images = house

    def stop():
        raise RuntimeError("power cut")

    Fused.fuse, Fused.end = 3, stop
    try:
        with pytest.raises(RuntimeError, match="power cut"):
            stage.train(study, layout, "fused", 0)
    finally:
        Fused.fuse = None
    if is_replaced:
        replace_one(images)
    made(study, layout)
    capsys.readouterr()

    stage.train(study, layout, "fused", 0)

    assert ("continues after 2/4 steps" in capsys.readouterr().out) == (not is_replaced)
