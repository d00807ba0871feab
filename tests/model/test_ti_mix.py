"""TI-Mix: who keeps its token, who gets a generated one, and when."""

import pytest
import torch
from torch import nn

from mixar.model.masking import mask_first, sample_orders
from mixar.model.ti_mix import draw_tokens, guidance_rate, mix_tokens
from mixar.study.choices import SCHEDULES
from mixar.study.sections import TiMix


class FakeGenerator(nn.Module):
    """Two groups of two bits a token. Its favourite at every position is group value `c % 4`; it records its input."""

    mask_value = 4

    def __init__(self, certainty=1000.0):
        super().__init__()
        self.certainty = certainty
        self.weight = nn.Parameter(torch.ones(()))
        self.seen = None

    def split(self, q):
        return torch.stack([q % 4, q // 4], dim=-1)

    def join(self, t):
        return t[..., 0] + 4 * t[..., 1]

    def forward(self, t, c):
        self.seen = t.clone()
        favourite = nn.functional.one_hot(c % 4, 4).float()[:, None, None]
        return (self.weight * self.certainty * favourite).expand(*t.shape, 4)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(batch_size=6, length=20):
    q = torch.randint(16, (batch_size, length), generator=rng())
    m = mask_first(sample_orders(batch_size, length, rng(1)), round(0.7 * length))
    return q, m, torch.arange(batch_size)


def test_the_generator_sees_visible_tokens_and_its_mask_token_elsewhere():
    q, m, c = batch()
    generator = FakeGenerator()

    draw_tokens(generator, q, m, c, 1.0, rng())

    assert (generator.seen[m] == generator.mask_value).all()
    assert torch.equal(generator.seen[~m], generator.split(q)[~m])


def test_drawn_tokens_keep_visible_positions_and_follow_the_generator_elsewhere():
    q, m, c = batch()
    before = q.clone()

    q_hat = draw_tokens(FakeGenerator(), q, m, c, 1.0, rng())

    assert q_hat.dtype == torch.int64 and q_hat.shape == q.shape
    assert torch.equal(q_hat[~m], q[~m])
    assert torch.equal(q_hat[m], (c % 4 * 5)[:, None].expand_as(q)[m])
    assert torch.equal(q, before) and not q_hat.requires_grad


def test_drawn_groups_have_the_generator_s_probabilities_at_the_temperature():
    q, c = torch.zeros(40, 500, dtype=torch.int64), torch.zeros(40, dtype=torch.int64)

    q_hat = draw_tokens(FakeGenerator(certainty=2.0), q, torch.ones_like(q, dtype=torch.bool), c, 0.5, rng())

    expected = torch.softmax(torch.tensor([4.0, 0, 0, 0]), dim=0)
    for group in (q_hat % 4, q_hat // 4):
        assert torch.allclose(group.flatten().bincount(minlength=4) / group.numel(), expected, atol=0.01)


@pytest.mark.parametrize("hidden", [False, True])
def test_tokens_may_be_all_visible_or_all_missing(hidden):
    q, _, c = batch()

    q_hat = draw_tokens(FakeGenerator(), q, torch.full(q.shape, hidden), c, 1.0, rng())

    assert torch.equal(q_hat, (c % 4 * 5)[:, None].expand_as(q) if hidden else q)


def test_drawing_and_mixing_depend_only_on_the_generator_state():
    q, m, c = batch()
    generator = FakeGenerator(certainty=0.0)

    q_hat = draw_tokens(generator, q, m, c, 1.0, rng(2))

    assert torch.equal(q_hat, draw_tokens(generator, q, m, c, 1.0, rng(2)))
    assert not torch.equal(q_hat, draw_tokens(generator, q, m, c, 1.0, rng(3)))
    assert torch.equal(mix_tokens(q, q_hat, m, 0.5, rng(2)), mix_tokens(q, q_hat, m, 0.5, rng(2)))


def test_rate_one_gives_the_ground_truth_exactly():
    q, m, _ = batch(64, 64)

    assert torch.equal(mix_tokens(q, q + 1, m, 1.0, rng()), q)


def test_rate_zero_gives_generated_tokens_at_every_missing_position_and_nowhere_else():
    q, m, _ = batch(64, 64)

    mixed = mix_tokens(q, q + 1, m, 0.0, rng())

    assert torch.equal(mixed[m], q[m] + 1)
    assert torch.equal(mixed[~m], q[~m])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_the_share_of_missing_positions_that_keep_the_ground_truth(rate):
    q, m, _ = batch(200, 100)

    mixed = mix_tokens(q, q + 1, m, rate, rng(4))

    assert torch.equal(mixed[~m], q[~m])
    assert (mixed == q)[m].float().mean().item() == pytest.approx(rate, abs=0.02)


@pytest.mark.parametrize("schedule", sorted(SCHEDULES.table))
def test_schedules_never_rise_and_stay_between_start_and_end(schedule):
    ti_mix = TiMix(schedule=schedule, start=0.9, end=0.2)

    rates = [guidance_rate(ti_mix, i / 100) for i in range(101)]

    assert all(later <= earlier + 1e-12 for earlier, later in zip(rates, rates[1:], strict=False))
    assert rates[0] == 0.9
    assert rates[-1] == (0.9 if schedule == "constant" else 0.2)


def test_schedules_have_their_shapes():
    def halfway(schedule, progress):
        return guidance_rate(TiMix(schedule=schedule, step_at=0.3), progress)

    assert halfway("linear", 0.25) == 0.75
    assert halfway("cosine", 0.5) == pytest.approx(0.5) and halfway("cosine", 0.25) > 0.75
    assert (halfway("step", 0.29), halfway("step", 0.3)) == (1.0, 0.0)
    assert halfway("constant", 0.99) == 1.0


def test_your_own_schedule_is_one_function_and_one_line_of_the_study():
    assert guidance_rate(TiMix(schedule="toy_own:cubic", start=0.8), 0.5) == 0.1


def test_a_rate_outside_0_and_1_is_refused():
    with pytest.raises(ValueError, match=r"'toy_own:beyond': gave λ = 1.5 at progress 0.5; it must be in \[0, 1\]"):
        guidance_rate(TiMix(schedule="toy_own:beyond"), 0.5)


def test_a_rate_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="'toy_own:nothing': gave .*, not a number"):
        guidance_rate(TiMix(schedule="toy_own:nothing"), 0.5)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_outside_the_run_is_refused(progress):
    with pytest.raises(ValueError, match="outside"):
        guidance_rate(TiMix(), progress)
