"""Which images and labels a stage takes: labels of evaluation images, and training images in memory."""

import numpy as np
import pytest
import torch
from toy_tokens import prepared

from mixar.data.images import load_images
from mixar.data.manifest import read_manifest
from mixar.data.selection import evaluation_labels, proportional_counts, training_images


def test_evaluation_labels_follow_the_training_proportions_where_asked(tmp_path):
    study, layout = prepared(tmp_path, {"limit": None}, evaluation={"num_images": 1507, "labels": "training"})

    labels = evaluation_labels(study, layout)

    assert labels.tolist() == sorted(read_manifest(layout.manifest, "train")["label"].to_pylist())


def test_proportional_counts_add_up_and_stay_within_one_of_the_exact_share():
    rng = np.random.default_rng(0)
    for total in (1, 7, 1000):
        weights = rng.random(9)
        counts = proportional_counts(weights, total)
        assert counts.sum() == total
        assert np.abs(counts - weights / weights.sum() * total).max() < 1
    assert proportional_counts(np.ones(3), 7).tolist() == [3, 2, 2]


def test_training_images_are_one_tensor_in_the_order_of_the_manifest(tmp_path):
    study, layout = prepared(tmp_path)

    images = training_images(study, layout)

    assert images.dtype == torch.uint8
    assert torch.equal(images, load_images(read_manifest(layout.manifest, "train"), 8))


def test_images_that_do_not_fit_in_memory_are_refused(tmp_path):
    study, layout = prepared(tmp_path)

    with pytest.raises(ValueError, match="24 images of 8 pixels need"):
        training_images(study, layout, limit_gib=1e-9)
