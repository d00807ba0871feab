"""Watching a training: what it writes, what it costs, and that it changes no number and ends nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from toy_runs import toy_study, write_inputs

from mixar.data.shards import TokenStore
from mixar.model.mar import MAR
from mixar.study.sections import Training
from mixar.training.distributed import Context
from mixar.training.loop import UNWATCHED, Fit, fit
from mixar.training.metrics import FILE, Header, read_metrics
from mixar.training.watching import MOST_TIME, Plan, Watching, held_out_loss

ALONE = Context(0, 1, torch.device("cpu"))
HEADER = Header("toy", "mix", 0, "0123")
NUM_ITEMS, BATCH, EPOCHS = 10, 2, 3
STEPS = EPOCHS * NUM_ITEMS // BATCH


class Clock:
    """Seconds that pass only when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def plan(**changes) -> Plan:
    settings = {"steps": STEPS, "batch_size": BATCH, "milestones": (), "expected": {}, "processes": 1}
    return Plan(**{**settings, "device": torch.device("cpu"), **changes})


def watching(folder: Path, clock=None, held_out=None, preview=None, **changes) -> Watching:
    return Watching(folder, HEADER, plan(**changes), held_out, preview, clock or Clock())


def run_fit(folder: Path, watcher=UNWATCHED, announce=None, minutes=1e-9) -> Fit:
    torch.manual_seed(0)
    data = torch.randn(NUM_ITEMS, 3, generator=torch.Generator().manual_seed(1))
    settings = Training(epochs=EPOCHS, batch_size=BATCH, learning_rate=0.64, ema_decay=0.5)
    return fit(
        nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 3)),
        lambda model, rows, rng, _: {"loss": (model(data[rows]) - data[rows]).square().mean()},
        settings,
        name="toy",
        num_items=NUM_ITEMS,
        seed=3,
        folder=folder,
        context=ALONE,
        checkpoint_minutes=minutes,
        announce=announce or (lambda *_: None),
        watcher=watcher,
    )


def row(step: int, loss=1.0, **numbers):
    return {"step": step, "epoch": step * BATCH / NUM_ITEMS, "loss": loss, "seconds": 0.1, **numbers}


def started(watcher: Watching) -> Watching:
    watcher.event("started", 0, "")
    return watcher


def test_a_watched_training_equals_an_unwatched_one_and_writes_its_curve(tmp_path):
    def draw(average, path, title):
        assert not average.training
        torch.rand(3)  # what a preview draws is not missed elsewhere
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).parents[2] / "docs/assets/front.png", path)

    held_out = iter(range(100))
    watcher = Watching(tmp_path / "watch", HEADER, plan(), lambda average: float(next(held_out)), draw)

    watched, alone = run_fit(tmp_path / "a", watcher), run_fit(tmp_path / "b")

    found = read_metrics(tmp_path / "watch" / FILE)
    assert all(torch.equal(watched.weights[key], alone.weights[key]) for key in alone.weights)
    keys = "step", "epoch", "loss", "grad_norm", "learning_rate"
    assert [[r[key] for key in keys] for r in found.rows] == [[r[key] for key in keys] for r in alone.curve]
    assert found.held_out[0]["held_out_loss"] == 0.0 and found.held_out[-1]["step"] == STEPS
    assert (tmp_path / "watch" / "previews" / f"step{STEPS:08d}.png").exists()


def test_an_interrupted_training_has_one_curve_in_metrics_and_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stop(done, total, note):
        if done == 6:  # announced before it is saved: done again
            raise KeyboardInterrupt

    watcher = watching(tmp_path / "watch")
    with pytest.raises(KeyboardInterrupt):
        run_fit(tmp_path / "a", watcher, stop)
    watcher.close()
    watcher = watching(tmp_path / "watch")
    whole = run_fit(tmp_path / "a", watcher)
    watcher.close()

    found = read_metrics(tmp_path / "watch" / FILE)
    board = EventAccumulator(str(tmp_path / "watch")).Reload()
    assert found.restarts == 1
    assert [r["loss"] for r in found.rows] == [r["loss"] for r in whole.curve]
    assert [event.step for event in board.Scalars("loss")] == list(range(1, STEPS + 1))
    assert [event.value for event in board.Scalars("loss")] == pytest.approx([r["loss"] for r in whole.curve])


def test_rates_count_the_time_between_rows_without_checkpoints_previews_and_pauses(tmp_path):
    clock = Clock()

    def preview(average, path, title):
        clock.now += 1000

    watcher = started(watching(tmp_path, clock, preview=preview, flops_per_image=3e12, peak_flops=1e14, processes=2))
    clock.now += 2
    watcher.rows([row(10)])
    watcher.checkpoint(10, 2.0, nn.Linear(1, 1))
    clock.now += 5
    watcher.rows([row(20)])

    first, second = read_metrics(tmp_path / FILE).rows
    assert first["images_per_second"] == 10 * BATCH / 2 and second["images_per_second"] == 10 * BATCH / 5
    assert first["mfu"] == pytest.approx(10 * 3e12 / (2 * 1e14)) and first["memory_gib"] > 0


def test_mfu_is_blank_without_a_known_card(tmp_path):
    watcher = started(watching(tmp_path, flops_per_image=3e12))
    watcher.rows([row(1)])

    assert read_metrics(tmp_path / FILE).rows[0]["mfu"] is None


def test_held_out_losses_take_only_their_share_of_the_time_except_at_milestones_and_the_end(tmp_path):
    clock, made = Clock(), []

    def held_out(average):
        clock.now += 1
        return 0.0

    watcher = started(watching(tmp_path, clock, held_out, milestones=(2,), steps=1000))
    for step in range(1, 1001):
        clock.now += 1
        watcher.checkpoint(step, 2 if step == 500 else step / 1000 + 5, nn.Linear(1, 1))
    made = [line["step"] for line in read_metrics(tmp_path / FILE).held_out]

    assert made[0] == 1 and 500 in made and made[-1] == 1000
    assert len(made) <= MOST_TIME * 1000 + 3


def test_a_checkpoint_at_a_milestone_is_watched_once(tmp_path):
    watcher = started(watching(tmp_path, held_out=lambda average: 1.0, milestones=(1,)))

    watcher.checkpoint(5, 1, nn.Linear(1, 1))
    watcher.checkpoint(5, 1.0, nn.Linear(1, 1))

    assert len(read_metrics(tmp_path / FILE).held_out) == 1


def test_a_loss_outside_its_band_is_an_event_and_a_line_in_the_log_once(tmp_path, capsys):
    watcher = started(watching(tmp_path, expected={1: (0.0, 0.5), 2: (0.0, 2.0)}))
    for step in range(1, 13):
        watcher.rows([row(step, loss=1.0)])

    assert read_metrics(tmp_path / FILE).alarms == ["loss 1 at the end of epoch 1 is above the expected 0 to 0.5"]
    assert capsys.readouterr().out.count("ALARM: loss 1 at the end of epoch 1") == 1


def test_a_resumed_training_does_not_judge_epochs_that_ended_before(tmp_path):
    watcher = watching(tmp_path, expected={1: (0.0, 0.5), 3: (0.0, 0.5)})
    watcher.event("resumed", 12, "")
    for step in (13, 14, 15):
        watcher.rows([row(step, loss=1.0)])

    (text,) = read_metrics(tmp_path / FILE).alarms
    assert "epoch 3" in text


def test_failures_of_previews_and_losses_are_reported_once_and_stop_nothing(tmp_path, capsys):
    def fail(*_):
        raise RuntimeError("CUDA out of memory")

    watcher = Watching(tmp_path / "watch", HEADER, plan(), fail, fail)
    run_fit(tmp_path / "a", watcher)

    said = capsys.readouterr().out
    assert said.count("no preview (RuntimeError: CUDA out of memory); the training continues") == 1
    assert said.count("no held-out loss") == 1
    assert len(read_metrics(tmp_path / "watch" / FILE).rows) == STEPS


def test_a_disk_that_is_full_for_a_while_costs_rows_and_nothing_else(tmp_path, capsys):
    watcher = started(watching(tmp_path))
    watcher.rows([row(1)])
    (tmp_path / FILE).rename(tmp_path / "away")
    (tmp_path / FILE).mkdir()  # no file can be written there
    watcher.rows([row(2), row(3)])
    (tmp_path / FILE).rmdir()
    (tmp_path / "away").rename(tmp_path / FILE)
    watcher.rows([row(4)])

    assert capsys.readouterr().out.count("no metrics") == 1
    assert [r["step"] for r in read_metrics(tmp_path / FILE).rows] == [1, 4]


def test_the_metrics_of_another_run_are_refused_before_the_training(tmp_path):
    (tmp_path / FILE).write_text(
        json.dumps({"format": "mixar metrics, version 1", "study": "toy", "run": "mar", "seed": 0, "trajectory": "0"})
        + "\n"
    )

    with pytest.raises(ValueError, match="run 'mar'"):
        watching(tmp_path)


def test_the_held_out_loss_is_the_same_for_the_same_weights_and_spoils_no_random_numbers(tmp_path):
    study = toy_study(tmp_path)
    store = TokenStore(write_inputs(study).token_shards())
    torch.manual_seed(0)
    model = MAR.from_study(study, "mix").eval()
    rows = store.rows("held_out")
    before = torch.random.get_rng_state()

    def loss(*parts):
        batches = (store.batch(rows[part], torch.zeros(len(rows[part]))) for part in parts)
        return held_out_loss(model, batches, study.training_of("mix"))

    assert loss(slice(None)) == loss(slice(None)) > 0
    assert loss(slice(0, 3)) != loss(slice(0, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(p.grad is None for p in model.parameters())
