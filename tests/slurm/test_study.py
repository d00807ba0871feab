"""The smoke study on a cluster, with the command that users type, from a clone; and a training that loses its place."""

import json
import os
import subprocess

import pandas as pd
import pytest
import yaml
from cluster import wait_for
from driver import Driver
from safetensors.numpy import load_file

from mixar.layout import Layout
from mixar.spec import parse_study

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]


def git(*words, cwd):
    return subprocess.run(["git", *map(str, words)], cwd=cwd, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def clone(root, tmp_path_factory):
    """A clone of the repository, with what is changed here and not yet committed."""
    folder = tmp_path_factory.mktemp("clone") / "mixar"
    git("clone", "--quiet", "--shared", root, folder, cwd=root)
    for name in git("ls-files", "-z", "--modified", "--others", "--exclude-standard", cwd=root).decode().split("\0"):
        source, target = root / name, folder / name
        if name and os.path.lexists(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            subprocess.run(["cp", "-P", source, target], check=True)
    return folder


def snakemake(folder, environment, *options):
    driver = Driver(folder, environment, *options)
    assert driver.wait(3600) == 0, driver.output


@pytest.fixture(scope="module")
def finished(running, clone, tmp_path_factory):
    """Layouts of the smoke study on the cluster and on this machine alone."""
    decoy = tmp_path_factory.mktemp("config") / "snakemake" / "slurm"
    decoy.mkdir(parents=True)
    (decoy / "config.yaml").write_text("executor: no-such-executor\n")
    environment = running.environment | {"XDG_CONFIG_HOME": str(decoy.parent.parent)}
    # Sums in another number of threads differ in their last digits, so both take the local profile's.
    threads = yaml.safe_load((clone / "workflow" / "profiles" / "local" / "profile.yaml").read_text())["set-threads"]
    same = ("--set-threads", *(f"{rule}={number}" for rule, number in threads.items()))
    pace = ("--jobs", "3", "--submitit-poll-min-seconds", "1", "--submitit-poll-max-seconds", "1")
    snakemake(clone, environment, "--profile", "slurm", "--configfile", "config/smoke.yaml", *pace, *same)
    study = yaml.safe_load((clone / "config" / "smoke.yaml").read_text())
    study["hardware"]["results"] = "local-results"
    (clone / "local.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    options = ("--profile", "workflow/profiles/local", "--configfile", "local.yaml")
    snakemake(clone, os.environ, *options)
    on_cluster = Layout(parse_study(yaml.safe_load((clone / "config" / "smoke.yaml").read_text())))
    return clone, on_cluster, Layout(parse_study(study))


def test_the_cluster_makes_the_tables_of_the_local_run(finished):
    clone, on_cluster, local = finished

    tables = [pd.read_csv(clone / layout.report_files()["table1.csv"]) for layout in (on_cluster, local)]

    pd.testing.assert_frame_equal(*tables)


def test_the_cluster_measures_the_scores_of_the_local_run(finished):
    clone, on_cluster, local = finished

    rows = [pd.read_parquet(clone / layout.report_files()["results.parquet"]) for layout in (on_cluster, local)]
    keys = ["source", "run", "sampler", "seed", "metric"]
    rows = [r[r.source != "measure"].sort_values(keys).reset_index(drop=True) for r in rows]

    columns = [*keys, "value", "low", "high", "n", "protocol"]
    pd.testing.assert_frame_equal(rows[0][columns], rows[1][columns])


def test_the_cluster_trains_the_weights_of_the_local_run(finished):
    clone, on_cluster, local = finished

    for run, settings in on_cluster.study.runs.items():
        for seed in settings.seeds:
            assert same_weights(clone / on_cluster.weights(run, seed), clone / local.weights(run, seed))


def same_weights(*files):
    one, two = (load_file(file) for file in files)
    return one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


def test_a_preempted_training_ends_with_the_weights_of_an_undisturbed_one(finished, running, tmp_path):
    clone, whole, _ = finished
    layouts = []
    for name in ("undisturbed", "preempted"):
        study = yaml.safe_load((clone / "config" / "smoke.yaml").read_text())
        study["training"]["epochs"] = 400
        study["runs"] = {run: study["runs"][run] for run in ("mar", "dc_mix")}
        study["report"] = {}
        study["hardware"] |= {"results": str(tmp_path / name), "checkpoint_minutes": 0.02}
        layout = Layout(parse_study(study))
        layout.root.mkdir(parents=True)
        for part in ("ingest", "tokenizer", "tokenize"):  # the same tokens for both
            subprocess.run(["cp", "-rp", clone / whole.root / part, layout.root / part], check=True)
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        layouts.append(layout)
    calm, hasty = layouts

    common = ("--allowed-rules", "train", "--set-threads", "train=1", "--submitit-poll-max-seconds", "2")
    options = ("--profile", "slurm", *common, "--configfile", tmp_path / "preempted.yaml")
    driver = Driver(clone, running.environment, hasty.weights("mar", 0), *options)
    try:
        wait_for(lambda: any((hasty.root / "checkpoints").rglob("state.pt")), "a checkpoint", 200)
        running.occupy()
        local = ("--profile", "workflow/profiles/local", "--configfile", tmp_path / "undisturbed.yaml")
        snakemake(clone, os.environ, calm.weights("mar", 0), *local, "--allowed-rules", "train")
        code = driver.wait()
    finally:
        driver.kill()
        running.clear()

    assert code == 0, driver.output
    last = json.loads((clone / ".snakemake/submitit/finished.jsonl").read_text().splitlines()[-1])
    assert (last["name"], last["interruptions"]) == ("train mar 0", 1)
    assert same_weights(calm.weights("mar", 0), hasty.weights("mar", 0))
