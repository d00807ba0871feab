"""A guidance sweep through Snakemake: its jobs, the choice, and the images that are drawn with it."""

import json

import pytest
import yaml
from dry_runs import dry_run, jobs
from smoke_runs import run, write_study

from mixar.reporting.results import read_rows
from mixar.stages.plan import plan
from mixar.study.load import load_study

SWEEP = {"cfg": [1.5, 3.0], "num_images": 40}  # two files of at most 36


def with_sweep(root, folder):
    content = yaml.safe_load((root / "config" / "smoke.yaml").read_text())
    content["runs"] = {name: content["runs"][name] for name in ("mar", "dc_mix")}
    content["runs"]["dc_mix"]["sweep"] = SWEEP
    content["report"] = {}
    return write_study(content, folder)


def test_all_points_are_in_the_dag_and_in_the_plan_in_few_jobs(root, tmp_path):
    file, layout = with_sweep(root, tmp_path)
    study = load_study(file)

    found = jobs(dry_run(root, [file]))
    planned = {w.key: w for w in plan(study, layout).work}

    assert (found["generate_sweep"], found["sample_sweep"], found["score_sweep"]) == (2, 4, 2)  # dc_mix and dc_mix@1
    assert sum(w.jobs for w in planned.values()) == sum(found.values()) - found["total"] - found["all"]
    assert "score_sweep dc_mix" in planned["sample dc_mix"].needs and "sample_sweep mar" not in planned


@pytest.mark.workflow
def test_a_sweep_chooses_what_the_final_images_are_drawn_with(root, tmp_path):
    content = yaml.safe_load((root / "config" / "demo.yaml").read_text())
    content["data"]["limit"] = 300
    content["evaluation"] |= {"num_images": 60, "shard_size": 40, "batch_size": 20}
    content["scoring"] |= {"kid_subset_size": 20, "jackknife_groups": 5}
    trained = content["runs"]["mar"]
    trained["weights"] = trained.pop("start")  # the committed checkpoints: nothing is trained
    content["runs"] = {"mar": trained | {"sweep": SWEEP | {"num_images": 50}}}
    content["report"] = {}
    file, layout = write_study(content, tmp_path)

    run(root, file, layout.scores("sample", "mar", 1, "default"))

    choice = json.loads(layout.chosen_cfg("mar", "default").read_text())
    rows = read_rows(layout.root)
    swept, final = (rows[rows["source"] == source] for source in ("sweep", "sample"))
    assert sorted(swept["cfg"]) == SWEEP["cfg"] and set(swept["n"]) == {50}
    assert choice["cfg"] == swept.loc[swept["value"].idxmin(), "cfg"]
    assert set(final["cfg"]) == {choice["cfg"]} and set(final["seed"]) == {1}
