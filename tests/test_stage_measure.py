"""`measure`: every number a run is charged with, without trained weights."""

from __future__ import annotations

import pytest
from toy_runs import toy_study, write_inputs

from mixar.model import cost
from mixar.model.mar import MAR
from mixar.reporting.results import read_rows
from mixar.stages.measure import measure

QUICK = {"num_iterations": 2, "head_steps": 2, "cfg": 1.0}


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
