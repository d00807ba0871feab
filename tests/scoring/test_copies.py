"""Copies: the nearest training image by brute force, and shares that are known for equal, copied and far sets."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mixar.scoring.copies import COMMON, copies_value, nearest, pixel_space, reach_of, write_nearest
from mixar.scoring.metrics.precision_recall import BLOCK


def gaussian(n: int, seed: int, width: int = 6) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, width))).float()


def share(drawn: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor) -> dict:
    keys = np.arange(len(drawn))
    reach = reach_of(nearest(held_out, training))
    return copies_value("features", nearest(drawn, training), reach, keys, keys % 3, groups=10)


def test_the_nearest_equals_brute_force_across_blocks():
    x, y = gaussian(BLOCK + 30, 0), gaussian(200, 1)

    found = nearest(x, y)

    between = np.linalg.norm(x.numpy()[:, None] - y.numpy(), axis=2)
    assert np.array_equal(found.place, between.argmin(axis=1))
    assert np.allclose(found.distance, between.min(axis=1), atol=1e-3)


def test_images_like_the_held_out_ones_have_the_common_share():
    training, held_out, drawn = gaussian(500, 0), gaussian(2000, 1), gaussian(2000, 2)

    found = share(drawn, training, held_out)

    assert found["value"] == pytest.approx(COMMON, abs=4 * np.sqrt(2 * COMMON / 2000))
    assert found["low"] <= found["value"] <= found["high"] and found["n"] == 2000


@pytest.mark.parametrize("copied", [0.0, 0.3, 1.0])
def test_repeated_training_images_are_copies_and_far_images_are_none(copied):
    training, held_out = gaussian(400, 0), gaussian(400, 1)
    count = int(copied * 400)
    drawn = torch.cat([training[:count] + 1e-4, gaussian(400 - count, 2) + 50])

    assert share(drawn, training, held_out)["value"] == pytest.approx(copied)


def test_the_interval_is_that_of_a_share_over_groups_of_images():
    training, held_out = gaussian(400, 0), gaussian(400, 1)
    drawn = torch.cat([training[:200], gaussian(200, 2) + 50])

    found = share(drawn, training, held_out)

    assert len(found["replicates"]) == 10 and np.mean(found["replicates"]) == pytest.approx(0.5, abs=1e-9)
    assert 0 < found["high"] - found["low"] < 0.3


@pytest.mark.parametrize("side", [16, 32, 64])
def test_pixels_are_averaged_to_at_most_32_a_side(side):
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)

    found = pixel_space(images)

    kept = min(side, 32)
    assert found.shape == (3, 3 * kept * kept) and 0 <= found.min() <= found.max() <= 1
    blocks = images.reshape(3, kept, side // kept, kept, side // kept, 3).mean(axis=(2, 4)) / 255
    assert np.allclose(found.view(3, 3, kept, kept).movedim(1, -1).numpy(), blocks, atol=1e-6)


def test_the_file_names_training_images_by_their_index(tmp_path):
    training, drawn = gaussian(5, 0), gaussian(5, 0)[[3, 1]]

    write_nearest(tmp_path / "n.parquet", np.array([7, 9]), np.array([10, 20, 30, 40, 50]),
                  {"features": nearest(drawn, training)})  # fmt: skip

    rows = pq.read_table(tmp_path / "n.parquet").to_pydict()
    assert rows["index"] == [7, 9] and rows["nearest_features"] == [40, 20]
    assert np.allclose(rows["distance_features"], 0, atol=1e-2)
