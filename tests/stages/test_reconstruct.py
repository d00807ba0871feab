"""`reconstruct`: held-out images after a tokenizer, and their PSNR."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from toy_tokens import prepared

from mixar.data.images import load_images, read_images
from mixar.data.manifest import read_manifest
from mixar.stages.reconstruct import psnr_db, reconstruct


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("tokens"))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_reconstructions_cover_the_held_out_images_with_their_psnr(house, kind):
    study, layout = house
    for shard in range(2):
        reconstruct(study, layout, kind, shard)
    paths = [layout.reconstruction(kind, shard) for shard in range(2)]
    parts = [read_images(p) for p in paths]
    manifest = read_manifest(layout.manifest, "held_out")

    assert np.concatenate([p[0] for p in parts]).tolist() == manifest["index"].to_pylist()
    assert np.concatenate([p[1] for p in parts]).tolist() == manifest["label"].to_pylist()
    made = np.concatenate([p[2] for p in parts]).astype(float)
    originals = load_images(manifest, study.data.image_size).numpy()
    expected = 10 * np.log10(255**2 / np.square(made - originals).mean((1, 2, 3)))
    found = np.concatenate([pq.read_table(p)["psnr"].to_numpy() for p in paths])
    assert np.allclose(found, expected)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_one_start_reconstructs_every_shard_as_several_do_and_keeps_what_is_there(house, kind):
    study, layout = house
    for shard in range(2):
        reconstruct(study, layout, kind, shard)
    paths, seen = [layout.reconstruction(kind, shard) for shard in range(2)], []
    alone = [read_images(path)[2] for path in paths]
    inode = paths[0].stat().st_ino
    paths[1].unlink()

    reconstruct(study, layout, kind, then=seen.append)

    assert all(np.array_equal(before, read_images(path)[2]) for before, path in zip(alone, paths, strict=True))
    assert seen == paths and paths[0].stat().st_ino == inode
    assert not list(layout.root.glob("checkpoints/reconstruct-*/*"))


def test_psnr_of_one_level_everywhere_is_the_textbook_value_and_equal_images_stay_finite():
    black = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)

    found = psnr_db(black, torch.stack([black[0] + 1, black[1]]))

    assert found[0].item() == pytest.approx(20 * np.log10(255))
    assert found[0] < found[1] < 100


def test_an_unknown_tokenizer_is_refused_with_the_two_there_are(house):
    with pytest.raises(ValueError, match="'both' is unknown; choose from continuous, discrete"):
        reconstruct(*house, "both", 0)
