"""bfloat16 in every stage that runs a network without training it: what it narrows, and how far results move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from narrow_operations import Watch
from safetensors.numpy import load_file
from toy_runs import toy_study, write_inputs
from toy_tokens import prepared

from mixar.data.images import read_images
from mixar.model.mar import MAR
from mixar.reporting.results import precision_of
from mixar.stages.generate import generate
from mixar.stages.reconstruct import reconstruct
from mixar.stages.sample import sample
from mixar.stages.tokenize import tokenize
from mixar.stages.tokenizer import tokenizer
from mixar.weights import read_weights, save_weights

PRODUCTS = {"addmm", "mm", "bmm", "convolution"}
STEPS = {"num_iterations": 4, "head_steps": 20, "clip": 2.0}


def in_both(work, folder, has_products=True):
    """What `work` makes in float32 and in bfloat16, after a check of the types of its operations in this thread."""
    found = []
    for precision in ("float32", "bfloat16"):
        act, result = work(folder / precision, precision)
        with Watch() as watch:
            act()
        found.append(result())
        if precision == "float32":
            assert not watch.narrow
    assert bool(watch.narrow & PRODUCTS) == has_products and not watch.too_narrow
    return found


@pytest.mark.parametrize("run", ["mar", "mix", "maskbit"])
def test_images_drawn_in_bfloat16_are_those_of_float32_to_a_few_levels(tmp_path, run):
    def drawing(root, precision):
        samplers, generator = {"default": {**STEPS, "precision": precision}}, {"sampler": {"precision": precision}}
        study = toy_study(root, samplers=samplers, generator=generator)
        layout = write_inputs(study)
        if run != "maskbit":
            torch.manual_seed(5)
            model = MAR.from_study(study, run)
            for p in model.parameters():
                torch.nn.init.normal_(p, std=0.05)
            save_weights(layout.weights(run, 0), model.state_dict(), {})
        assert precision_of(study, "sample", run, "default") == precision
        path = layout.samples(run, 0, "default", 0)
        return lambda: sample(study, layout, run, 0, "default", 0), lambda: read_images(path)[2].astype(float)

    # Images are decoded in a thread of their own, which the watch does not see; what it narrows shows in the pixels.
    wide, narrow = in_both(drawing, tmp_path, has_products=run != "maskbit")

    assert narrow.std() > 10
    assert np.abs(narrow - wide).max() > 0 and np.abs(narrow - wide).mean() < 2


def test_tokens_are_drawn_from_float32_probabilities(tmp_path):
    def generating(root, precision):
        study = toy_study(root, generator={"sampler": {"precision": precision}})
        layout = write_inputs(study)
        path = layout.generated_shard(0)
        path.unlink()
        return lambda: generate(study, layout, 0), lambda: load_file(path)["tokens"]

    wide, narrow = in_both(generating, tmp_path)

    assert wide.shape == narrow.shape and narrow.max() < 16


def test_tokenising_follows_the_tokenizers_and_leaves_statistics_in_float32(tmp_path):
    def tokenizing(root, precision):
        section = {"precision": precision}
        study, layout = prepared(root, continuous=section, discrete=section)
        return lambda: tokenize(study, layout, 0), lambda: load_file(layout.token_shard(0))

    wide, narrow = in_both(tokenizing, tmp_path)

    moved = np.abs(narrow["latents"].astype(float) - wide["latents"])
    assert 0 < moved.max() < 0.05 * np.abs(wide["latents"]).max()
    bits = 4 * wide["tokens"].size
    flipped = sum(int(both).bit_count() for both in (wide["tokens"] ^ narrow["tokens"]).flat)
    assert flipped / bits < 0.02


def test_statistics_of_the_latents_are_the_same_whatever_the_tokenizers_precision(tmp_path):
    weights = tmp_path / "vae.safetensors"
    found = []
    for precision in ("float32", "bfloat16"):
        study, layout = prepared(tmp_path / precision)
        weights.write_bytes(layout.tokenizer("continuous").read_bytes())
        section = {**study.continuous.model_dump(), "weights": str(weights), "precision": precision}
        study = study.model_copy(update={"continuous": type(study.continuous)(**section)})
        with Watch() as watch:
            tokenizer(study, layout, "continuous")
        assert not watch.narrow
        found.append(read_weights(layout.statistics))

    assert all(torch.equal(found[0][key], found[1][key]) for key in ("mean", "std"))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_most_pixels_of_reconstructions_in_bfloat16_are_those_of_float32_to_a_few_levels(tmp_path, kind):
    def reconstructing(root, precision):
        study, layout = prepared(root, **{kind: {"precision": precision}})
        assert precision_of(study, "reconstruct", kind, None) == precision
        path = layout.reconstruction(kind, 0)
        return lambda: reconstruct(study, layout, kind, 0), lambda: read_images(path)[2].astype(float)

    wide, narrow = in_both(reconstructing, tmp_path)

    assert np.abs(narrow - wide).max() > 0 and np.median(np.abs(narrow - wide)) < 4  # a bit near zero may flip
