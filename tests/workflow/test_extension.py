"""A study whose runs grow from 2 epochs to 4, through Snakemake: one unchanged, one with other settings on the way."""

import json
import shutil

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file
from smoke_runs import run, write_study
from verbs import mixar

from mixar.stages.train import train
from mixar.study.layout import Layout
from mixar.weights import read_metadata

pytestmark = pytest.mark.workflow
REPORT = {"figure8": {"parent": "dc_mix@1", "plain": "dc_mix", "ti_mix": "dc_mix_timix"}, "grid": [2, 6]}
CHANGED = "training.learning_rate=0.008 from epoch 2"


def content_of(root, epochs: int) -> dict:
    """The smoke study's plain run, its run with a milestone, and the child of that milestone."""
    content = yaml.safe_load((root / "config" / "smoke.yaml").read_text())
    content["runs"] = {name: content["runs"][name] for name in ("mar", "dc_mix", "dc_mix_timix")}
    content["training"] |= {"epochs": epochs, "keep_states": True}
    content["runs"]["dc_mix"]["seeds"] = [0]
    content["report"] = REPORT
    return content


def with_all_but_trainings(content: dict, whole: Layout, folder):
    """The study in a folder, with what a finished one made before its trainings."""
    file, layout = write_study(content, folder)
    made = shutil.ignore_patterns("train", "checkpoints", "watch", "report", "study.json")
    shutil.copytree(whole.root, layout.root, ignore=made)  # with the times of the files
    return file, layout


@pytest.fixture(scope="module")
def grown(root, finished_smoke, tmp_path_factory) -> Layout:
    """The study after 2 epochs, a change of run mar, and the command that trains it to 4 and reports."""
    folder = tmp_path_factory.mktemp("grown")
    file, layout = with_all_but_trainings(content_of(root, 2), finished_smoke.copy, folder)
    run(root, file, *(layout.weights(name, 0) for name in ("mar", "dc_mix", "dc_mix_timix")))
    file, layout = write_study(content_of(root, 4), folder)
    done = mixar("resume", "mar", "--study", file, "--set", "training.learning_rate=0.008", "--later")
    assert done.returncode == 0, done.stderr
    run(root, file)
    return layout


@pytest.fixture(scope="module")
def at_once(root, finished_smoke, tmp_path_factory) -> Layout:
    """Run dc_mix of 4 epochs with nothing before it, and as dc_mix_1 a run of one epoch."""
    content = content_of(root, 4)
    del content["runs"]["dc_mix_timix"], content["runs"]["dc_mix"]["training"]
    content["runs"]["dc_mix_1"] = {**content["runs"]["dc_mix"], "label": "Short", "training": {"epochs": 1}}
    content["report"] = {}
    _, layout = with_all_but_trainings(content, finished_smoke.copy, tmp_path_factory.mktemp("at_once"))
    for name in ("dc_mix", "dc_mix_1"):
        train(layout.study, layout, name, 0)
    return layout


def same_weights(one: Layout, name: str, other: Layout, other_name: str) -> bool:
    a, b = load_file(one.weights(name, 0)), load_file(other.weights(other_name, 0))
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def test_two_epochs_that_grow_to_four_equal_four_at_once(grown, at_once):
    assert "continues from the state kept after epoch 2" in grown.log("train", "dc_mix", "seed0").read_text()
    assert same_weights(grown, "dc_mix", at_once, "dc_mix")


def test_a_milestone_of_the_workflow_equals_the_shorter_run(grown, at_once):
    assert same_weights(grown, "dc_mix@1", at_once, "dc_mix_1")


def test_a_child_of_a_milestone_starts_from_its_state(grown):
    recorded = read_metadata(grown.weights("dc_mix_timix", 0))

    assert recorded["continued"] == "model, average and moments of dc_mix@1"


def test_a_change_on_the_way_is_recorded_and_marks_the_run_in_every_table(grown):
    files = grown.report_files()

    assert read_metadata(grown.weights("mar", 0))["changed"] == CHANGED
    assert read_metadata(grown.weights("dc_mix", 0)).get("changed") is None
    for table in ("table1", "table2"):
        assert "MAR§" in files[f"{table}.md"].read_text() and CHANGED in files[f"{table}.md"].read_text()
        frame = pd.read_csv(files[f"{table}.csv"]).set_index("run")
        assert frame["changed"].dropna().to_dict() == {"mar": CHANGED}
    rows = pd.read_parquet(files["results.parquet"])
    assert {
        json.loads(hashes)["changed"] for hashes in rows[(rows.run == "mar") & (rows.source == "sample")].hashes
    } == {CHANGED}
