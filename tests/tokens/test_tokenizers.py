"""The two tokenizers by laws, and their weights files; test_released_parity.py compares them with the released code."""

import pytest
import torch
from safetensors.torch import save_file

from mixar.data.images import augment
from mixar.study import sections
from mixar.tokens import maskbit, tokenizers, vavae
from mixar.weights import load_module, read_metadata, save_weights

SMALL = sections.MaskBit(channels=32, multipliers=(1, 2), num_res_blocks=1, bits=6)
TRAINING = sections.TokenizerTraining(epochs=1, batch_size=1, learning_rate=1.0)


def test_full_size_tokenizers_have_the_released_parameter_counts():
    with torch.device("meta"):
        networks = [vavae.VaVae(sections.VaVae()), maskbit.MaskBit(sections.MaskBit())]
        kl16 = vavae.VaVae(sections.VaVae(latent_channels=16, decoder_attention=False))
    counts = [sum(p.numel() for p in n.parameters()) for n in networks]
    assert counts == [69_836_067, 54_489_489]
    assert sum(p.numel() for p in kl16.parameters()) == 66_456_019


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_training_reaches_every_parameter_and_lowers_the_loss(kind):
    torch.manual_seed(0)
    s = {"channels": 32, "multipliers": (1, 2), "num_res_blocks": 1}
    of_kind = {
        "continuous": sections.VaVae(**s, latent_channels=4, attention_levels=(1,)),
        "discrete": sections.MaskBit(**s, bits=6),
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


@pytest.mark.parametrize(("max_shift", "reach"), [(None, 2), (0, 0), (1, 1)])
def test_training_images_move_by_so_many_pixels_at_most_and_are_mirrored(max_shift, reach):
    images = torch.zeros(400, 16, 16, 3, dtype=torch.uint8)
    images[:, 8, 5] = 255

    moved = augment(images, torch.Generator().manual_seed(0), torch.device("cpu"), max_shift)

    rows, columns = moved[:, 0].nonzero()[:, 1:].unique(dim=0).T
    assert set(rows.tolist()) == set(range(8 - reach, 9 + reach))
    assert set(columns.tolist()) == {c + move for c in (5, 10) for move in range(-reach, reach + 1)}


def test_zero_counts_as_minus_one_and_the_first_channel_is_the_lowest_bit():
    quantizer, z = maskbit.Quantizer(3), torch.tensor([[0.0, 0.1, -0.0], [2.0, -1.0, 1e-9]])

    assert quantizer.tokens(z).tolist() == [2, 5]
    assert quantizer.bits_of(torch.tensor([2, 5])).tolist() == [[-1, 1, -1], [1, -1, 1]]


def test_decoding_refuses_tokens_that_form_no_square():
    network = maskbit.MaskBit(SMALL)
    with pytest.raises(ValueError, match="12 positions do not form a square grid"):
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
        save_file(tensors, path)
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
