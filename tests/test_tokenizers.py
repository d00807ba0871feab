"""The two tokenizers by laws, and their weights files; test_released_parity.py compares them with the released code."""

import pytest
import torch

from mixar import spec
from mixar.tokens import maskbit, tokenizers, vavae
from mixar.weights import load_module, read_metadata, save_weights

SMALL = spec.MaskBit(channels=32, multipliers=(1, 2), num_res_blocks=1, bits=6)
TRAINING = spec.TokenizerTraining(epochs=1, batch_size=1, learning_rate=1.0)


def test_full_size_tokenizers_have_the_released_parameter_counts():
    with torch.device("meta"):
        networks = [vavae.VaVae(spec.VaVae()), maskbit.MaskBit(spec.MaskBit())]
        kl16 = vavae.VaVae(spec.VaVae(latent_channels=16, decoder_attention=False))
    counts = [sum(p.numel() for p in n.parameters()) for n in networks]
    assert counts == [69_836_067, 54_489_489]
    assert sum(p.numel() for p in kl16.parameters()) == 66_456_019


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_training_reaches_every_parameter_and_lowers_the_loss(kind):
    torch.manual_seed(0)
    s = {"channels": 32, "multipliers": (1, 2), "num_res_blocks": 1}
    of_kind = {
        "continuous": spec.VaVae(**s, latent_channels=4, attention_levels=(1,)),
        "discrete": spec.MaskBit(**s, bits=6),
    }
    model = tokenizers.build(kind, of_kind[kind])
    images = torch.rand(4, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    errors = []
    for step in range(30):
        terms = model.training_loss(images, TRAINING, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        errors.append(terms["mse"].item())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert errors[-1] < 0.5 * errors[0]


def test_zero_counts_as_minus_one_and_the_first_channel_is_the_lowest_bit():
    quantizer, z = maskbit.Quantizer(3), torch.tensor([[0.0, 0.1, -0.0], [2.0, -1.0, 1e-9]])

    assert quantizer.tokens(z).tolist() == [2, 5]
    assert quantizer.bits_of(torch.tensor([2, 5])).tolist() == [[-1, 1, -1], [1, -1, 1]]


def test_decoding_refuses_tokens_that_form_no_square():
    network = maskbit.MaskBit(SMALL)
    with pytest.raises(ValueError, match="12 positions are no square grid"):
        network.decode_tokens(torch.zeros(1, 12, dtype=torch.long))


def test_saved_weights_come_back_with_their_metadata(tmp_path):
    network = maskbit.MaskBit(SMALL)
    save_weights(tmp_path / "w.safetensors", network.state_dict(), {"seed": 3}, torch.float16)
    loaded = tokenizers.load("discrete", SMALL, tmp_path / "w.safetensors")
    assert read_metadata(tmp_path / "w.safetensors") == {"seed": 3}
    assert torch.allclose(loaded.encoder.conv_in.weight, network.encoder.conv_in.weight, atol=1e-3)
    assert not loaded.training


@pytest.mark.parametrize("damage", ["missing", "truncated", "surplus", "shape", "nan"])
def test_weights_that_do_not_fit_are_refused_with_the_reason(tmp_path, damage):
    path, layer = tmp_path / "w.safetensors", torch.nn.Linear(2, 3)
    tensors = dict(layer.state_dict())
    if damage == "surplus":
        tensors["more"] = torch.zeros(1)
    if damage == "shape":
        tensors["bias"] = torch.zeros(4)
    if damage == "nan":
        tensors["weight"] = torch.full((3, 2), float("nan"))
    if damage != "missing":
        save_weights(path, tensors, {})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    reasons = {
        "missing": "no such weights file",
        "truncated": "damaged",
        "surplus": "surplus: more",
        "shape": r"bias: shape \[4\], expected \[3\]",
        "nan": "not finite",
    }
    with pytest.raises(ValueError, match=reasons[damage]):
        load_module(torch.nn.Linear(2, 3), path)
