"""The masked autoregressive transformer against MAR's released code (stored inputs, draws and results), and by laws."""

import pytest
import torch
from toy_models import LENGTH, STRATEGIES, Reference, assert_near, our_name, randomise, toy_batch, toy_mar

from mixar.model.layers import put, take
from mixar.model.mar import split_positions


@pytest.fixture(scope="module")
def reference():
    return Reference()


def reference_loss(reference, is_training):
    """Our loss with the reference's label drops, timesteps and noise, those of unmasked positions left out."""
    s, repeats = reference.stored, reference.config["diffusion_batch_mul"]
    drop = (s["loss/draw/label_drop_u"] < reference.config["label_drop_prob"]) & is_training
    batch = reference.batch(drop)
    kept = batch["m"].flatten().repeat(repeats)
    t, noise = s["loss/draw/t"][kept], s["loss/draw/noise"][kept]
    return reference.model(**batch, head_batch_multiplier=repeats, t=t, noise=noise), batch, kept


def test_the_stored_mask_hides_the_first_entries_of_the_orders(reference):
    s = reference.stored
    count = int(torch.ceil(LENGTH * s["draw/mask_rate"]))
    assert torch.equal(s["in/mask"].bool(), torch.zeros(3, LENGTH).scatter_(1, s["draw/orders"][:, :count], 1).bool())
    assert torch.equal(reference.batch(None)["x"], s["forward/out/tokens"])


def test_encoder_and_condition_equal_the_reference(reference):
    batch = reference.batch(torch.zeros(3, dtype=torch.bool))
    visible, _ = split_positions(batch["m"])
    encoded = reference.model.encode(batch["x"], batch["q"], batch["c"], batch["drop"], visible, {})
    assert_near(encoded, reference.stored["forward/out/encoder"])
    assert_near(reference.model.condition(**batch), reference.stored["forward/out/z"])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_loss_equals_the_reference(reference, mode):
    loss, _, _ = reference_loss(reference, mode == "train")
    assert_near(loss, reference.stored[f"loss/out/{mode}/loss"])


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_loss_of_each_masked_row_equals_the_reference(reference, mode):
    s, repeats = reference.stored, reference.config["diffusion_batch_mul"]
    _, batch, kept = reference_loss(reference, mode == "train")
    z, x = (h.flatten(0, 1)[batch["m"].flatten()] for h in (reference.model.condition(**batch), batch["x"]))
    head = reference.model.diffloss
    rows = head.loss(z, x, t=s["loss/draw/t"][kept], noise=s["loss/draw/noise"][kept], repeats=repeats)
    assert_near(rows, s[f"loss/out/{mode}/terms/loss"][kept], 5e-5)


def test_gradients_equal_the_reference(reference):
    reference.model.zero_grad()
    reference_loss(reference, True)[0].backward()
    found = {name: p.grad for name, p in reference.model.named_parameters()}
    prefix = "loss/out/train/"
    norms = {k.removeprefix(f"{prefix}gradnorm/"): v for k, v in reference.stored.items() if f"{prefix}gradnorm/" in k}
    for key, norm in norms.items():
        assert_near(found.pop(our_name(key)).norm(), norm, 5e-5)
    assert not found, "parameters of ours that the reference lacks"
    gradients = {k.removeprefix(f"{prefix}grad/"): v for k, v in reference.stored.items() if f"{prefix}grad/" in k}
    parameters = dict(reference.model.named_parameters())
    for key, gradient in gradients.items():
        assert_near(parameters[our_name(key)].grad, gradient, 5e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_latents_at_masked_positions_do_not_matter(strategy):
    model, batch = randomise(toy_mar(strategy)), toy_batch()
    z = model.condition(**batch)
    batch["x"] = batch["x"].masked_fill(batch["m"][..., None], 7.0)
    assert torch.equal(model.condition(**batch), z)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("num_masked", [0, 1, LENGTH])
def test_any_number_of_positions_may_be_missing(strategy, num_masked):
    z = toy_mar(strategy).condition(**toy_batch(num_masked=num_masked))
    assert z.shape == (2, LENGTH, 32) and z.isfinite().all()


def test_a_dropped_class_is_ignored():
    model, batch = randomise(toy_mar()), toy_batch(size=2)
    z = model.condition(**batch)
    batch["c"] = (batch["c"] + 1) % 4
    kept, dropped = (model.condition(**batch) - z).abs().amax((1, 2))
    assert kept > 0 and dropped == 0


def test_images_do_not_influence_each_other():
    model, batch = randomise(toy_mar("dc_mix")), toy_batch(size=3)
    alone = model.condition(**{k: v[1:2] for k, v in batch.items()})
    torch.testing.assert_close(model.condition(**batch)[1:2], alone, rtol=1e-5, atol=1e-5)


def test_positions_split_into_visible_and_masked_in_ascending_order():
    m = torch.tensor([[True, False, True, False], [False, False, True, True]])
    visible, masked = split_positions(m)
    assert visible.tolist() == [[1, 3], [0, 1]] and masked.tolist() == [[0, 2], [2, 3]]


def test_rows_that_miss_unequal_numbers_of_tokens_are_refused():
    with pytest.raises(AssertionError, match="between 1 and 2"):
        split_positions(torch.tensor([[True, False, False], [True, True, False]]))


def test_put_is_the_inverse_of_take():
    h, rows = torch.randn(2, 5, 3), torch.tensor([[4, 0], [1, 3]])
    assert torch.equal(take(h, rows), torch.stack([h[0, [4, 0]], h[1, [1, 3]]]))
    assert torch.equal(put(h, rows, take(h, rows)), h)
    assert torch.equal(take(put(h, rows, torch.ones(2, 2, 3)), rows), torch.ones(2, 2, 3))


def test_the_same_generator_state_gives_the_same_loss():
    model, batch = randomise(toy_mar("dc_mix")), toy_batch()
    losses = [model(**batch, rng=torch.Generator().manual_seed(seed), head_batch_multiplier=3) for seed in (5, 5, 6)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bfloat16_autocast_stays_near_float32(strategy):
    model, batch = toy_mar(strategy), toy_batch()
    z = model.condition(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert_near(model.condition(**batch), z, 0.05)
        loss = model(**batch, rng=torch.Generator().manual_seed(0), head_batch_multiplier=2)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_eight_images_can_be_overfitted():
    model, batch = toy_mar("dc_mix").train(), toy_batch(size=8)
    batch["x"] = batch["x"] / 2
    rng, optimizer = torch.Generator().manual_seed(0), torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(100):
        orders = torch.rand(8, LENGTH, generator=rng).argsort(1)
        batch["m"] = torch.zeros(8, LENGTH, dtype=torch.bool).scatter_(1, orders[:, :12], True)
        loss = model(**batch, rng=rng, head_batch_multiplier=4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
