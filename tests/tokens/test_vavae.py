"""VA-VAE: its size, and the laws of its posterior. test_released_parity.py compares it with the released code."""

import math

import pytest
import torch

from mixar.study import sections
from mixar.tokens import vavae

KL16 = sections.VaVae(latent_channels=16, decoder_attention=False)


def test_full_size_networks_have_the_released_parameter_counts():
    with torch.device("meta"):
        networks = vavae.VaVae(sections.VaVae()), vavae.VaVae(KL16)

    counts = [sum(p.numel() for p in network.parameters()) for network in networks]

    assert counts == [69_836_067, 66_456_019]


def test_draws_from_the_posterior_have_its_mean_and_deviation():
    mean, logvar = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 2 * math.log(0.5))
    noise = torch.randn(100_000, 1, 1, 1, generator=torch.Generator().manual_seed(0))

    drawn = vavae.sample_posterior(mean, logvar, noise)

    assert drawn.mean().item() == pytest.approx(3.0, abs=0.01)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.01)


def test_the_divergence_is_zero_for_a_standard_normal_and_that_of_torch_elsewhere():
    mean, logvar = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0))

    found = vavae.kl_divergence(mean, logvar)

    standard = torch.distributions.Normal(0, 1)
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (0.5 * logvar).exp()), standard)
    assert torch.allclose(found, expected.flatten(1).sum(1), rtol=1e-4)
    assert vavae.kl_divergence(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3)).tolist() == [0, 0]
