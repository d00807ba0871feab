"""The smoke study through Snakemake, end to end, and a training that is killed in its middle."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file
from smoke_runs import command, long_training, run

pytestmark = pytest.mark.workflow


def test_one_command_makes_every_table_and_figure(finished_smoke):
    _, layout, output, _ = finished_smoke

    assert all(path.stat().st_size > 0 for path in layout.report_files().values())
    assert "left" in output


def test_an_own_strategy_takes_a_class_a_table_row_and_a_study_entry(finished_smoke):
    layout = finished_smoke.layout
    files = layout.report_files()

    rows = pd.read_parquet(files["results.parquet"])

    for table in ("table1", "table2"):
        assert "Toy" in pd.read_csv(files[f"{table}.csv"])["label"].tolist()
    assert {"fd", "tokens_total", "parameters"} <= set(rows[rows.run == "toy"].metric)  # what the balance plot shows


def test_every_run_has_every_metric_with_its_protocol_and_interval(finished_smoke):
    layout = finished_smoke.layout
    study = layout.study

    rows = pd.read_parquet(layout.report_files()["results.parquet"])

    scores = rows[rows.source == "sample"]
    for name, r in [*study.runs.items(), ("maskbit", None)]:
        for seed in r.seeds if r else (0,):
            own = scores[(scores.run == name) & (scores.seed == seed)]
            assert {*study.scoring.metrics, "copies_features", "copies_pixels"} <= set(own.metric), name
    ids = {metric: set(own.protocol) for metric, own in scores.groupby("metric")}
    hashes = json.loads(scores.hashes.iloc[0])
    other = f"data={hashes['data'][:8]}, extractor={hashes['extractor'][:8]}"  # 96 drawings, and its own network
    smaller = f"emoji-gfd[is_splits=2, kid_subsets=4, kid_subset_size=16, {other}{{}}]"  # than the protocol has them
    assert ids.pop("fd_held_out") == {smaller.format(", reference=held_out")}
    assert set().union(*ids.values()) == {smaller.format("")}
    assert (scores.low <= scores.high).all()
    assert {"psnr", "rfd"} <= set(rows[rows.source == "reconstruct"].metric)
    assert set(rows[rows.source == "measure"].run) == set(study.runs)


def test_a_second_command_does_nothing_and_says_so(finished_smoke, root):
    study_file, layout, *_ = finished_smoke
    before = {path: path.stat().st_mtime_ns for path in layout.root.rglob("*") if path.is_file()}

    output = run(root, study_file)

    assert "Everything is up to date" in output
    assert before == {path: path.stat().st_mtime_ns for path in layout.root.rglob("*") if path.is_file()}


def test_a_changed_setting_reruns_exactly_the_stages_it_concerns(finished_smoke, root, tmp_path):
    study_file = finished_smoke.study_file
    content = yaml.safe_load(study_file.read_text())
    content["runs"]["mar"]["training"] = {"epochs": 3}
    changed = tmp_path / "study.yaml"
    changed.write_text(yaml.safe_dump(content, sort_keys=False))

    environment = os.environ | {"PYTHONPATH": str(study_file.parent)}  # the toy strategy's code counts, too
    result = subprocess.run(
        [*command(changed), "-n"], cwd=root, capture_output=True, text=True, check=True, env=environment
    )

    planned = dict(re.findall(r"^(\w+) +(\d+)  .", result.stdout, re.M))
    # not `measure`: a training step takes as long in the third epoch as in the first
    assert set(planned) - {"all"} == {"report", "sample", "score", "train"}
    assert planned["train"] == "1"
    assert "settings changed" in result.stdout and "--config replace=true" in result.stdout


def test_the_html_report_holds_the_tables_and_figures(finished_smoke, root, tmp_path):
    study_file = finished_smoke.study_file
    page = tmp_path / "report.html"

    run(root, study_file, "--report", page)

    assert "table1" in page.read_text()


def test_a_training_that_was_killed_resumes_to_the_same_weights(finished_smoke, undisturbed, root, tmp_path, smoke):
    file, hasty = long_training(smoke, finished_smoke.copy, tmp_path)
    target = "mar", 0

    kill_in_the_middle(root, file, hasty, target)
    assert not hasty.weights(*target).exists()
    run(root, file, hasty.weights(*target), "--allowed-rules", "train")

    expected, found = (load_file(layout.weights(*target)) for layout in (undisturbed, hasty))
    assert expected.keys() == found.keys()
    assert all((expected[name] == found[name]).all() for name in expected)
    # equal weights alone would also come from training again: it went on where the checkpoint was
    assert re.search(r"continues after [1-9]\d*/\d+ steps", hasty.log("train", "mar", "seed0").read_text())


def kill_in_the_middle(root, study_file, layout, target):
    """SIGKILL Snakemake and everything it started as soon as the training has left a checkpoint."""
    arguments = command(study_file, layout.weights(*target), "--allowed-rules", "train")
    driver = subprocess.Popen(arguments, cwd=root, start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not any((layout.root / "checkpoints").rglob("state-*.pt")):
        assert driver.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline, "no checkpoint within five minutes"
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()


def test_brought_images_join_the_report_with_the_next_command_which_makes_nothing_else(finished_smoke, root, tmp_path):
    study_file, layout, *_ = finished_smoke
    np.savez(tmp_path / "drawn.npz", np.random.default_rng(0).integers(0, 256, (36, 32, 32, 3), dtype=np.uint8))
    given = [tmp_path / "drawn.npz", "--study", study_file, "--label", "Noise"]
    scored = [sys.executable, "-m", "mixar", "score-images", *given]
    environment = os.environ | {"PYTHONPATH": str(study_file.parent)}
    subprocess.run(scored, cwd=root, check=True, env=environment)
    made = [layout.weights("mar", 0), layout.scores("sample", "mar", 0, "default")]
    before = [path.stat().st_mtime_ns for path in made]

    run(root, study_file)

    assert "Noise" in pd.read_csv(layout.report_files()["table1.csv"])["label"].tolist()
    assert before == [path.stat().st_mtime_ns for path in made]


def test_a_deleted_row_of_brought_images_leaves_the_report_with_the_next_command(finished_smoke, root):
    study_file, layout, *_ = finished_smoke
    scores = layout.scores("own", "own_noise")
    assert scores.is_file()  # of the test before

    shutil.rmtree(scores.parent)
    run(root, study_file)

    assert "Noise" not in pd.read_csv(layout.report_files()["table1.csv"])["label"].tolist()
