"""The diffusion process by laws: its tables, its loss and its reverse step."""

import numpy as np
import pytest
import torch

from mixar.model.diffusion import Diffusion, discretised_nll


def rows(count, channels=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(count, channels, generator=rng, dtype=torch.float64) for _ in range(3)]


def test_respacing_to_every_step_changes_nothing():
    full = Diffusion(50)

    same = full.respaced(50)

    assert same.timesteps == full.timesteps == full.timesteps_on(torch.device("cpu")).tolist()
    np.testing.assert_allclose(same.betas, full.betas, rtol=1e-9)


def test_respaced_steps_keep_the_noise_level_of_their_timesteps():
    full = Diffusion(1000)

    short = full.respaced(7)

    assert (short.timesteps[0], short.timesteps[-1]) == (0, 999)
    np.testing.assert_allclose(short.alphas_cumprod, full.alphas_cumprod[short.timesteps], rtol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 1001])
def test_an_impossible_number_of_steps_is_refused_by_name(steps):
    with pytest.raises(ValueError, match=f"head_steps: {steps} .* 2 to 1000"):
        Diffusion(1000).respaced(steps)


def test_noising_keeps_unit_variance():
    process = Diffusion(1000)
    c = process.at(torch.arange(1000))

    assert torch.allclose(c.signal**2 + c.spread**2, torch.ones(1000, 1), atol=1e-6)


def test_numbers_and_columns_of_a_step_agree():
    process = Diffusion(1000).respaced(9)

    columns = process.at(torch.tensor([5, 0]))

    for row, index in enumerate((5, 0)):
        found = torch.stack([column[row, 0] for column in columns])
        assert torch.allclose(found, torch.tensor(process.at(index)), rtol=1e-6)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("channel", [0, 3])
@pytest.mark.parametrize("index", [0, 5])
def test_a_row_whose_output_is_not_finite_stays_so(wrong, channel, index):
    process = Diffusion(1000).respaced(9)
    x, _, noise = rows(4, channels=2)
    output = torch.zeros(4, 4)
    output[2, channel] = wrong

    found = process.step(output, x, index, noise)

    assert found.isfinite().all(dim=1).tolist() == [True, True, False, True]


def test_the_last_step_is_free_of_noise_and_others_scale_it_with_temperature():
    process = Diffusion(1000).respaced(9)
    x, output, noise = rows(4)
    output = torch.cat([output, output], dim=1)

    silent = [process.step(output, x, index, noise, 0.0) for index in (0, 5)]

    assert torch.equal(process.step(output, x, 0, noise), silent[0])
    full, half = (process.step(output, x, 5, noise, temperature) - silent[1] for temperature in (1.0, 0.5))
    assert torch.allclose(full, 2 * half) and full.abs().min() > 0


def test_the_true_noise_leads_back_to_the_latents():
    process = Diffusion(1000).respaced(20)
    x, noise, v = rows(5)
    x_t = process.add_noise(x, torch.full((5,), 19), noise)

    for index in reversed(range(20)):
        c = process.at(index)
        output = torch.cat([(x_t - c.signal * x) / c.spread, v], dim=1)
        x_t = process.step(output, x_t, index, noise, 0.0)

    assert torch.allclose(x_t, x, atol=1e-5)


def test_a_perfect_prediction_has_no_loss_but_the_first_step_s_likelihood():
    x, noise, _ = rows(4)
    t = torch.tensor([0, 1, 500, 999])
    output = torch.cat([noise, -torch.ones_like(x)], dim=1)

    mse, bound = Diffusion(1000).loss_terms(output, x, t, noise)

    assert mse.abs().max() == 0
    assert bound[1:].abs().max() < 1e-6
    assert bound[0] > 0


def test_the_bound_equals_the_divergence_of_the_two_gaussians():
    process = Diffusion(1000)
    x, noise, v = rows(5, seed=1)
    predicted = noise + 0.3 * v
    t = torch.tensor([1, 10, 300, 700, 999])

    _, bound = process.loss_terms(torch.cat([predicted, v], dim=1), x, t, noise)

    def column(table):
        return torch.tensor(getattr(process, table))[t][:, None]

    low, high = column("posterior_log_variance_clipped"), column("betas").log()
    distance = column("posterior_mean_coef1") * column("sqrt_recipm1_alphas_cumprod") * (predicted - noise)
    true = torch.distributions.Normal(distance, (low / 2).exp())
    model = torch.distributions.Normal(torch.zeros_like(x), ((low + (v + 1) / 2 * (high - low)) / 2).exp())
    expected = torch.distributions.kl_divergence(true, model).mean(dim=1) / np.log(2)
    assert torch.allclose(bound, expected, rtol=1e-4, atol=1e-6)


def test_the_bound_trains_the_variance_only_and_the_error_the_noise_only():
    x, noise, output = rows(4)
    output = torch.cat([output, output], dim=1).requires_grad_()
    t = torch.tensor([0, 3, 400, 999])

    mse, bound = Diffusion(1000).loss_terms(output, x, t, noise)
    by_error, by_bound = (torch.autograd.grad(term.sum(), output, retain_graph=True)[0] for term in (mse, bound))

    assert by_error[:, 3:].abs().max() == 0 and by_error[:, :3].abs().min() > 0
    assert by_bound[:, :3].abs().max() == 0 and by_bound[:, 3:].abs().min() > 0


def test_the_likelihood_enters_where_t_is_0_alone_and_rows_far_off_keep_finite_gradients():
    x, noise, v = (part.float() for part in rows(6))
    t, process = torch.tensor([0, 3, 0, 400, 999, 0]), Diffusion(1000)
    predicted = torch.where((t == 0)[:, None], noise + v, 1e15)  # cubed in the likelihood, these would overflow
    output = torch.cat([predicted, v], dim=1)

    def losses(part):
        leaf = output[part].clone().requires_grad_()
        mse, bound = process.loss_terms(leaf, x[part], t[part], noise[part])
        return mse, bound, torch.autograd.grad((mse + bound).sum(), leaf)[0]

    together, first, others = (losses(part) for part in (slice(None), t == 0, t != 0))

    for whole, at_0, elsewhere in zip(together, first, others, strict=True):
        assert torch.equal(whole[t == 0], at_0) and torch.equal(whole[t != 0], elsewhere)
        assert whole.isfinite().all()
    c = process.at(t[t == 0])
    error, log_variance = c.mean_noise * v[t == 0], c.log_variance_mid + c.log_variance_half * v[t == 0]
    nll = discretised_nll(x[t == 0], error, log_variance).mean(dim=1)
    assert torch.allclose(together[1][t == 0], nll / np.log(2), rtol=1e-4)


def test_the_bins_of_the_likelihood_fill_the_line():
    centres = torch.arange(-127, 128, dtype=torch.float64)[:, None] * 2 / 255
    edges = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    x = torch.cat([edges[:1], centres, edges[1:]])
    mean, log_variance = 0.2, torch.full_like(x, -2.0)

    # The outer bins are open: their inner borders meet those of the neighbours 1/255 away.
    x_at_border = torch.cat([centres[:1] - 2 / 255, centres, centres[-1:] + 2 / 255])
    probability = (-discretised_nll(x, x_at_border - mean, log_variance)).exp()

    assert abs(probability.sum() - 1) < 1e-9


@pytest.mark.parametrize("index", [0, 3, 9])
def test_clipping_bounds_the_latents_that_a_step_predicts(index):
    process, rng = Diffusion().respaced(10), torch.Generator().manual_seed(index)
    x_t, predicted, noise = (torch.randn(50, 3, generator=rng) for _ in range(3))
    c = process.at(index)
    output = torch.cat([predicted, torch.zeros_like(predicted)], 1)

    clipped = process.step(output, x_t, index, noise, clip=0.5)

    implied = ((x_t - c.spread * predicted) / c.signal).clamp(-0.5, 0.5)
    same = torch.cat([(x_t - c.signal * implied) / c.spread, torch.zeros_like(predicted)], 1)
    assert torch.allclose(clipped, process.step(same, x_t, index, noise), atol=1e-4)
    far = process.step(output, x_t, index, noise, clip=1e9)
    assert torch.equal(far, process.step(output, x_t, index, noise))
