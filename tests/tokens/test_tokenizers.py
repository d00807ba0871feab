"""Both tokenizers of a study: training, and weights that are saved and loaded."""

import pytest
import torch

from mixar.study import sections
from mixar.tokens import tokenizers
from mixar.weights import read_metadata, save_weights

SMALL = {"channels": 32, "multipliers": (1, 2), "num_res_blocks": 1}
SECTIONS = {
    "continuous": sections.VaVae(**SMALL, latent_channels=4, attention_levels=(1,)),
    "discrete": sections.MaskBit(**SMALL, bits=6),
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_training_reaches_every_parameter_and_lowers_the_loss(kind):
    torch.manual_seed(0)
    settings = sections.TokenizerTraining(epochs=1, batch_size=1, learning_rate=1.0)
    model = tokenizers.build(kind, SECTIONS[kind])
    images = torch.rand(4, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    errors = []

    for step in range(30):
        terms = model.training_loss(images, settings, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        errors.append(terms["mse"].item())

    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert errors[-1] < 0.5 * errors[0]


def test_saved_weights_come_back_with_their_metadata(tmp_path):
    network = tokenizers.build("discrete", SECTIONS["discrete"])
    save_weights(tmp_path / "w.safetensors", network.state_dict(), {"seed": 3}, torch.float16)

    loaded = tokenizers.load("discrete", SECTIONS["discrete"], tmp_path / "w.safetensors")

    assert read_metadata(tmp_path / "w.safetensors") == {"seed": 3}
    assert torch.allclose(loaded.encoder.conv_in.weight, network.encoder.conv_in.weight, atol=1e-3)
    assert not loaded.training
