"""MaskBit: its size, bits and entropies; test_released_parity.py compares it with the released code."""

import pytest
import torch

from mixar.study import sections
from mixar.tokens import maskbit

SMALL = sections.MaskBit(channels=32, multipliers=(1, 2), num_res_blocks=1, bits=6)
TRAINING = sections.TokenizerTraining(epochs=1, batch_size=1, learning_rate=1.0)


def test_the_full_size_network_has_the_released_parameter_count():
    with torch.device("meta"):
        network = maskbit.MaskBit(sections.MaskBit())

    assert sum(p.numel() for p in network.parameters()) == 54_489_489


def test_entropies_of_groups_add_up_a_sample_exactly_and_a_batch_to_an_upper_bound():
    z = torch.randn(5, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    rows, quantizer = z.permute(0, 2, 3, 1).reshape(-1, 6), maskbit.Quantizer(6)
    whole = TRAINING.model_copy(update={"entropy_weight": 1.0, "entropy_temperature": 1.0})
    grouped = whole.model_copy(update={"entropy_groups": 2})
    alone, batch = maskbit.entropy_terms(rows, quantizer.codebook, 1.0)

    def of(gamma):
        return maskbit.quantizer_losses(z, quantizer.codebook, grouped.model_copy(update={"entropy_gamma": gamma}))[1]

    parts = [maskbit.entropy_terms(part, maskbit.Quantizer(3).codebook, 1.0) for part in (rows[:, :3], rows[:, 3:])]
    assert torch.allclose(of(0.0), alone, atol=1e-3)
    assert torch.allclose(of(0.0) - of(1.0), parts[0][1] + parts[1][1], atol=1e-5)
    assert parts[0][1] + parts[1][1] > batch
    assert torch.equal(maskbit.quantizer_losses(z, quantizer.codebook, whole)[1], alone - batch)


def test_zero_counts_as_minus_one_and_the_first_channel_is_the_lowest_bit():
    quantizer, z = maskbit.Quantizer(3), torch.tensor([[0.0, 0.1, -0.0], [2.0, -1.0, 1e-9]])

    assert quantizer.tokens(z).tolist() == [2, 5]
    assert quantizer.bits_of(torch.tensor([2, 5])).tolist() == [[-1, 1, -1], [1, -1, 1]]


def test_the_bits_of_every_token_give_that_token_back():
    quantizer, q = maskbit.Quantizer(6), torch.arange(2**6)

    assert torch.equal(quantizer.tokens(quantizer.bits_of(q)), q)


def test_decoding_refuses_tokens_that_form_no_square():
    network = maskbit.MaskBit(SMALL)
    with pytest.raises(ValueError, match="12 positions do not form a square grid"):
        network.decode_tokens(torch.zeros(1, 12, dtype=torch.long))
