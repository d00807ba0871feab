"""Preview sheets: fixed labels and noise, whatever else is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from toy_runs import NUM_HELD_OUT, NUM_IMAGES, toy_study, write_inputs

from mixar.data.shards import TokenStore
from mixar.model.mar import MAR
from mixar.preview import DRAWN, LABELS, Preview, spread


@pytest.fixture
def preview(tmp_path):
    study = toy_study(tmp_path)
    layout = write_inputs(study)
    torch.manual_seed(0)
    return Preview(study, layout, "mix", TokenStore(layout.token_shards())), MAR.from_study(study, "mix").eval()


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_a_sheet_depends_on_the_weights_alone(preview, tmp_path):
    draw, model = preview
    draw(model, tmp_path / "a.png", "toy")
    torch.rand(3)
    draw(model, tmp_path / "b.png", "toy")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape) / 50
    draw(model, tmp_path / "c.png", "toy")

    first, again, other = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_sheet_leaves_random_numbers_and_gradients_alone(preview, tmp_path):
    draw, model = preview
    before = torch.random.get_rng_state()

    draw(model, tmp_path / "a.png", "toy")

    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())


def test_every_label_has_its_reconstruction_and_its_draws(preview):
    draw, model = preview

    images = draw._images(model)

    assert images.shape == ((1 + DRAWN) * NUM_HELD_OUT, 8, 8, 3) and images.dtype == torch.uint8
    assert draw.store.held_out[draw.rows].all() and draw._names() == ["a", "a", "b", "c"]


def test_a_preview_is_short_even_where_the_study_draws_with_many_steps(tmp_path):
    study = toy_study(tmp_path, samplers={"default": {"num_iterations": 64, "head_steps": 100, "cfg": 2.9}})

    draw = Preview(study, layout := write_inputs(study), "mar", TokenStore(layout.token_shards()))

    assert (draw.sampler.num_iterations, draw.sampler.head_steps, draw.sampler.cfg) == (16, 25, 2.9)


@pytest.mark.parametrize(("count", "most"), [(NUM_IMAGES, LABELS), (3, LABELS), (0, LABELS), (7, 7)])
def test_spread_rows_ascend_from_the_first_and_are_as_many_as_there_can_be(count, most):
    rows = spread(torch.arange(count) * 10, most)

    assert len(rows) == min(count, most)
    assert sorted(set(rows.tolist())) == rows.tolist()
    assert not count or rows[0] == 0
