"""The training loop, its schedule and average, and the state it resumes from."""

from __future__ import annotations

import gc
import math
import re
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mixar.study.sections import Training
from mixar.training import checkpoints
from mixar.training.distributed import Context
from mixar.training.loop import MOST_SKIPPED, SECONDS_BETWEEN_QUESTIONS, Curve, Fit, Wishes, fit, total_steps
from mixar.training.state import State

ALONE = Context(0, 1, torch.device("cpu"))
NUM_ITEMS = 10
ITEMS = torch.randn(NUM_ITEMS, 3, generator=torch.Generator().manual_seed(1))


def settings(**changes) -> Training:
    return Training(**{"epochs": 3, "batch_size": 4, "learning_rate": 0.64, "ema_decay": 0.5, **changes})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 3))


def noisy_step(model, rows, rng, progress):
    """Randomness from both sources a network may use: the step's generator, and dropout's global state."""
    x = ITEMS[rows]
    return {"loss": (model(x + torch.randn(x.shape, generator=rng)) - x).square().mean()}


OPTIONS = {"load", "steps_before", "begin", "restart_steps", "until", "are_states_kept", "watcher", "resume_changed"}


def run_fit(folder: Path, step=noisy_step, model=None, minutes=1e-9, announce=None, **changes) -> Fit:
    options = {name: changes.pop(name) for name in OPTIONS & changes.keys()}
    return fit(
        model or network(),
        step,
        settings(**changes),
        name="toy",
        num_items=NUM_ITEMS,
        seed=3,
        folder=folder,
        context=ALONE,
        checkpoint_minutes=minutes,
        announce=announce or (lambda *_: None),
        **options,
    )


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def without_seconds(curve: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in curve]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("stopped_at", range(2, 7))
def test_stopping_after_any_step_and_resuming_equals_not_stopping(tmp_path, stopped_at, optimizer):
    def stop(done, total, note):
        if done == stopped_at:  # a step is announced before it is saved, so this one is done again
            raise KeyboardInterrupt

    whole = run_fit(tmp_path / "whole", optimizer=optimizer)
    with pytest.raises(KeyboardInterrupt):
        run_fit(tmp_path / "broken", announce=stop, optimizer=optimizer)
    other_weights = network().apply(lambda m: nn.init.ones_(m.weight) if isinstance(m, nn.Linear) else None)
    resumed = run_fit(tmp_path / "broken", model=other_weights, optimizer=optimizer)

    assert same(whole.weights, resumed.weights)
    assert without_seconds(whole.curve) == without_seconds(resumed.curve)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_training_asked_to_end_saves_its_state_and_says_how_to_resume(tmp_path, capsys, number, code):
    def told_to_end(done, total, note):
        if done == 3:
            signal.raise_signal(number)

    whole = run_fit(tmp_path / "whole")
    before = signal.getsignal(number)
    with pytest.raises(SystemExit, match=str(code)):
        run_fit(tmp_path / "told", announce=told_to_end, minutes=1e9)
    assert signal.getsignal(number) == before
    assert checkpoints.newest(tmp_path / "told", 6) == 3
    resumed = run_fit(tmp_path / "told")

    said = f"toy: stopped after 3/6 steps, saved in {tmp_path}/told. To continue, run this again, or the snakemake"
    assert said in capsys.readouterr().out
    assert same(whole.weights, resumed.weights)
    assert without_seconds(whole.curve) == without_seconds(resumed.curve)


def test_a_finished_state_is_not_trained_any_further(tmp_path):
    first = run_fit(tmp_path)

    def refuse(*_):
        raise AssertionError("no step is left")

    again = run_fit(tmp_path, step=refuse)
    assert same(first.weights, again.weights) and again.seconds < first.seconds + 5


def test_randomness_depends_on_the_seed_and_the_step_and_not_on_what_ran_before(tmp_path):
    first = run_fit(tmp_path / "a")
    torch.rand(17)
    second = run_fit(tmp_path / "b", minutes=1e6)

    assert same(first.weights, second.weights)


def test_dropout_and_the_steps_generator_draw_different_numbers(tmp_path):
    drawn = []

    def step(model, rows, rng, progress):
        drawn.append((torch.rand(100, generator=rng), torch.rand(100)))
        return {"loss": model(ITEMS[rows]).square().mean()}

    run_fit(tmp_path, step=step)

    assert not any(torch.equal(own, dropout) for own, dropout in drawn)


def test_batches_that_are_loaded_ahead_equal_those_made_in_the_step(tmp_path):
    def load(rows, rng):
        return ITEMS[rows], torch.randn(len(rows), 3, generator=rng)

    def step(model, batch, rng, progress):
        x, noise = batch
        return {"loss": (model(x + noise) - x).square().mean()}

    def stop(done, total, note):
        if done == 3:  # within an epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_fit(tmp_path / "ahead", step=step, load=load, announce=stop)
    ahead = run_fit(tmp_path / "ahead", step=step, load=load)
    inline = run_fit(tmp_path / "inline")

    assert same(ahead.weights, inline.weights)


def test_an_epoch_meets_every_item_at_most_once_in_an_order_of_its_own(tmp_path):
    met = []

    def step(model, rows, rng, progress):
        met.append(rows.tolist())
        return noisy_step(model, rows, rng, progress)

    run_fit(tmp_path, step=step)

    epochs = [met[i] + met[i + 1] for i in (0, 2, 4)]  # 10 items in batches of 4: two steps an epoch
    assert all(len(rows) == len(set(rows)) == 8 for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == 3


def test_progress_rises_from_zero_in_equal_steps(tmp_path):
    seen = []

    def step(model, rows, rng, progress):
        seen.append(progress)
        return noisy_step(model, rows, rng, progress)

    run_fit(tmp_path, step=step)

    assert seen == [i / 6 for i in range(6)]


@pytest.mark.parametrize(
    ("ema_decay", "steps_before", "decays"),
    [
        (0.9999, 0, [1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15]),
        (0.2, 0, [1 / 10, 2 / 11, 0.2, 0.2, 0.2, 0.2]),
        (0.0, 0, [0.0] * 6),
        (0.9999, 30, [31 / 40, 32 / 41, 33 / 42, 34 / 43, 35 / 44, 36 / 45]),
        (0.9, math.inf, [0.9] * 6),
    ],
)
def test_weights_are_the_exponential_average_over_steps_with_a_warm_up(tmp_path, ema_decay, steps_before, decays):
    model, history = nn.Linear(3, 3), []
    start = model.weight.detach().clone()

    def record(done, total, note):
        if done:
            history.append(model.weight.detach().clone())

    fitted = run_fit(tmp_path, model=model, announce=record, ema_decay=ema_decay, steps_before=steps_before)

    average = start
    for decay, weight in zip(decays, history, strict=True):
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(fitted.weights["weight"], average)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ema_decay": 0.9999}, r"toy: ema_decay 0.9999 is slow for 6 steps: .* = 0.0006, below 5; .* a decay of 0.4 "),
        ({"ema_decay": 0.9999, "steps_before": math.inf}, "keep 100% of those that the training starts from"),
        ({"ema_decay": 0.9, "steps_before": math.inf}, "keep 53% of those"),
        ({"ema_decay": 0.9, "epochs": 30}, None),
        ({"ema_decay": 0.1}, None),
    ],
)
def test_a_decay_that_is_slow_for_the_training_is_reported_once(tmp_path, capsys, changes, said):
    run_fit(tmp_path, **changes)
    printed = capsys.readouterr().out
    run_fit(tmp_path, **changes)

    assert re.search(said, printed) if said else not printed
    assert not capsys.readouterr().out, "a resumed training has said it before"


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(tmp_path):
    def curve(micro_batch):
        torch.manual_seed(0)
        folder = tmp_path / str(micro_batch)
        return run_fit(folder, step=step, model=nn.Linear(3, 1), micro_batch=micro_batch).curve

    def step(model, rows, rng, progress):
        return {"loss": (model(ITEMS[rows]) - 1).square().mean()}

    for whole, parts in zip(curve(None), curve(3), strict=True):
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-4)


def test_gradients_are_clipped_to_the_norm_and_reported_before(tmp_path):
    def step(model, rows, rng, progress):
        return {"loss": 1e6 * model.weight.sum()}

    seen = []
    model = nn.Linear(1, 1, bias=False)
    hook = model.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad))
    fitted = run_fit(tmp_path, step=step, model=model, clip_norm=2.0, epochs=1)
    hook.remove()

    assert fitted.curve[0]["grad_norm"] == pytest.approx(1e6)
    assert seen[0].norm().item() == pytest.approx(2.0, rel=1e-4)  # clipped in place


def not_finite(steps, once=False, total=60):
    """A noisy step whose loss is NaN at these numbers of `total`; once: only the first time."""
    left = list(steps)

    def step(model, rows, rng, progress):
        number, loss = round(progress * total) + 1, noisy_step(model, rows, rng, progress)["loss"]
        if number not in left:
            return {"loss": loss}
        if once:
            left.remove(number)
        return {"loss": loss * float("nan")}

    return step


class Events:
    """A watcher that records its calls."""

    def __init__(self):
        self.told, self.steps, self.checkpoints = [], [], []

    def rows(self, rows):
        self.steps += [row["step"] for row in rows]

    def checkpoint(self, done, epoch, average):
        self.checkpoints.append((done, epoch))

    def event(self, kind, step, text):
        self.told.append((kind, step))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("first", [1, 7])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path, optimizer, first):
    history, events = [], Events()
    model = network()

    def record(done, total, note):
        history.append([p.detach().clone() for p in model.parameters()])

    fitted = run_fit(tmp_path, step=not_finite([first, first + 1]), model=model, announce=record, epochs=30,
                     minutes=1e9, watcher=events, optimizer=optimizer, ema_decay=0.0)  # fmt: skip

    before, after = history[first - 1], history[first + 1]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(after, history[first + 2], strict=True))
    assert [row["step"] for row in fitted.curve if row["skipped"]] == [first + 2]
    assert sum(row["skipped"] for row in fitted.curve) == 2 and ("skipped", first + 2) in events.told
    assert all(math.isfinite(row["loss"] + row["grad_norm"]) for row in fitted.curve)


def test_a_diverged_training_returns_to_its_checkpoint_and_draws_other_noise(tmp_path):
    bad, events, drawn = range(11, 12 + MOST_SKIPPED), Events(), {}
    inner = not_finite(bad, once=True)

    def step(model, rows, rng, progress):
        drawn.setdefault(round(progress * 60) + 1, []).append((rows, rng.initial_seed()))
        return inner(model, rows, rng, progress)

    fitted = run_fit(tmp_path, step=step, epochs=30, watcher=events)

    assert events.told == [("started", 0), ("rolled back", 10), ("finished", 60)]
    assert fitted.steps == 60 and [row["step"] for row in fitted.curve] == list(range(1, 61))
    (rows, seed), (again, other) = drawn[11]
    assert torch.equal(rows, again) and seed != other and len(drawn[10]) == 1


def test_a_training_that_stays_diverged_stops_at_its_checkpoint_naming_step_rank_and_remedy(tmp_path):
    events = Events()
    said = r"toy: 11 steps in a row, up to step 21, had no finite gradient \(.*: 0, of 0 to 0\), also with other draws "
    with pytest.raises(
        FloatingPointError, match=said + rf"since step 10\. .* kept in {tmp_path}\. Lower learning_rate"
    ):
        run_fit(tmp_path, step=not_finite(range(11, 61)), epochs=30, watcher=events)
    cured = run_fit(tmp_path, epochs=30)

    assert [kind for kind, _ in events.told] == ["started", "rolled back", "stopped"]
    assert [row["step"] for row in cured.curve] == list(range(1, 61))


def test_a_training_that_diverges_before_its_first_checkpoint_stops(tmp_path):
    with pytest.raises(FloatingPointError, match="up to step 11, .* before the first checkpoint. Lower learning_rate"):
        run_fit(tmp_path, step=not_finite(range(1, 61)), epochs=30)

    assert not checkpoints.states(tmp_path)


@pytest.mark.parametrize("last", [range(60, 61), range(55, 61)])
def test_a_training_may_not_end_with_a_step_that_is_not_finite(tmp_path, last):
    events = Events()
    with pytest.raises(FloatingPointError, match=r"up to step 60, had no finite gradient .*, also with other draws"):
        run_fit(tmp_path / "lost", step=not_finite(last), epochs=30)
    cured = run_fit(tmp_path / "cured", step=not_finite(last, once=True), epochs=30, watcher=events)

    assert max(checkpoints.states(tmp_path / "lost")) == last[0] - 1
    assert events.told == [("started", 0), ("rolled back", last[0] - 1), ("finished", 60)]
    assert [row["step"] for row in cured.curve] == list(range(1, 61))


def leave_a_state(folder: Path, done: int) -> None:
    """A checkpoint after so many steps, without making them."""
    run_fit(folder, epochs=1)
    state = checkpoints.read_state(checkpoints.states(folder)[2], ALONE.device)
    checkpoints.save_state(folder, replace(state, done=done))


def test_a_step_that_is_not_finite_is_noticed_at_the_end_also_within_a_row_of_the_curve(tmp_path):
    leave_a_state(tmp_path, 1002)  # rows of ten steps
    step = not_finite(range(1003, 1005), total=1004)

    with pytest.raises(FloatingPointError, match="2 steps in a row, up to step 1004, .* since step 1002"):
        run_fit(tmp_path, step=step, epochs=502, minutes=1e9)


def test_a_training_without_any_finite_step_leaves_nothing(tmp_path):
    with pytest.raises(FloatingPointError, match="up to step 2, .* before the first checkpoint. Lower learning_rate"):
        run_fit(tmp_path, step=lambda *found: {"loss": noisy_step(*found)["loss"] * math.nan}, epochs=1)

    assert not checkpoints.states(tmp_path)


def test_a_training_asked_to_end_among_steps_that_are_not_finite_leaves_the_good_state(tmp_path, capsys):
    def told_to_end(done, total, note):
        if done == 15:
            signal.raise_signal(signal.SIGTERM)

    for _ in range(3):
        with pytest.raises(SystemExit, match="143"):
            run_fit(tmp_path, step=not_finite(range(11, 61)), epochs=30, announce=told_to_end)

    assert list(checkpoints.states(tmp_path)) == [10, 9]
    assert f"stopped after 15/60 steps, not saved; {tmp_path} holds the checkpoint before" in capsys.readouterr().out
    assert run_fit(tmp_path, epochs=30).steps == 60


def test_a_training_asked_to_end_at_a_step_that_is_not_finite_within_a_row_saves_no_state(tmp_path):
    def told_to_end(done, total, note):
        if done == 1004:
            signal.raise_signal(signal.SIGTERM)

    leave_a_state(tmp_path, 1002)
    with pytest.raises(SystemExit, match="143"):
        run_fit(tmp_path, step=not_finite([1004], total=1006), epochs=503, minutes=1e9, announce=told_to_end)

    assert max(checkpoints.states(tmp_path)) == 1002


class Agreeing:
    """Several processes of which this one speaks for all."""

    world_size = 2

    def asked(self, *found):
        return found


@pytest.mark.parametrize("begin", [0, 100_000])
def test_processes_with_slow_steps_ask_each_other_soon_also_after_a_resumption(begin):
    wishes = Wishes(Agreeing(), 1e9, begin)
    time.sleep(0.3)  # a step takes no less
    wishes.ask(begin + 1, False)

    asked = next(step for step in range(2, 100) if wishes.ask(begin + step, True)[1])

    assert asked <= 1 + SECONDS_BETWEEN_QUESTIONS / 0.3


def test_a_training_that_stays_diverged_names_the_command_that_changes_it(tmp_path):
    command = "mixar resume mar --study smoke --set training.learning_rate=5.0e-05"
    with pytest.raises(FloatingPointError, match=rf"or use precision: float32, and continue from it: {command}"):
        run_fit(tmp_path, step=not_finite(range(11, 61)), epochs=30, resume_changed=command)


def row_of(step: int) -> dict:
    return {"step": step, "epoch": step / 2, "loss": torch.tensor(float(step)), "finite": torch.tensor(True)}


@pytest.mark.parametrize(("first", "ends"), [(1, [1, 2, 3]), (1001, [1010]), (9991, [10_000]), (10_001, [10_050])])
def test_rows_of_the_loss_curve_are_means_over_steps_and_longer_later(first, ends):
    curve = Curve()
    for step in range(first, ends[-1] + 1):
        curve.add(row_of(step), ALONE)

    assert [row["step"] for row in curve.rows] == ends and not curve.pending
    assert curve.rows[0]["loss"] == (first + ends[0]) / 2 and curve.rows[-1]["epoch"] == ends[-1] / 2


def test_a_curve_that_ends_within_a_row_closes_it_and_can_continue():
    curve = Curve()
    for step in range(1001, 1016):
        curve.add(row_of(step), ALONE)
    curve.read(ALONE)

    assert [row["loss"] for row in curve.ended()] == [1005.5, 1013.0]
    assert len(curve.rows) == 1 and len(curve.pending) == 5


def test_a_milestone_leaves_what_the_shorter_training_leaves_and_a_state_to_extend(tmp_path):
    longer = run_fit(tmp_path / "long", epochs=4)
    shorter = run_fit(tmp_path / "short", epochs=2)

    milestone = run_fit(tmp_path / "both", epochs=4, until=2, are_states_kept=True)
    extended = run_fit(tmp_path / "both", epochs=4)

    assert same(milestone.weights, shorter.weights) and milestone.steps == shorter.steps == 4
    assert without_seconds(milestone.curve) == without_seconds(shorter.curve)
    assert same(extended.weights, longer.weights)
    assert without_seconds(extended.curve) == without_seconds(longer.curve)


@pytest.fixture
def parent(tmp_path) -> Path:
    """The kept state of a training of 6 steps."""
    run_fit(tmp_path / "parent", are_states_kept=True, ema_decay=0.0)
    return checkpoints.kept_states(tmp_path / "parent")[6]


def test_a_training_that_begins_from_a_state_takes_its_moments_and_counts_its_own_steps(tmp_path, parent):
    state = checkpoints.read_state(parent, ALONE.device)

    def first_update(**options):
        model, before, history = network(), state.model["0.weight"], []
        model.load_state_dict(state.model)
        run_fit(tmp_path / str(options.keys()), model=model, epochs=1, weight_decay=0.0, steps_before=6, **options,
                announce=lambda done, *_: history.append(model[0].weight.detach().clone()), ema_decay=0.0)  # fmt: skip
        return (history[1] - before).norm()

    assert 0 < first_update(begin=parent) < first_update()
    assert first_update(restart_steps=2) == 0


def test_the_state_that_a_training_begins_from_is_not_held_while_it_trains(tmp_path, parent):
    held = []

    def step(*arguments):
        held.append(sum(type(each) is State for each in gc.get_objects()))
        return noisy_step(*arguments)

    run_fit(tmp_path / "child", step=step, begin=parent, epochs=1, minutes=1e9)

    assert held == [0, 0]


def test_a_kept_state_that_cannot_be_written_ends_the_training_and_costs_nothing(tmp_path, capsys):
    run_fit(tmp_path, epochs=3, minutes=1e-9, until=2)
    (tmp_path / "kept").write_text("a file, in which no state fits")

    with pytest.raises(OSError, match=rf"toy: the state after 6 steps is to be kept in {tmp_path} and could not be"):
        run_fit(tmp_path, epochs=3, minutes=1e9, are_states_kept=True)

    assert "could not be written" in capsys.readouterr().out
    assert max(checkpoints.states(tmp_path)) == 4
    (tmp_path / "kept").unlink()
    assert run_fit(tmp_path, epochs=3, are_states_kept=True).steps == 6
    assert list(checkpoints.kept_states(tmp_path)) == [6]


def test_a_batch_larger_than_the_training_set_is_refused():
    assert total_steps(settings(), 11) == 3 * 2
    with pytest.raises(ValueError, match="batch_size: 4 exceeds the 3 training images"):
        total_steps(settings(), 3)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_small_network_learns(tmp_path, optimizer):
    torch.manual_seed(0)
    fitted = run_fit(tmp_path, step=lambda m, rows, *_: {"loss": (m(ITEMS[rows]) - ITEMS[rows]).square().mean()},
                     model=nn.Linear(3, 3), epochs=120, ema_decay=0.0, minutes=1e6, optimizer=optimizer)  # fmt: skip

    assert fitted.curve[-1]["loss"] < 0.1 * fitted.curve[0]["loss"]
