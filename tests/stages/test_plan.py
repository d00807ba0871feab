"""`plan`: prices that follow from the settings, the longest chain, and parts of a study."""

import json

import pytest

from mixar.stages.plan import (
    PARTS,
    START_MINUTES,
    Rates,
    Work,
    counted,
    critical_path,
    decoding,
    generator_flops,
    plan,
    priced,
    rows_of_part,
    time_of,
)
from mixar.study.layout import Layout
from mixar.study.load import load_study, parse_study
from mixar.study.memory import training_memory
from mixar.study.sections import Sweep


@pytest.fixture(scope="module")
def paper(root):
    """The paper's study, and its plan by key."""
    study = load_study(root / "config" / "imagenet256.yaml")
    return study, plan(study, Layout(study, "nowhere"))


def by_key(found):
    return {w.key: w for w in found.work}


def test_a_training_costs_its_flops_at_the_rate_of_the_card_whatever_its_gpus(paper):
    study, found = paper
    work = by_key(found)["train dc_mix_l"]
    hardware = study.hardware.model_copy(update={"runs": {"dc_mix_l": {"gpus": 16, "nodes": 2}}})

    wider = by_key(plan(study.model_copy(update={"hardware": hardware}), Layout(study, "nowhere")))["train dc_mix_l"]

    assert work.gpu_hours == pytest.approx(work.flops / 350e12 / 3600, rel=0.01)
    assert wider.hours == pytest.approx(work.hours / 2, rel=0.01) and wider.flops == work.flops
    assert work.restarts == int(work.hours * 60 // work.limit)


def test_work_in_bfloat16_is_priced_at_its_rate_and_the_papers_study_stays_under_2600_gpu_hours(paper):
    study, found = paper
    samplers = {"default": study.samplers["default"].model_copy(update={"precision": "float32"})}
    generator = study.generator.model_copy(
        update={"sampler": study.generator.sampler.model_copy(update={"precision": "bfloat16"})}
    )
    changed = study.model_copy(update={"samplers": samplers, "generator": generator})

    narrow, wide = by_key(found), by_key(plan(changed, Layout(study, "nowhere")))

    assert 2000 < found.gpu_hours < 2600
    extracted = 50_000 * 11.4e9  # Inception, in float32
    for key, ratio in (("sample dc_mix_l", 7), ("measure dc_mix_l", 2), ("sample mixar_b", 7)):
        assert wide[key].flops == narrow[key].flops and wide[key].hours > 0.6 * ratio * narrow[key].hours
    work = narrow["sample dc_mix_l"]
    seconds = (work.flops - extracted) / 350e12 + extracted / 50e12
    started = 10 * (0.5 + 5000 / 800 / 60) / 60  # and what the CPU does
    assert work.gpu_hours == pytest.approx(seconds / 3600 + started, rel=0.01)
    assert narrow["generate"].flops / 50e12 / 3600 == pytest.approx(narrow["generate"].gpu_hours, rel=0.02)
    assert wide["generate"].flops / 350e12 / 3600 == pytest.approx(wide["generate"].gpu_hours - 10 * 0.5 / 60, rel=0.02)


def test_no_job_of_the_papers_study_holds_a_gpu_for_less_than_two_minutes_of_work_and_few_jobs_do(paper):
    _, found = paper

    on_gpus = [w for w in found.work if w.gpus and w.stage != "measure"]  # whose length the study's repeats decide

    assert not [w.key for w in on_gpus if 60 * w.hours - START_MINUTES[True] < 2]
    assert {"tokenize", "sample_maskbit", "features_reference"} < by_key(found).keys()
    assert found.jobs <= 500


def test_memory_is_estimated_for_every_job_on_a_gpu_and_for_none_on_cpus(paper, smoke):
    study, found = paper

    assert all(w.memory_gib < 78 for w in found.work if w.gpus)
    assert by_key(found)["train dc_mix_l@200"].memory_gib == training_memory(study, "dc_mix_l").peak
    study = parse_study(smoke)
    assert all(w.memory_gib is None for w in plan(study, Layout(study, "nowhere")).work)


def test_the_studys_own_code_has_no_estimate(smoke):
    smoke["runs"]["dc_sa"]["guidance"] = {"strategy": "toy_strategies:Fused"}
    smoke["hardware"] |= {"device": "cuda", "gpus": 1}
    smoke["hardware"]["runs"] = {"mar": {"compile": True}}
    study = parse_study(smoke)

    found = plan(study, Layout(study, "nowhere"))

    own = {w.key for w in found.work if w.is_own}
    assert own == {f"{stage} dc_sa" for stage in ("train", "sample", "measure")}
    assert all(w.memory_gib is None for w in found.work if w.is_own)
    assert "Compiled (mar): rate and memory are those of eager trainings." in found.notes
    assert any(note.startswith("Assumed: ") and " train" in note for note in found.notes)


def test_a_continued_run_waits_for_its_parent_and_its_generator_costs_one_pass_per_image(paper):
    study, found = paper
    plain, mixed = (by_key(found)[f"train {name}"] for name in ("dc_mix_b", "mixar_b"))

    assert "generator" not in plain.needs and {"train dc_mix_b", "generator"} <= set(mixed.needs)
    images = 200 * (1_281_167 // 2048) * 2048
    assert mixed.flops - plain.flops == pytest.approx(images * generator_flops(study))


def test_a_measurement_waits_for_the_sweep_that_chooses_its_scale(paper):
    study, _ = paper
    runs = {name: study.runs[name] for name in ("control_l", "dc_mix_l")}
    sweep = Sweep(cfg=(1.0, 3.0))
    runs["dc_mix_l"] = runs["dc_mix_l"].model_copy(update={"sweep": sweep})

    found = by_key(plan(study.model_copy(update={"runs": runs}), Layout(study, "nowhere")))

    assert found["measure control_l"].needs == ("ingest",)
    assert found["measure dc_mix_l"].needs == ("ingest", "score_sweep dc_mix_l")


def test_milestones_are_jobs_that_share_the_epochs_of_their_run_and_children_wait_for_theirs(paper):
    study, whole = paper
    runs = {name: study.runs[name] for name in ("dc_mix_l", "mixar_l")}
    runs["dc_mix_l"] = runs["dc_mix_l"].model_copy(update={"training": {"epochs": 320, "milestones": [100, 200]}})
    runs["mixar_l"] = runs["mixar_l"].model_copy(update={"parent": "dc_mix_l@200"})

    found = by_key(plan(study.model_copy(update={"runs": dict(reversed(runs.items()))}), Layout(study, "nowhere")))
    control = by_key(whole)["train control_l"]  # of the same size, for 320 epochs

    parts = [found[f"train dc_mix_l{at}"] for at in ("@100", "@200", "")]
    assert sum(w.flops for w in parts) == pytest.approx(control.flops)
    assert [round(w.flops / parts[0].flops, 6) for w in parts] == [1, 1, 1.2]
    assert "train dc_mix_l@200" in found["train mixar_l"].needs and "score dc_mix_l@100" in found


def test_a_part_has_the_work_that_its_rows_need_and_no_other(paper):
    study, whole = paper

    part = plan(study, Layout(study, "nowhere"), "figure8", ["mine.yaml"])

    runs = {w.name for w in part.work if w.stage == "train"}
    assert runs == {"dc_mix_l@200", "dc_mix_l@320", "dc_mix_l", "mixar_l"}
    assert all(by_key(whole)[w.key] == w for w in part.work)
    assert part.gpu_hours < whole.gpu_hours and "report" not in by_key(part)
    assert part.command.startswith("snakemake --configfile mine.yaml -- ")
    assert "nowhere/imagenet256/score/sample/mixar_l/seed0-default.parquet" in part.command


def test_the_longest_chain_is_the_slowest_path_through_what_work_needs():
    chain = [
        Work("a", "", 1, (), hours=1),
        Work("b", "", 1, ("a",), hours=5),
        Work("c", "", 9, ("a",), hours=2),
        Work("d", "", 1, ("b", "c"), hours=1),
    ]

    assert critical_path({w.key: w for w in chain}) == (("a", "b", "d"), 7)


def test_jobs_share_the_flops_and_each_pays_its_start():
    rates = Rates({"float32": 1e12, "bfloat16": 4e12}, {("sample", "float32"): 2e12, ("sample", "bfloat16"): 8e12})

    alone, ten = (priced(Work("sample", "x", n, (), 1, 7.2e15), rates) for n in (1, 10))

    assert alone.hours == pytest.approx(1 + 0.5 / 60) and ten.hours == pytest.approx(0.1 + 0.5 / 60)
    assert ten.gpu_hours == pytest.approx(alone.gpu_hours + 9 * 0.5 / 60)


def test_the_flops_of_both_tokenizers_are_counted_although_one_looks_at_its_values(paper):
    study, _ = paper

    found = {kind: counted(decoding(study, kind)) for kind in ("continuous", "discrete")}

    assert all(1e11 < flops < 1e12 for flops in found.values()), found


def test_a_study_on_cpus_has_no_gpu_hours_and_a_plan_is_json(smoke):
    study = parse_study(smoke)

    found = plan(study, Layout(study, "nowhere"))

    assert found.gpu_hours == 0 and found.card == "CPUs"
    assert json.loads(json.dumps(found.as_mapping()))["totals"]["jobs"] == found.jobs


@pytest.fixture
def file_of_rates(tmp_path):
    """A function that writes what benchmarks/gpu.sh found."""

    def write(content):
        path = tmp_path / "gpu.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_measured_rates_of_the_same_card_price_the_stages_that_they_name(paper, file_of_rates, monkeypatch):
    study, assumed = paper
    slow = {"card": "h100-80gb", "tflops": {"train": {"bfloat16": 175, "float32": 1}}}

    def planned(measures=None):
        return plan(study, Layout(study, "nowhere"), measures=measures)

    found = planned(file_of_rates(slow))
    monkeypatch.setenv("MIXAR_MEASURES", str(file_of_rates(slow)))
    by_name = planned()

    before, after = by_key(assumed)["train dc_mix_l"], by_key(found)["train dc_mix_l"]
    assert after.gpu_hours == pytest.approx(2 * before.gpu_hours, rel=0.01)
    assert by_key(found)["sample dc_mix_l"] == by_key(assumed)["sample dc_mix_l"]
    assert any("gpu.json): train bfloat16 175 TFLOP/s, train float32 1 TFLOP/s." in note for note in found.notes)
    assert by_name.work == found.work
    other = planned(file_of_rates(slow | {"card": "h200"}))
    assert other.work == assumed.work
    assert any("measured on h200, not on h100-80gb, so it is not used" in note for note in other.notes)


def test_a_measured_rate_prices_work_of_its_own_precision_alone(paper, file_of_rates):
    study, assumed = paper
    fast = {"sample": {"bfloat16": 1000}, "train": {"float32": 1000}, "tokenize": {"float32": 1000}}

    found = plan(study, Layout(study, "nowhere"), measures=file_of_rates({"card": "h100-80gb", "tflops": fast}))

    now, before = by_key(found), by_key(assumed)
    assert now["train dc_mix_l"] == before["train dc_mix_l"], "which is in bfloat16"
    assert now["sample dc_mix_l"].hours < before["sample dc_mix_l"].hours
    assert now["tokenize"].hours < before["tokenize"].hours, "float32 by TF32"
    (said,) = (note for note in found.notes if note.startswith("Assumed: "))
    assert "bfloat16 350 TFLOP/s (train, measure)" in said and "tokenize" not in said


@pytest.mark.parametrize("content", ["[1]", "{", {"card": "h200"}, {"card": "h200", "tflops": {"train": 310}}])
def test_a_file_that_holds_no_rates_is_refused_by_name(paper, file_of_rates, content):
    study, _ = paper
    with pytest.raises(ValueError, match=r"gpu.json: expected what benchmarks/gpu.sh writes"):
        plan(study, Layout(study, "nowhere"), measures=file_of_rates(content))
    with pytest.raises(ValueError, match=r"--measures: .*none.json is no file"):
        plan(study, Layout(study, "nowhere"), measures=file_of_rates("{}").with_name("none.json"))


@pytest.mark.parametrize("name", ["imagenet256", "smoke", "demo", "emoji"])
def test_a_part_is_made_of_rows_that_the_workflow_makes(root, name):
    study = load_study(root / "config" / f"{name}.yaml")
    layout = Layout(study, "nowhere")
    made = set(layout.row_files())

    for part in PARTS:
        _, paths = rows_of_part(study, layout, part)
        assert paths and set(paths) <= made


def test_unknown_and_empty_parts_and_data_that_cannot_be_counted_are_refused(smoke):
    study = parse_study(smoke)
    with pytest.raises(ValueError, match="--only: 'figure9' is unknown; did you mean"):
        plan(study, Layout(study), "figure9")
    del smoke["report"]["figure8"]
    with pytest.raises(ValueError, match="--only: the study has no figure8"):
        plan(parse_study(smoke), Layout(study), "figure8")
    smoke["data"]["path"] = "nowhere.parquet"
    study = parse_study(smoke)
    with pytest.raises(ValueError, match=r"data.path: .*nowhere.parquet is not there, so its images cannot be counted"):
        plan(study, Layout(study, "nowhere"))


@pytest.mark.parametrize(("hours", "said"), [(0.001, "1 min"), (0.5, "30 min"), (5, "5.0 h"), (72, "3.0 days")])
def test_times_are_printed_in_a_unit_that_fits(hours, said):
    assert time_of(hours) == said
