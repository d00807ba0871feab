"""The study: what is accepted, what is refused, and in which words."""

import subprocess
import sys

import pytest
import yaml

from mixar.reporting.claims import compared_runs, inequality
from mixar.reporting.results import total_epochs
from mixar.study.errors import SpecError
from mixar.study.load import load_study, parse_study


def refusal(content):
    with pytest.raises(SpecError) as caught:
        parse_study(content)
    return str(caught.value)


@pytest.mark.parametrize("name", ["imagenet256", "demo", "smoke"])
def test_every_committed_study_is_valid(name, root):
    study = load_study(root / "config" / f"{name}.yaml")

    assert study.study == name


def test_the_scratch_demo_differs_from_the_demo_only_in_name_starts_and_length(root):
    demo = yaml.safe_load((root / "config" / "demo.yaml").read_text())
    overlay = yaml.safe_load((root / "config" / "demo-scratch.yaml").read_text())

    started = {name for name, run in demo["runs"].items() if "start" in run}

    assert set(overlay) == {"study", "title", "training", "runs"}
    assert set(overlay["training"]) == {"epochs", "warmup_epochs"}
    assert started <= set(overlay["runs"]) <= set(demo["runs"])
    assert all(run == {"start": None, "start_epochs": 0} for run in overlay["runs"].values())


def test_the_paper_study_holds_every_run_the_paper_reports(root):
    study = load_study(root / "config" / "imagenet256.yaml")

    assert (study.evaluation.num_images, study.evaluation.num_shards, study.data.num_shards) == (50_000, 10, 32)
    assert {total_epochs(study, name) for name in study.report.figure7} == {320}
    parts = study.report.figure8
    assert [total_epochs(study, name) for name in (parts.parent, parts.plain, parts.ti_mix)] == [200, 400, 400]
    assert study.runs[parts.ti_mix].parent == parts.parent == "dc_mix_l@200" and parts.plain == "dc_mix_l"


def test_the_paper_studys_claims_compare_equal_arms(root):
    study = load_study(root / "config" / "imagenet256.yaml")

    assert compared_runs(study) and not any(inequality(study, *pair) for pair in compared_runs(study))
    assert study.runs[study.report.claims.baseline].guidance.strategy == "none"


def test_mars_own_sizes_are_an_overlay_of_the_paper_study(root):
    study = load_study(root / "config" / "imagenet256.yaml", root / "config" / "imagenet256-mar.yaml")

    assert {"mar_b", "mar_l", "mar_h", "mixar_l"} <= study.runs.keys()
    assert study.training_of("mar_h").epochs == 800 and study.hardware_of("mar_h").nodes == 2


def test_a_study_survives_the_way_through_json(smoke, tmp_path):
    study = parse_study(smoke)
    file = tmp_path / "study.json"

    file.write_text(study.model_dump_json())

    assert load_study(file) == study


def test_an_unknown_strategy_is_refused_with_the_nearest_valid_one(smoke):
    smoke["runs"]["dc_mix"]["guidance"]["strategy"] = "dc_mxi"

    message = refusal(smoke)

    assert "runs.dc_mix.guidance.strategy: 'dc_mxi' is unknown; did you mean 'dc_mix'?" in message


def test_a_study_may_name_a_strategy_of_its_own(smoke):
    for name in ("dc_mix", "dc_mix_long", "dc_mix_timix"):
        smoke["runs"][name]["guidance"]["strategy"] = "my_package:Mine"

    study = parse_study(smoke)

    assert study.runs["dc_mix"].guidance.strategy == "my_package:Mine"


def test_parsing_a_study_imports_neither_torch_nor_arrow(root):
    code = (
        "import sys; from mixar.assets import check; from mixar.study import layout, load;"
        "load.load_study('config/imagenet256.yaml'); print({'torch', 'pyarrow'} & set(sys.modules))"
    )

    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout

    assert found == "set()\n"


def test_a_run_has_the_hardware_of_the_study_except_for_its_own_keys(smoke):
    smoke["hardware"] = {"device": "cuda", "gpus": 8, "micro_batch": 2, "compile": True}
    smoke["hardware"]["runs"] = {"mar": {"gpus": 4, "nodes": 2, "micro_batch": None}}

    study = parse_study(smoke)

    ours, others = study.hardware_of("mar"), study.hardware_of("dc_mix")
    assert (ours.gpus, ours.nodes, ours.gpus_per_node, ours.micro_batch, ours.compile) == (4, 2, 2, None, True)
    assert (others.gpus, others.nodes, others.processes, others.micro_batch) == (8, 1, 8, 2)


def test_a_band_has_its_lower_loss_first(smoke):
    smoke["training"]["expected"] = {1: [0.6, 0.4]}

    with pytest.raises(
        ValueError, match=r"training\.expected\.1: \[0\.6, 0\.4\] is not a band; give the lower loss first"
    ):
        parse_study(smoke)


def test_what_is_wrong_for_every_run_in_the_same_words_is_reported_once(smoke):
    smoke["hardware"]["micro_batch"] = 3

    with pytest.raises(SpecError) as refused:
        parse_study(smoke)

    assert str(refused.value).count("hardware.micro_batch: 3 images do not divide") == 1
