"""Latents: drawing, normalising, and the statistics of both kinds."""

import pytest
import torch
from toy_runs import toy_study, write_inputs
from toy_tokenizers import Patches

from mixar.tokens import tokenizers
from mixar.tokens.latents import (
    denormalise,
    draw_latents,
    latent_decoder,
    latent_statistics,
    normalise,
    read_statistics,
)


def test_denormalising_undoes_normalising_and_normalised_latents_have_mean_zero_and_deviation_one():
    x = 2 + 3 * torch.randn(50, 16, 4, generator=torch.Generator().manual_seed(0))
    mean, std = x.mean((0, 1)), x.std((0, 1))

    found = normalise(x, mean, std)

    assert torch.allclose(found.mean((0, 1)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(found.std((0, 1)), torch.ones(4))
    assert torch.allclose(denormalise(found, mean, std), x, atol=1e-5)


def test_draws_follow_their_generator_and_have_the_posteriors_deviation(tmp_path):
    model = Patches(toy_study(tmp_path).continuous, noise=0.1)
    images = torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    first, again, other = (draw_latents(model, images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))

    assert torch.equal(first, again)
    assert (first - other).std().item() == pytest.approx(0.1 * 2**0.5, rel=0.05)


@torch.no_grad()
def test_decoding_denormalises_and_lays_the_positions_out_row_by_row(tmp_path):
    study = toy_study(tmp_path)
    layout = write_inputs(study)
    z = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    normalised = (z.flatten(2).transpose(1, 2) - 1.0) / 2.0  # the toy statistics: mean 1, std 2

    images = latent_decoder(study, layout, torch.device("cpu"))(normalised)

    model = tokenizers.load("continuous", study.continuous, layout.tokenizer("continuous"))
    torch.testing.assert_close(images, (model.decode(z) + 1) / 2, rtol=1e-4, atol=1e-5)


def test_one_scale_replaces_the_statistics(tmp_path):
    study = toy_study(tmp_path, continuous={"scale": 0.25})
    layout = write_inputs(study)
    layout.statistics.unlink()

    mean, std = latent_statistics(study, layout)

    assert mean.tolist() == [0.0] * 8 and std.tolist() == [4.0] * 8


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"mean": torch.zeros(3)}, "expected mean and std of 3 channels"),
        ({"mean": torch.zeros(3), "std": torch.ones(4)}, "expected mean and std of 3 channels"),
        ({"mean": torch.zeros(3), "std": torch.tensor([1.0, 0.0, 1.0])}, "above zero in every channel"),
        ({"mean": torch.full((3,), torch.inf), "std": torch.ones(3)}, "the mean must be finite"),
    ],
)
def test_files_that_hold_no_statistics_of_the_channels_are_refused(tmp_path, found, said):
    torch.save(found, tmp_path / "statistics.pt")

    with pytest.raises(ValueError, match=f"statistics.pt: .*{said}"):
        read_statistics(tmp_path / "statistics.pt", channels=3)


def test_released_statistics_of_four_dimensions_become_one(tmp_path):
    torch.save({"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}, tmp_path / "statistics.pt")

    found = read_statistics(tmp_path / "statistics.pt", channels=3)

    assert {key: value.tolist() for key, value in found.items()} == {"mean": [0.0] * 3, "std": [1.0] * 3}
