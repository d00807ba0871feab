"""`train` over milestones: each equals a shorter run, a longer run continues a shorter one, and children continue both.

One process, dropout included: equal means bit for bit.
"""

from __future__ import annotations

import shutil

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from toy_runs import MIX, toy_study, write_inputs

from mixar.stages.train import train
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.training.checkpoints import kept_states, training_folder
from mixar.training.history import History, write_history
from mixar.weights import read_metadata

PLAIN = {"model": "s", "guidance": MIX}
TI_MIX = {**PLAIN, "ti_mix": {}}


def run_of(root, name="mix", run=PLAIN, **training) -> Layout:
    """The layout of a study in which a run trains with these settings; missing inputs are written."""
    study = toy_study(root, runs={name: {**run, "training": training}})
    return Layout(study) if Layout(study).manifest.exists() else write_inputs(study)


def trained(layout: Layout, *names: str) -> Layout:
    for name in names:
        train(layout.study, layout, name, 0)
    return layout


def left(layout: Layout, name: str) -> tuple:
    """Weights and loss curve of a network, without times."""
    return load_file(layout.weights(name, 0)), pq.read_table(layout.losses(name, 0)).drop_columns("seconds")


def equal(a: tuple, b: tuple) -> bool:
    return a[0].keys() == b[0].keys() and all(torch.equal(a[0][k], b[0][k]) for k in a[0]) and a[1].equals(b[1])


def kept(layout: Layout) -> list[int]:
    """Steps behind the states that a study's one training keeps."""
    (folder,) = layout.root.glob("checkpoints/*")
    return sorted(kept_states(folder))


def metadata(layout: Layout, name: str) -> dict:
    return read_metadata(layout.weights(name, 0))


def test_a_milestone_equals_the_shorter_run_and_changes_nothing_after_it(tmp_path):
    whole = trained(run_of(tmp_path / "whole", epochs=3), "mix")
    short = trained(run_of(tmp_path / "short", epochs=1), "mix")

    layout = trained(run_of(tmp_path / "milestones", epochs=3, milestones=[1, 2]), "mix@1", "mix@2", "mix")

    assert equal(left(layout, "mix@1"), left(short, "mix")) and equal(left(layout, "mix"), left(whole, "mix"))
    assert metadata(layout, "mix@1")["digest"] == metadata(short, "mix")["digest"]
    assert [metadata(layout, name)["steps"] for name in ("mix@1", "mix@2", "mix")] == [2, 4, 6]
    assert not list(layout.root.glob("checkpoints/*")), "no state is asked for"


@pytest.mark.parametrize(("run", "training"), [(PLAIN, {"schedule": "cosine"}), (TI_MIX, {})])
def test_milestones_change_no_training_whose_schedules_span_the_run(tmp_path, run, training):
    whole = trained(run_of(tmp_path / "whole", run=run, epochs=2, **training), "mix")

    layout = trained(run_of(tmp_path / "other", run=run, epochs=2, milestones=[1], **training), "mix@1", "mix")

    assert equal(left(layout, "mix"), left(whole, "mix"))


def test_a_finished_run_is_extended_from_its_kept_state(tmp_path, capsys):
    whole = trained(run_of(tmp_path / "whole", epochs=4), "mix")
    trained(run_of(tmp_path / "grown", epochs=2, keep_states=True), "mix")
    capsys.readouterr()

    layout = trained(run_of(tmp_path / "grown", epochs=4, keep_states=True), "mix")

    said = capsys.readouterr().out
    assert "continues from the state kept after epoch 2" in said and "4/8 steps" in said
    assert equal(left(layout, "mix"), left(whole, "mix"))
    assert kept(layout) == [8]


def test_without_a_kept_state_a_run_is_trained_from_the_last_one_there_is(tmp_path, capsys):
    whole = trained(run_of(tmp_path / "whole", epochs=4), "mix")
    runs = {"mix": {**PLAIN, "training": {"epochs": 2, "milestones": [1]}}, "child": {**PLAIN, "parent": "mix@1"}}
    layout = write_inputs(toy_study(tmp_path / "grown", runs=runs))
    trained(layout, "mix@1", "mix")
    runs["mix"]["training"]["epochs"] = 4
    capsys.readouterr()

    trained(Layout(toy_study(tmp_path / "grown", runs=runs)), "mix")

    assert "continues from the state kept after epoch 1" in capsys.readouterr().out
    assert equal(left(layout, "mix"), left(whole, "mix"))


def test_a_milestone_that_is_added_later_is_trained_from_the_start_and_says_so(tmp_path, capsys):
    trained(run_of(tmp_path, epochs=4, keep_states=True), "mix")
    short = trained(run_of(tmp_path / "short", epochs=2), "mix")

    layout = trained(run_of(tmp_path, epochs=4, keep_states=True, milestones=[2]), "mix@2")

    assert "no state up to epoch 2 was kept" in capsys.readouterr().out
    assert equal(left(layout, "mix@2"), left(short, "mix"))
    assert kept(layout) == [4, 8]


def test_a_longer_training_in_flight_is_not_lost_to_a_milestone(tmp_path):
    layout = trained(run_of(tmp_path, epochs=4, keep_states=True), "mix")
    (state,) = layout.root.glob("checkpoints/*/kept/*")
    in_flight = state.parents[1] / state.name
    state.rename(in_flight)  # as a training that was stopped there leaves it
    layout.weights("mix", 0).unlink()

    trained(run_of(tmp_path, epochs=4, milestones=[1]), "mix@1")

    assert in_flight.exists()


def test_a_child_takes_weights_average_and_moments_where_its_parent_kept_them(tmp_path):
    runs = {"mix": {**PLAIN, "training": {"epochs": 2, "milestones": [1]}}}
    for name, parent in {"early": "mix@1", "late": "mix"}.items():
        runs[name] = {**PLAIN, "parent": parent, "training": {"epochs": 1}}
    layout = trained(write_inputs(toy_study(tmp_path, runs=runs)), "mix@1", "mix", "early", "late")
    with_moments = left(layout, "late")
    shutil.rmtree(layout.root / "checkpoints")

    trained(layout, "late")

    assert metadata(layout, "early")["continued"] == "model, average and moments of mix@1"
    assert metadata(layout, "late")["continued"] == "weights alone of mix, warm-up of 2 steps"
    assert [metadata(layout, name)["steps_before"] for name in ("early", "late")] == [2, 4]
    assert not equal(left(layout, "late"), with_moments)


def test_a_shorter_run_leaves_the_kept_state_of_a_longer_one(tmp_path):
    trained(run_of(tmp_path, epochs=4, keep_states=True), "mix")

    layout = trained(run_of(tmp_path, epochs=2), "mix")

    assert kept(layout) == [8]


@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_a_child_with_another_optimizer_takes_the_weights_alone(tmp_path, before, after):
    runs = {"mix": {**PLAIN, "training": {"optimizer": before}}}
    runs["child"] = {**PLAIN, "parent": "mix", "training": {"optimizer": after}}

    layout = trained(write_inputs(toy_study(tmp_path, runs=runs)), "mix", "child")

    assert metadata(layout, "child")["continued"] == "weights alone of mix, warm-up of 2 steps"


def test_a_warm_up_is_left_out_where_the_parents_moments_come_back(tmp_path):
    layout = trained(write_inputs(toy_study(tmp_path, runs={"child": {**PLAIN, "parent": "mix"}})), "mix")
    first_attempt = training_folder(layout.study, layout, "child", 0, None)  # which found weights alone, and stopped
    write_history(first_attempt, History(continued="weights alone of mix", restart_steps=2))

    trained(layout, "child")

    assert metadata(layout, "child")["continued"] == "model, average and moments of mix"
    assert left(layout, "child")[1]["learning_rate"].to_pylist()[0] > 0


def test_weights_alone_begin_at_rate_zero_over_the_steps_asked_for(tmp_path):
    rates = {}
    for steps in (0, 1, 100):
        child = {**PLAIN, "parent": "mix", "training": {"start_warmup_steps": steps}}
        layout = write_inputs(toy_study(tmp_path / str(steps), runs={"child": child}))
        trained(layout, "mix")
        shutil.rmtree(layout.root / "checkpoints")
        rates[steps] = left(trained(layout, "child"), "child")[1]["learning_rate"].to_pylist()

    peak = rates[0][0]
    assert rates == {0: [peak] * 4, 1: [0, peak, peak, peak], 100: [0, peak / 2, peak, peak]}  # an epoch has 2 steps


def test_an_extended_child_equals_a_longer_one(tmp_path):
    def child(root, **training):
        runs = {"mix": {**PLAIN, "training": {"epochs": 1}}}
        runs["child"] = {**PLAIN, "parent": "mix", "training": {**training, "keep_states": True}}
        study = toy_study(root, runs=runs)
        return Layout(study) if Layout(study).manifest.exists() else write_inputs(study)

    whole = trained(child(tmp_path / "whole", epochs=3), "mix", "child")
    trained(child(tmp_path / "grown", epochs=1), "mix", "child")

    grown = trained(child(tmp_path / "grown", epochs=3), "child")

    assert equal(left(grown, "child"), left(whole, "child"))
    assert metadata(grown, "child")["continued"] == metadata(whole, "child")["continued"]


def test_only_schedules_that_span_a_run_make_its_length_part_of_its_identity(tmp_path):
    def trajectory(run=PLAIN, **training):
        return Digests(toy_study(tmp_path, runs={"mix": {**run, "training": training}})).trajectory("mix", 0)

    assert trajectory(epochs=2) == trajectory(epochs=4, milestones=[1, 2], keep_states=True)
    assert trajectory(epochs=2) != trajectory(epochs=2, learning_rate=0.2)
    assert trajectory(epochs=2, schedule="cosine") != trajectory(epochs=4, schedule="cosine")
    assert trajectory(TI_MIX, epochs=2) != trajectory(TI_MIX, epochs=4)
