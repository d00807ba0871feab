"""The diffusion head by laws; test_released_parity.py compares it with MAR's released code."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixar.model.head import DiffusionHead


def tiny_head(seed=0, channels=3, cond_width=6, width=16, depth=2):
    """A head with random numbers everywhere, so that no path is trivially zero."""
    torch.manual_seed(seed)
    head = DiffusionHead(channels, cond_width, width, depth)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.2)
    return head


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def plain_denoise(net, x, y):
    """HeadNetwork.denoise with everything kept for the backward pass, and modulation cast to h's precision at once."""
    h, s = net.input_proj(x).to(x.dtype), F.silu(y)
    for block in net.res_blocks:
        shift, scale, gate = block.adaLN_modulation[1](s).to(h.dtype).chunk(3, dim=1)
        change = block.mlp(torch.addcmul(shift, block.in_ln(h), 1 + scale))
        h = torch.addcmul(h, gate, change.to(h.dtype))
    shift, scale = net.final_layer.adaLN_modulation[1](s).to(h.dtype).chunk(2, dim=1)
    normed = F.layer_norm(h, h.shape[-1:], eps=net.res_blocks[0].in_ln.eps)
    return net.final_layer.linear(torch.addcmul(shift, normed, 1 + scale)).float()


@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_recomputed_in_the_backward_pass_changes_no_bit(autocast):
    head, found = tiny_head(), []
    x, y = torch.randn(50, 3, generator=rng()), torch.randn(50, 16, generator=rng(1), requires_grad=True)

    for denoise in (head.net.denoise, partial(plain_denoise, head.net)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = denoise(x, y)
        used = [p for name, p in head.net.named_parameters() if not name.startswith(("time_embed", "cond_embed"))]
        found.append([output, *torch.autograd.grad(output.square().sum(), [y, *used])])

    assert all(torch.equal(lean, plain) for lean, plain in zip(*found, strict=True))


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


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_steps_that_share_a_modulation_compute_it_once(cfg):
    head, z, calls = tiny_head(), torch.randn(8, 6, generator=rng()), []
    head.net.res_blocks[0].adaLN_modulation[1].register_forward_hook(lambda *_: calls.append(1))

    each, shared = (head.sample(z, 7, rng(1), cfg, modulation_every=k) for k in (1, 3))

    assert len(calls) == 7 + 3
    assert shared.isfinite().all() and not torch.equal(shared, each)


def test_a_shared_modulation_is_the_same_where_it_does_not_depend_on_the_step():
    head, z = tiny_head(), torch.randn(8, 6, generator=rng())
    nn.init.zeros_(head.net.time_embed.mlp[2].weight)

    each, shared = (head.sample(z, 7, rng(1), 2.0, modulation_every=k) for k in (1, 7))

    assert torch.equal(shared, each)


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

    def denoise(self, x, y, modulations=None):
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
