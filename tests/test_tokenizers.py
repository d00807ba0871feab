"""The two tokenizers against the released code (stored inputs and results), and by laws; their weights files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mixar import spec
from mixar.tokens import maskbit, vavae
from mixar.weights import load_module, read_metadata, save_weights

VECTORS = Path(__file__).parent / "vectors"
TRAINING = spec.TokenizerTraining(epochs=1, batch_size=1, learning_rate=1.0)


def read(name):
    with safe_open(VECTORS / f"{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
    return config, load_file(VECTORS / f"{name}.safetensors")


def assert_near(found, expected, tolerance=1e-5):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture(scope="module")
def continuous():
    config, stored = read("vavae")
    ae = config["ae"]
    levels = [i for i in range(len(ae["ch_mult"])) if ae["resolution"] // 2**i in ae["attn_resolutions"]]
    s = spec.VaVae(
        channels=ae["ch"],
        multipliers=ae["ch_mult"],
        num_res_blocks=ae["num_res_blocks"],
        latent_channels=ae["embed_dim"],
        attention_levels=levels,
    )
    network = vavae.VaVae(s).requires_grad_(False)
    network.load_state_dict({k.removeprefix("sd/"): v for k, v in stored.items() if k.startswith("sd/")})
    return network, stored


@pytest.fixture(scope="module")
def discrete():
    config, stored = read("maskbit_tokenizer")
    tok = config["tok"]
    s = spec.MaskBit(
        channels=tok["hidden_channels"],
        multipliers=tok["channel_mult"],
        num_res_blocks=tok["num_res_blocks"],
        bits=tok["token_size"],
    )
    network = maskbit.MaskBit(s).requires_grad_(False)
    network.load_state_dict({k.removeprefix("sd/"): v for k, v in stored.items() if k.startswith("sd/")})
    return network, stored, tok


def test_vavae_encodes_as_the_released_code(continuous):
    network, stored = continuous
    mean, logvar = network.encode(stored["encode/in/image"])
    assert_near(mean, stored["encode/out/mean"])
    assert_near(logvar, stored["encode/out/logvar"])
    assert_near(vavae.sample_posterior(mean, logvar, stored["encode/draw/noise"]), stored["encode/out/sample"])
    assert_near(vavae.kl_divergence(mean, logvar), stored["encode/out/kl"])


def test_vavae_decodes_as_the_released_code(continuous):
    network, stored = continuous
    assert_near(network.decode(stored["decode/in/z"]), stored["decode/out/image"])


def test_maskbit_tokenizes_as_the_released_code(discrete):
    network, stored, _ = discrete
    z = network.encoder(stored["in/image"])
    assert_near(z, stored["out/z"])
    assert torch.equal(network.tokens(stored["in/image"]), stored["out/indices"].flatten(1).long())
    assert_near(maskbit.straight_through(z), stored["out/z_quantized"])


def test_maskbit_decodes_as_the_released_code(discrete):
    network, stored, _ = discrete
    straight = network.decoder(maskbit.straight_through(network.encoder(stored["in/image"])))
    assert_near(straight, stored["out/decoded"])
    q = stored["out/indices"].flatten(1).long()
    assert_near(network.decode_tokens(q), stored["out/decoded_from_indices"].clamp(0, 1))


def test_maskbit_pads_images_that_are_not_square_as_the_released_code(discrete):
    network, stored, _ = discrete
    z = network.encoder(stored["in/image_nonsquare"])
    assert_near(z, stored["out/nonsquare/z"])
    assert torch.equal(network.quantize.tokens(z), stored["out/nonsquare/indices"].long())
    assert_near(network.decoder(maskbit.straight_through(z)), stored["out/nonsquare/decoded"])


def test_quantiser_maps_zero_to_minus_one_and_counts_bits_from_the_least(discrete):
    network, stored, _ = discrete
    z = stored["quant/in/z"]
    assert torch.equal(network.quantize.tokens(z), stored["quant/out/indices"].long())
    entries = network.quantize.bits_of(torch.arange(len(network.quantize.codebook)))
    assert torch.equal(entries, stored["quant/out/codebook_entries"])


def test_quantiser_losses_are_those_of_the_released_code(discrete):
    network, stored, tok = discrete
    s = TRAINING.model_copy(
        update={
            "commitment_weight": tok["commitment_cost"],
            "entropy_weight": tok["entropy_loss_weight"],
            "entropy_temperature": tok["entropy_loss_temperature"],
            "entropy_gamma": tok["entropy_gamma"],
        }
    )
    commitment, entropy = maskbit.quantizer_losses(stored["quant/in/z"], network.quantize.codebook, s)
    assert_near(commitment, stored["quant/out/train/commitment_loss"])
    assert_near(entropy, stored["quant/out/train/entropy_loss"])


def test_full_size_tokenizers_have_the_released_parameter_counts():
    with torch.device("meta"):
        networks = [vavae.VaVae(spec.VaVae()), maskbit.MaskBit(spec.MaskBit())]
        kl16 = vavae.VaVae(spec.VaVae(latent_channels=16, decoder_attention=False))
    counts = [sum(p.numel() for p in n.parameters()) for n in networks]
    assert counts == [69_836_067, 54_489_489]
    assert sum(p.numel() for p in kl16.parameters()) == 66_456_019


@pytest.mark.parametrize("module, network", [(vavae, "VaVae"), (maskbit, "MaskBit")])
def test_training_reaches_every_parameter_and_lowers_the_loss(module, network):
    torch.manual_seed(0)
    s = {"channels": 32, "multipliers": (1, 2), "num_res_blocks": 1}
    s = spec.VaVae(**s, latent_channels=4, attention_levels=(1,)) if module is vavae else spec.MaskBit(**s, bits=6)
    model = getattr(module, network)(s)
    images = torch.rand(4, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    errors = []
    for step in range(30):
        terms = module.training_loss(model, images, TRAINING, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        errors.append(terms["mse"].item())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert errors[-1] < 0.5 * errors[0]


def test_decoding_refuses_tokens_that_form_no_square(discrete):
    network, _, _ = discrete
    with pytest.raises(ValueError, match="12 positions are no square grid"):
        network.decode_tokens(torch.zeros(1, 12, dtype=torch.long))


def test_saved_weights_come_back_with_their_metadata(tmp_path, discrete):
    network, _, tok = discrete
    save_weights(tmp_path / "w.safetensors", network.state_dict(), {"seed": 3}, torch.float16)
    s = spec.MaskBit(channels=32, multipliers=tok["channel_mult"], num_res_blocks=1, bits=tok["token_size"])
    loaded = maskbit.load(s, tmp_path / "w.safetensors")
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
