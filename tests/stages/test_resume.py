"""`resume`: a training continues from its checkpoint with changed settings, and all its results say so."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from toy_runs import toy_study, write_inputs
from toy_strategies import Fused

from mixar.stages.resume import resume
from mixar.stages.train import train
from mixar.study.layout import Layout
from mixar.training.checkpoints import states
from mixar.weights import read_metadata

FUSED = {"label": "Fused", "model": "s", "guidance": {"strategy": "toy_strategies:Fused"}}
LOWER = {"training.learning_rate": 0.05}


@pytest.fixture
def stopped(tmp_path) -> Layout:
    """A study whose run `fused` of four steps was stopped after two; run `child` continues it."""
    runs = {"fused": FUSED, "child": {**FUSED, "label": "Child", "parent": "fused"}}
    hardware = {"device": "cpu", "checkpoint_minutes": 1e-9, "results": str(tmp_path)}
    layout = write_inputs(toy_study(tmp_path, runs=runs, hardware=hardware))

    def stop():
        raise RuntimeError("power cut")

    Fused.fuse, Fused.end = 3, stop
    with pytest.raises(RuntimeError, match="power cut"):
        train(layout.study, layout, "fused", 0)
    Fused.fuse = None
    return layout


def rates(layout: Layout) -> list[float]:
    return pq.read_table(layout.losses("fused", 0))["learning_rate"].to_pylist()


def test_the_steps_after_the_checkpoint_take_the_changed_settings(stopped):
    change = resume(stopped.study, stopped, "fused", 0, LOWER)

    train(stopped.study, stopped, "fused", 0)

    assert (change.step, change.epoch) == (2, 1.0)
    found = rates(stopped)
    assert found[0] == found[1] == pytest.approx(2 * found[2]) and found[2] == found[3]


def newest_state(layout: Layout) -> Path:
    (folder,) = layout.root.glob("checkpoints/*")
    return next(iter(states(folder).values()))


def test_a_change_applies_from_the_newest_intact_state_on(stopped):
    newest_state(stopped).write_bytes(b"cut off")

    change = resume(stopped.study, stopped, "fused", 0, LOWER)
    train(stopped.study, stopped, "fused", 0)

    found = rates(stopped)
    assert change.step == 1 and found[0] == pytest.approx(2 * found[1]) and found[1] == found[2] == found[3]


def test_a_change_is_not_applied_to_a_state_before_it(stopped):
    resume(stopped.study, stopped, "fused", 0, LOWER)
    newest_state(stopped).write_bytes(b"cut off")

    with pytest.raises(ValueError, match=r"was changed at step 2, and the state found is of step 1"):
        train(stopped.study, stopped, "fused", 0)


def test_weights_of_the_run_and_of_its_child_name_the_change(stopped):
    resume(stopped.study, stopped, "fused", 0, LOWER)
    for run in ("fused", "child"):
        train(stopped.study, stopped, run, 0)

    changed = {run: read_metadata(stopped.weights(run, 0))["changed"] for run in ("fused", "child")}
    said = "training.learning_rate=0.05 from epoch 1"
    assert changed == {"fused": said, "child": f"fused: {said}"}


def test_a_training_without_its_states_does_not_restart_under_changed_settings(stopped):
    resume(stopped.study, stopped, "fused", 0, LOWER)
    for state in stopped.root.glob("checkpoints/*/state-*.pt"):
        state.unlink()

    with pytest.raises(ValueError, match=r"history.json: training 'fused' was changed at step 2, .* is of step 0"):
        train(stopped.study, stopped, "fused", 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing changes"),
        ({"training.epochs": 9}, "--set training.epochs: cannot change within a training; these can: training.learn"),
        ({"learning_rate": 1.0}, "--set learning_rate: cannot change"),
        ({"training.learning_rate": -1}, "--set training.learning_rate: .*greater than 0; found -1"),
    ],
)
def test_what_cannot_change_is_refused_and_not_recorded(stopped, settings, message):
    with pytest.raises(ValueError, match=message):
        resume(stopped.study, stopped, "fused", 0, settings)

    assert not list(stopped.root.glob("checkpoints/*/history.json"))


def test_a_run_without_a_state_and_a_finished_one_are_refused(stopped):
    with pytest.raises(ValueError, match="no state of 'mix' seed 0 to go on from"):
        resume(stopped.study, stopped, "mix", 0, LOWER)

    train(stopped.study, stopped, "fused", 0)
    with pytest.raises(ValueError, match="'fused' seed 0 is finished"):
        resume(stopped.study, stopped, "fused", 0, LOWER)
