"""`measure`: parameters, FLOPs, times and memory of a run, without trained weights."""

from __future__ import annotations

import itertools
import json
import time
from types import SimpleNamespace

import pytest
import torch
from toy_runs import toy_study, write_inputs

from mixar.model import cost
from mixar.model.decode import steps_of
from mixar.model.mar import MAR
from mixar.reporting.results import read_rows
from mixar.scoring.sweeps import write_choice
from mixar.stages import measure as stage
from mixar.stages.measure import measure
from mixar.study.digests import Digests
from mixar.study.sections import Sampler

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


def test_memory_includes_that_of_torch_itself(rows):
    _, frame = rows

    assert 0.05 < value(frame, "peak_memory_gib") < 64


def test_flops_are_counted_on_the_networks_within_a_percent_of_the_formulas(rows):
    _, frame = rows

    for metric, sampler in (("flops_train", None), ("flops_sample", "default"), ("flops_sample", "quick")):
        computed, counted = value(frame, metric, sampler), value(frame, f"{metric}_counted", sampler)
        assert counted == pytest.approx(computed, rel=0.01)


def test_achieved_rates_are_flops_over_time_and_a_cpu_has_no_share_of_a_peak(rows):
    study, frame = rows

    seconds = value(frame, "seconds_per_image_latents", "default")
    rate = value(frame, "flops_per_second_sample", "default")
    assert rate == pytest.approx(value(frame, "flops_sample", "default") / seconds, rel=0.35)  # medians of two times
    assert value(frame, "flops_per_second_train") > 0
    assert not frame.index.get_level_values("metric").str.startswith("mfu").any()


def test_a_known_peak_gives_a_share_of_it(tmp_path):
    rate, mfu = stage._rates(toy_study(tmp_path), "sample", 3e12, [1.0, 2.0, 3.0], peak=30e12)

    assert (rate["metric"], rate["value"], rate["low"], rate["high"]) == ("flops_per_second_sample", 1.5e12, 1e12, 3e12)
    assert (mfu["metric"], mfu["value"], mfu["n"]) == ("mfu_sample", pytest.approx(0.05), 3)


def test_the_peak_rate_of_a_card_is_found_by_its_name_and_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=139.8 * 2**30))

    found = [stage.peak_flops(torch.device("cuda"), precision) for precision in ("bfloat16", "float32")]
    assert found == [989e12, 67e12]
    assert stage.peak_flops(torch.device("cpu"), "bfloat16") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some card")
    assert stage.peak_flops(torch.device("cuda"), "bfloat16") is None


def test_a_cpu_says_that_there_is_no_share_of_a_peak(tmp_path, capsys):
    study = toy_study(tmp_path, samplers={"default": QUICK})

    measure(study, write_inputs(study), "mar")

    assert "measure mar: no peak rate is known for cpu, " in capsys.readouterr().out


def test_memory_of_parts_is_told_apart():
    memory, held = stage.Memory(torch.device("cpu")), []

    def work(floats):
        held[:] = [torch.ones(floats)]
        held.clear()
        return []

    (_, [large]), (_, [small]) = memory.of("train", lambda: work(2**27)), memory.of("sample", lambda: work(2**26))

    assert large["metric"] == "peak_memory_train_gib" and 0.45 < large["value"] < 0.6
    assert small["metric"] == "peak_memory_sample_gib" and 0.2 < small["value"] < 0.35
    assert memory.whole()["value"] > large["value"]


def test_a_strategy_that_needs_values_is_not_counted_and_that_is_said(capsys):
    def count():
        raise NotImplementedError("aten::nonzero")

    assert stage._counted("mine", "flops_train_counted", "FLOP/image", count) == []
    assert (
        "measure mine: no flops_train_counted, the network does not run on the meta device" in capsys.readouterr().out
    )


def test_a_short_draw_has_few_iterations_whatever_the_samplers_schedule():
    sampler = Sampler(num_iterations=9, skeleton_iterations=6, head_steps=20, head_schedule="linear", head_steps_last=5)

    steps = list(steps_of(16, stage.short(sampler, 4, 10)))

    assert [step.head_steps for step in steps] == [10] * 4 and steps[-1].left == 0


def test_a_trace_holds_one_training_step_and_one_sampled_batch(tmp_path):
    study = toy_study(tmp_path)

    stage.trace(study, "mix", tmp_path / "trace.json")

    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = {e["name"]: (e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == "user_annotation"}
    products = [e["ts"] for e in events if e["name"] == "aten::addmm"]
    for start, end in (spans["training step"], spans["sampled batch"]):
        assert any(start <= ts <= end for ts in products)


def test_a_swept_run_is_measured_at_the_scale_that_its_sweep_chose(tmp_path):
    quick = {"default": {**QUICK, "cfg": 3.0}}
    runs = {"mar": {"label": "MAR", "model": "s", "sweep": {"cfg": [1.0, 2.0], "num_images": 20}}}
    study = toy_study(tmp_path, samplers=quick, runs=runs)
    layout = write_inputs(study)
    with pytest.raises(ValueError, match=r"no scale is chosen yet; run `score --sweep --run mar --sampler default`"):
        measure(study, layout, "mar")
    write_choice(study, layout, "mar", "default", {"cfg": 1.0})

    measure(study, layout, "mar")

    drawn = read_rows(layout.root).query("sampler == 'default'").set_index("metric")
    alone = study.samplers["default"].model_copy(update={"cfg": 1.0})
    assert set(drawn["cfg"]) == {1.0} and drawn["value"]["flops_sample"] == cost.flops_sample(study, "mar", alone)
    assert drawn["value"]["flops_sample"] < 0.7 * cost.flops_sample(study, "mar", study.samplers["default"])
    assert set(drawn["digest"]) == {Digests(study).measure("mar", {"default": alone})}


def test_an_unknown_run_is_refused_with_the_choices(tmp_path):
    study = toy_study(tmp_path)

    with pytest.raises(ValueError, match="'mixx' is unknown; choose from mar, mix, ti"):
        measure(study, write_inputs(study), "mixx")
