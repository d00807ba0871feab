"""Optimizers, their groups of parameters and the moving average of weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mixar.study.sections import Training
from mixar.training.optim import (
    average_decay,
    build_optimizer,
    learning_rate,
    parameter_groups,
    step_if_finite,
    update_average,
)

ITEMS = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))


def settings(**changes) -> Training:
    return Training(**{"epochs": 3, "batch_size": 4, "learning_rate": 0.64, "ema_decay": 0.5, **changes})


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_short_training_forgets_its_random_weights_under_the_default_decay():
    s = Training(epochs=1, batch_size=1, learning_rate=1.0)

    kept = np.prod([average_decay(s, step) for step in range(460)])

    assert s.ema_decay == 0.9999 and kept < 1e-15


@pytest.mark.parametrize(("steps", "moved"), [(250_000, 4e-9), (125_000, 1e-3)])
def test_the_warm_up_hardly_moves_the_average_of_a_long_training(steps, moved):
    s = Training(epochs=1, batch_size=1, learning_rate=1.0)
    warm = np.array([average_decay(s, step) for step in range(steps)])

    def mass(decays):  # of the initial weights, and of the weights after each step
        kept = np.append(np.cumprod(decays[::-1])[::-1], 1.0)
        return np.append(kept[0], (1 - decays) * kept[1:])

    difference = np.abs(mass(warm) - mass(np.full(steps, s.ema_decay))).sum() / 2

    assert difference < moved  # float32 rounds at 6e-8


def test_a_tensor_under_two_names_moves_once_towards_the_model():
    model, average = tied(), tied()
    nn.init.zeros_(average["a"].weight)
    nn.init.ones_(model["a"].weight)

    update_average(average, model, 0.9, torch.tensor(True))

    torch.testing.assert_close(average["a"].weight, torch.full((3, 3), 0.1))


def tied() -> nn.Module:
    """Two linear layers with one matrix."""
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    return model


def test_moments_and_average_skip_a_step_that_is_not_finite():
    model, average = nn.Linear(3, 3), nn.Linear(3, 3)
    optimizer = build_optimizer(model, settings())

    def moved(factor):
        (model(ITEMS).square().mean() * factor).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        is_finite = step_if_finite(optimizer, norm, 0.1)
        update_average(average, model, 0.9, is_finite)
        return copy.deepcopy((optimizer.state_dict()["state"], average.state_dict()))

    (first, mean), (second, mean_then), (third, mean_later) = moved(1.0), moved(float("inf")), moved(1.0)

    assert all(torch.equal(first[p][k], second[p][k]) for p in first for k in first[p]) and same(mean, mean_then)
    assert second[0]["step"] == 1 and third[0]["step"] == 2 and not same(mean_then, mean_later)


def test_vectors_biases_and_the_diffusion_head_do_not_decay_and_tables_do():
    model = nn.ModuleDict({"trunk": nn.Linear(2, 2), "norm": nn.LayerNorm(2), "diffloss": nn.Linear(2, 2)})
    model.register_parameter("fake_latent", nn.Parameter(torch.zeros(1, 2)))
    model["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    names = {id(p): name for name, p in model.named_parameters()}

    plain, decayed = parameter_groups(model, 0.02)

    assert {names[id(p)] for p in decayed["params"]} == {"trunk.weight", "fake_latent"}
    assert plain["weight_decay"] == 0 and decayed["weight_decay"] == 0.02
    assert sum(len(g["params"]) for g in (plain, decayed)) == 7
    assert build_optimizer(model, settings()).defaults["betas"] == (0.9, 0.95)


def test_muon_orthogonalises_the_updates_of_kernels_and_leaves_vectors_to_adamw():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
    optimizer = build_optimizer(layer, settings(optimizer="muon", weight_decay=0.0))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    moved = {name: (p.detach() - before[name]) / 0.1 for name, p in layer.named_parameters()}

    assert torch.allclose(moved["bias"].abs(), torch.tensor(1.9), atol=1e-3)  # the sign, and Nesterov's 0.9 more
    lengths = torch.linalg.svdvals(moved["weight"].flatten(1)) / (0.2 * 36**0.5)  # AdamW's root mean square, 0.2
    assert ((lengths > 0.6) & (lengths < 1.4)).all() and lengths.numel() == 6


def test_the_rate_rises_from_zero_falls_to_its_final_share_and_grows_with_the_batch():
    s = settings(epochs=10, batch_size=512, learning_rate=0.5, warmup_epochs=2, schedule="cosine", final_rate=0.1)

    rates = [learning_rate(s, epoch) for epoch in (0, 1, 2, 6, 10, 11)]

    np.testing.assert_allclose(rates, [0, 0.5, 1.0, 0.55, 0.1, 0.1])
    assert learning_rate(s, 2, restarted=0.25) == 0.25
    assert learning_rate(s.model_copy(update={"schedule": "constant"}), 9.5) == 1.0


def test_what_is_no_optimizer_is_refused_by_name():
    own = settings().model_copy(update={"optimizer": "toy_own:no_optimizer"})

    with pytest.raises(ValueError, match="toy_own:no_optimizer': returned a list; expected a torch.optim.Optim"):
        build_optimizer(nn.Linear(2, 2), own)


def test_the_average_copies_whole_numbers_and_stays_where_a_step_was_not_finite():
    model, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    model(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    before = {name: value.clone() for name, value in average.state_dict().items()}

    update_average(average, model, 0.75, torch.tensor(False))
    kept = {name: value.clone() for name, value in average.state_dict().items()}
    update_average(average, model, 0.75, torch.tensor(True))

    assert torch.equal(kept["running_mean"], before["running_mean"]) and kept["num_batches_tracked"] == 1
    torch.testing.assert_close(average.running_mean, 0.25 * model.running_mean)


def test_an_optimizer_without_the_devices_switch_waits_and_keeps_its_weights_at_a_norm_that_is_not_finite():
    layer = nn.Linear(1, 1)
    layer.weight.grad = torch.ones_like(layer.weight)
    before = layer.weight.detach().clone()
    optimizer = torch.optim.RMSprop(layer.parameters(), lr=0.0, alpha=0.0, eps=0.0)

    skipped = step_if_finite(optimizer, torch.tensor(float("nan")), 0.5)

    assert not skipped and torch.equal(layer.weight, before) and layer.weight.grad is None
    layer.weight.grad = torch.ones_like(layer.weight)
    assert step_if_finite(optimizer, torch.tensor(1.0), 0.5)
    torch.testing.assert_close(layer.weight.detach(), before - 0.5)  # RMSprop without memory: the sign
