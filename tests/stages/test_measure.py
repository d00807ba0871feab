"""`measure`: every number a run is charged with, without trained weights."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from toy_runs import toy_study, write_inputs

from mixar.model import cost
from mixar.model.mar import MAR
from mixar.reporting.results import read_rows
from mixar.stages import measure as stage
from mixar.stages.measure import measure

QUICK = {"num_iterations": 2, "head_steps": 2, "cfg": 1.0}


@pytest.fixture(autouse=True, scope="module")
def no_pauses():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda _: None)
        yield


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of a run with TI-Mix and two samplers."""
    run = {"label": "Both", "model": "s", "guidance": {"strategy": "dc_sa"}, "ti_mix": {}}
    run["samplers"] = ["default", "quick"]
    study = toy_study(tmp_path_factory.mktemp("measure"), samplers={"quick": QUICK}, runs={"both": run})
    layout = write_inputs(study)
    measure(study, layout, "both")
    return study, read_rows(layout.root).set_index(["metric", "sampler"])


def value(frame, metric, sampler=None):
    found = frame.loc[metric]
    return found.loc[sampler if sampler else found.index.isna(), "value"].squeeze()


def test_counts_are_those_of_the_cost_model_and_of_the_network(rows):
    study, frame = rows

    assert value(frame, "parameters") == sum(p.numel() for p in MAR.from_study(study, "both").parameters())
    assert value(frame, "flops_train") == cost.flops_train(study, "both")
    assert value(frame, "flops_sample", "quick") == cost.flops_sample(study, "both", study.samplers["quick"])
    assert value(frame, "tokens_self_attention") == 2 + 16 + 16  # class tokens, positions, prefix


def test_times_are_medians_within_their_range_and_say_how_often_they_were_taken(rows):
    study, frame = rows
    times = frame[frame["unit"].isin(["min"]) | frame["unit"].str.startswith("s,")]

    assert len(times) == 1 + 2 * 2
    assert ((times["low"] > 0) & (times["low"] <= times["value"]) & (times["value"] <= times["high"])).all()
    assert (times["n"] == 2).all() and times["protocol"].str.contains("batch 4").all()


@pytest.mark.parametrize("threads, name", [(1, "cpu, 1 thread"), (2, "cpu, 2 threads")])
def test_a_cpu_is_named_with_its_threads(monkeypatch, threads, name):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)

    assert stage.device_name(torch.device("cpu")) == name


@pytest.mark.parametrize(
    ("takes", "kept", "taken"),
    [
        ([[1.0, 1.1, 1.2]], [1.0, 1.1, 1.2], 1),
        ([[1.0, 1.0, 1.4], [1.0, 1.0, 1.2]], [1.0, 1.0, 1.2], 2),
        ([[1.0, 1.0, 9.0], [1.0, 1.0, 1.5], *[[1.0, 1.0, 2.0]] * 3], [1.0, 1.0, 1.5], 5),
    ],
)
def test_times_that_spread_are_taken_again_and_the_steadiest_are_kept(takes, kept, taken, capsys):
    left = iter(takes)

    found = stage._steadiest(lambda: ([1.0, 1.0, 1.0], next(left)), "measure mar")

    assert found == ([1.0, 1.0, 1.0], kept) and not list(left)
    assert capsys.readouterr().out.count("measure mar: the repeats spread by ") == taken - 1


def test_times_that_stay_unsteady_say_so_in_their_protocol(tmp_path, monkeypatch):
    study = toy_study(tmp_path, measure={"train_steps": 4, "repeats": 2})
    readings = itertools.accumulate(itertools.cycle([0, 1, 0, 1, 0, 2, 0, 2]))  # one before and one after each action
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))

    measure(study, write_inputs(study), "mar")

    found = read_rows(study.hardware.results + "/toy").set_index("metric")["protocol"]
    assert found["minutes_per_epoch"] == found["seconds_per_image"] == "batch 4, random weights[spread=67%]"
    assert found["parameters"] == "batch 4, random weights"


def test_decoding_latents_adds_to_the_time_of_an_image(rows):
    _, frame = rows

    for sampler in ("default", "quick"):
        assert value(frame, "seconds_per_image", sampler) > value(frame, "seconds_per_image_latents", sampler)


def test_the_unit_of_an_epoch_is_the_training_set(rows, tmp_path):
    study, frame = rows

    seconds = value(frame, "minutes_per_epoch") * 60 / 20 * study.measure.batch_size  # 20 training images

    assert 1e-4 < seconds < 10  # of one training step of four images


def test_memory_is_that_of_a_process_with_torch_in_it(rows):
    _, frame = rows

    assert 0.05 < value(frame, "peak_memory_gib") < 64


def test_an_unknown_run_is_said(tmp_path):
    study = toy_study(tmp_path)

    with pytest.raises(ValueError, match="'mixx' is unknown; choose from mar, mix, ti"):
        measure(study, write_inputs(study), "mixx")
