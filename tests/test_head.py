"""The diffusion head against MAR's released code (stored inputs, draws and results), and by laws."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from mixar.model.head import DiffusionHead

VECTORS = Path(__file__).parent / "vectors" / "mar_diffloss.safetensors"


@pytest.fixture(scope="module")
def config():
    with safe_open(VECTORS, "pt") as file:
        return json.loads(file.metadata()["config"])


@pytest.fixture(scope="module")
def stored():
    return load_file(VECTORS)


def stored_head(config, stored, weights):
    head = DiffusionHead(config["target_channels"], config["z_channels"], config["width"], config["depth"])
    head.load_state_dict({k.removeprefix(f"{weights}/"): v for k, v in stored.items() if k.startswith(f"{weights}/")})
    assert head.diffusion.num_steps == config["n_timesteps_train"]
    return head.requires_grad_(False)


def assert_near(found, expected, tolerance):
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def tiny_head(seed=0, channels=3, cond_width=6, width=16, depth=2):
    """A head with random numbers everywhere, so that no path is trivially zero."""
    torch.manual_seed(seed)
    head = DiffusionHead(channels, cond_width, width, depth)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    return head


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def predicted_x(process, index, x, output):
    """x_0 as the noise predictor sees it, by the textbook formula."""
    shape = [-1, 1] if isinstance(index, torch.Tensor) else []
    recip, recipm1 = (
        torch.tensor(table[index]).view(shape).float()
        for table in (process.sqrt_recip_alphas_cumprod, process.sqrt_recipm1_alphas_cumprod)
    )
    return recip * x - recipm1 * output[:, : x.shape[1]]


def test_stored_training_terms_are_reproduced(config, stored):
    head = stored_head(config, stored, "sd_train")
    x, z, t = (stored[f"train/in/{name}"] for name in ("target", "z", "t"))
    noise = stored["train/draw/noise"]

    x_t = head.diffusion.add_noise(x, t, noise)
    output = head.net(x_t, t, z)
    mse, bound = head.diffusion.loss_terms(output, x, t, noise)
    loss = head.loss(z, x, t=t, noise=noise)
    mask = stored["train/in/mask"]

    assert_near(x_t, stored["train/out/x_t"], 1e-6)
    assert_near(output, stored["train/out/model_output"], 1e-5)
    assert_near(mse, stored["train/out/mse"], 1e-5)
    assert_near(bound, stored["train/out/vb"], 5e-5)
    assert_near(loss, stored["train/out/loss"], 5e-5)
    assert_near((loss * mask).sum() / mask.sum(), stored["train/out/masked_mean"], 5e-5)


@pytest.mark.parametrize("guided", [False, True])
def test_stored_single_reverse_steps_are_reproduced(config, stored, guided):
    head = stored_head(config, stored, "sd_train")
    process = head.diffusion.respaced(int(config["respacing"]))
    x, z, index, noise = (stored[f"step/{name}"] for name in ("in/x", "in/c", "in/t_index", "draw/noise"))
    t = torch.tensor(process.timesteps)[index]

    # Both halves of a guided call see the first half's latents and its guided noise; each keeps its own variance.
    if guided:
        output = head.net(x.chunk(2)[0].repeat(2, 1), t, z)
        half = head._guided(x.chunk(2)[0], head.net.time_embed(t) + head.net.cond_embed(z), 3.0)
        assert_near(half, stored["step/out/model_output_cfg3"].chunk(2)[0], 1e-5)
        output[:, : x.shape[1]] = half[:, : x.shape[1]].repeat(2, 1)
        assert_near(output, stored["step/out/model_output_cfg3"], 1e-5)
    else:
        output = head.net(x, t, z)
    mean = process.step(output, x, index, noise, 0.0)
    sample = process.step(output, x, index, noise, 0.95)
    c = process.at(index)
    log_variance = c.log_variance_mid + c.log_variance_half * output[:, x.shape[1] :]

    kept = f"step/cfg{3 if guided else 1}/out"
    assert_near(mean, stored[f"{kept}/mean"], 1e-5)
    assert_near(log_variance, stored[f"{kept}/log_variance"], 1e-5)
    assert_near(sample, stored[f"{kept}/sample"], 1e-5)
    assert_near(predicted_x(process, index, x, output), stored[f"{kept}/pred_xstart"], 1e-5)


def stored_draws(stored, cfg):
    return stored["sample/draw/init"], stored["sample/draw/steps_cfg1" if cfg == 1 else "sample/draw/steps_cfg"]


def stored_condition(stored, cfg):
    z, z_null = stored["sample/in/z_cond"], stored["sample/in/z_uncond"]
    return z if cfg == 1 else torch.cat([z, z_null])


@pytest.mark.parametrize("temperature", [1.0, 0.95])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_stored_sampling_loops_are_reproduced(config, stored, cfg, temperature):
    head = stored_head(config, stored, "sd_sample")
    draws = stored_draws(stored, cfg)

    x = head.sample(
        stored_condition(stored, cfg), int(config["respacing"]), cfg=cfg, temperature=temperature, draws=draws
    )

    expected = stored[f"sample/out/cfg{cfg:g}_temp{temperature:g}"]
    assert_near(x, expected[: len(draws[0])], 1e-3)


@pytest.mark.parametrize("temperature", [1.0, 0.95])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_each_step_of_the_stored_loops_follows_from_the_one_before(config, stored, cfg, temperature):
    head = stored_head(config, stored, "sd_sample")
    process = head.diffusion.respaced(int(config["respacing"]))
    condition = head.net.cond_embed(stored_condition(stored, cfg))
    x, noises = stored_draws(stored, cfg)
    kept = f"sample/out/cfg{cfg:g}_temp{temperature:g}"

    for s, index in enumerate(reversed(range(len(process.timesteps)))):
        time = head.net.time_embed(torch.tensor([process.timesteps[index]]))
        output = head._guided(x, time + condition, cfg)
        drawn = process.step(output, x, index, noises[s, : len(x)], temperature)
        # The first steps magnify the rounding of the network, by these factors.
        of_x0, of_x = process.sqrt_recipm1_alphas_cumprod[index], process.at(index).mean_noise
        rounding = 1e-5 * output[:, : x.shape[1]].abs().max()
        error = predicted_x(process, index, x, output) - stored[f"{kept}/pred_xstart"][s]
        assert error.abs().max() <= rounding * max(of_x0, 1)
        assert (drawn - stored[f"{kept}/trajectory"][s]).abs().max() <= rounding * max(of_x, 1)
        x = stored[f"{kept}/trajectory"][s]


def test_more_rows_than_timesteps_give_the_same_loss_and_gradients():
    head = tiny_head().double()
    z = torch.randn(1100, 6, generator=rng(), dtype=torch.float64)
    x, noise = (torch.randn(1100, 3, generator=rng(seed), dtype=torch.float64) for seed in (1, 2))
    t = torch.randint(1000, (1100,), generator=rng(3))

    at_once = head.loss(z, x, t=t, noise=noise)
    at_once.mean().backward()
    gradients = {name: p.grad.clone() for name, p in head.named_parameters()}
    head.zero_grad()
    parts = slice(0, 500), slice(500, 1100)
    in_parts = torch.cat([head.loss(z[part], x[part], t=t[part], noise=noise[part]) for part in parts])
    in_parts.mean().backward()

    assert torch.allclose(at_once, in_parts)
    assert all(torch.allclose(gradients[name], p.grad, atol=1e-12) for name, p in head.named_parameters())


def test_repeats_stand_block_after_block_and_equal_repeated_rows():
    head = tiny_head()
    z, x = torch.randn(5, 6, generator=rng()), torch.randn(5, 3, generator=rng(1))
    t = torch.randint(1000, (15,), generator=rng(2))
    noise = torch.randn(15, 3, generator=rng(3))

    repeated = head.loss(z, x, t=t, noise=noise, repeats=3)

    expected = head.loss(torch.cat([z, z, z]), torch.cat([x, x, x]), t=t, noise=noise)
    assert torch.allclose(repeated, expected, rtol=1e-5)
    assert torch.allclose(repeated[5:10], head.loss(z, x, t=t[5:10], noise=noise[5:10]), rtol=1e-5)


def test_the_same_generator_state_gives_the_same_loss_and_sample():
    head = tiny_head()
    z, x = torch.randn(4, 6, generator=rng()), torch.randn(4, 3, generator=rng(1))

    assert torch.equal(head.loss(z, x, rng(7), repeats=2), head.loss(z, x, rng(7), repeats=2))
    assert torch.equal(head.sample(z, 5, rng(7), cfg=2.0), head.sample(z, 5, rng(7), cfg=2.0))
    assert not torch.equal(head.loss(z, x, rng(7)), head.loss(z, x, rng(8)))


def test_guidance_towards_equal_conditions_changes_nothing():
    head = tiny_head()
    z = torch.randn(4, 6, generator=rng())

    guided = head.sample(z.repeat(2, 1), 5, rng(1), cfg=3.0)

    assert guided.shape == (4, 3)
    assert torch.allclose(guided, head.sample(z, 5, rng(1)), rtol=1e-3, atol=1e-3 * guided.abs().max().item())


def test_a_row_is_drawn_alike_alone_and_among_others():
    head = tiny_head()
    z = torch.randn(4, 6, generator=rng())
    draws = torch.randn(4, 3, generator=rng(1)), torch.randn(6, 4, 3, generator=rng(2))

    together = head.sample(z, 6, draws=draws)
    alone = head.sample(z[2:3], 6, draws=(draws[0][2:3], draws[1][:, 2:3]))

    assert torch.allclose(together[2:3], alone, rtol=1e-3, atol=1e-3 * together.abs().max().item())


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_no_rows_give_no_latents_and_no_losses(cfg):
    head = tiny_head()

    assert head.sample(torch.zeros(0, 6), 5, rng(), cfg=cfg).shape == (0, 3)
    losses = head.loss(torch.zeros(0, 6), torch.zeros(0, 3), rng(), repeats=2)
    losses.sum().backward()
    assert losses.shape == (0,)


def test_a_fresh_head_predicts_zero_and_so_loses_the_variance_of_the_noise():
    torch.manual_seed(0)
    head = DiffusionHead(3, 6, 16, 2)
    z, x = torch.randn(4000, 6, generator=rng()), torch.randn(4000, 3, generator=rng(1))

    output = head.net(x, torch.arange(4000) % 1000, z)

    assert output.abs().max() == 0
    assert all((block.adaLN_modulation[1].weight == 0).all() for block in [*head.net.res_blocks, head.net.final_layer])
    assert head.net.time_embed.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert head.net.cond_embed.weight.abs().max() <= (6 / (6 + 16)) ** 0.5


def test_the_paper_s_large_head_has_its_number_of_parameters():
    with torch.device("meta"):
        head = DiffusionHead(channels=32, cond_width=1024, width=1536, depth=12)

    assert sum(p.numel() for p in head.parameters()) == 150_887_488


def test_every_parameter_receives_a_gradient():
    head = tiny_head()

    head.loss(torch.randn(8, 6), torch.randn(8, 3), rng()).mean().backward()

    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in head.parameters())


class ExactNetwork(nn.Module):
    """The best possible noise predictor for latents that are normal around z with a given spread."""

    def __init__(self, diffusion, spread):
        super().__init__()
        self.diffusion, self.spread = diffusion, spread
        self.cond_embed = nn.Identity()
        self.cond_embed.weight = torch.zeros(())

    def time_embed(self, t):
        self.t = t.flip(0)  # the loop runs from the last timestep to the first
        return torch.zeros(len(t), 1)

    def denoise(self, x, y):
        c, self.t = self.diffusion.at(self.t[:1]), self.t[1:]
        variance = (c.signal * self.spread) ** 2 + c.spread**2
        noise = c.spread / variance * (x - c.signal * y)
        return torch.cat([noise, -torch.ones_like(x)], dim=1)


def test_sampling_with_the_exact_noise_predictor_draws_from_the_true_distribution():
    head = tiny_head(channels=2)
    head.net = ExactNetwork(head.diffusion, spread=0.3)
    z = torch.tensor([1.0, -0.5]).expand(4000, 2)

    x = head.sample(z, 200, rng())

    assert (x.mean(dim=0) - z[0]).abs().max() < 0.02
    assert (x.std(dim=0) - 0.3).abs().max() < 0.02
