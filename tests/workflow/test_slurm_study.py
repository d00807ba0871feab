"""The smoke study on a cluster, with the command that users type, from a clone; and a training that loses its place."""

import json
import os
import re
import subprocess

import pandas as pd
import pytest
import yaml
from cluster import wait_for
from driver import Driver
from safetensors.numpy import load_file
from smoke_runs import long_training

from mixar.study.layout import Layout
from mixar.study.load import parse_study

pytestmark = [pytest.mark.slurm, pytest.mark.workflow]
# What is never twice the same. A peak of memory may even have no row: where an earlier one hides it.
TIMES = ("seconds_per_image", "minutes_per_epoch", "flops_per_second_train", "flops_per_second_sample")
PEAKS = ("peak_memory_gib", "peak_memory_train_gib", "peak_memory_sample_gib")
VALUES = ("", "_sd", "_low", "_high")
CLOCKED = [f"{metric}{end}" for metric in TIMES for end in VALUES]
CLOCKED += [f"{metric}{end}" for metric in PEAKS for end in (*VALUES, "_seeds", "_n", "_protocol")]


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
def finished(running, clone, tmp_path_factory, request):
    """The clone, and layouts of the smoke study on the cluster and on this machine alone."""
    decoy = tmp_path_factory.mktemp("config") / "snakemake" / "slurm"
    decoy.mkdir(parents=True)
    (decoy / "config.yaml").write_text("executor: no-such-executor\n")
    environment = running.environment | {"XDG_CONFIG_HOME": str(decoy.parent.parent)}
    # Sums in another number of threads differ in their last digits, so both take the local profile's.
    threads = yaml.safe_load((clone / "workflow" / "profiles" / "local" / "profile.yaml").read_text())["set-threads"]
    same = ("--set-threads", *(f"{rule}={number}" for rule, number in threads.items()))
    pace = ("--jobs", "3", "--submitit-poll-min-seconds", "1", "--submitit-poll-max-seconds", "1")
    snakemake(clone, environment, "--profile", "slurm", "--configfile", "config/smoke.yaml", *pace, *same)
    on_cluster = Layout(parse_study(yaml.safe_load((clone / "config" / "smoke.yaml").read_text())))
    # Asked for last: another worker runs that study at the same time.
    return clone, on_cluster, request.getfixturevalue("finished_smoke").copy


@pytest.mark.parametrize("name, column", [("table1.csv", "fd"), ("table2.csv", "tokens_total")])
def test_the_cluster_makes_the_tables_of_the_local_run(finished, name, column):
    one, two = (pd.read_csv(file).drop(columns=CLOCKED, errors="ignore") for file in both(finished, name))
    tables = one, two[two["label"] != "Toy"].reset_index(drop=True)  # a run of the local study alone

    assert tables[0][column].notna().all()
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_the_cluster_judges_the_claims_like_the_local_run(finished):
    one, two = (file.read_text() for file in both(finished, "claims.md"))

    assert one == two
    assert "DC-Mix is close to DC-SA" in one


def both(finished, name):
    """A file of the report as the cluster and as this machine made it."""
    clone, *layouts = finished
    return [clone / layout.report_files()[name] for layout in layouts]


def test_the_cluster_measures_the_scores_of_the_local_run(finished):
    rows = [pd.read_parquet(file) for file in both(finished, "results.parquet")]
    keys = ["source", "run", "sampler", "seed", "metric"]
    rows = [r[(r.source != "measure") & (r.run != "toy")].sort_values(keys).reset_index(drop=True) for r in rows]

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


def test_a_preempted_training_ends_with_the_weights_of_an_undisturbed_one(
    finished, running, undisturbed, tmp_path, smoke
):
    clone, _, whole = finished
    file, hasty = long_training(smoke, whole, tmp_path)

    common = ("--allowed-rules", "train", "--set-threads", "train=1", "--submitit-poll-max-seconds", "2")
    options = ("--profile", "slurm", *common, "--configfile", file)
    driver = Driver(clone, running.environment, hasty.weights("mar", 0), *options)
    try:
        wait_for(lambda: any((hasty.root / "checkpoints").rglob("state-*.pt")), "a checkpoint", 200)
        running.wait_state(running.occupy(), "RUNNING", "COMPLETED", seconds=120)
        code = driver.wait()
    finally:
        driver.kill()
        running.clear()

    assert code == 0, driver.output
    last = json.loads((clone / ".snakemake/submitit/finished.jsonl").read_text().splitlines()[-1])
    assert (last["name"], last["interruptions"]) == ("train mar 0", 1)
    assert same_weights(undisturbed.weights("mar", 0), hasty.weights("mar", 0))
    # equal weights alone would also come from training again: it went on where the checkpoint was
    assert re.search(r"continues after [1-9]\d*/\d+ steps", hasty.log("train", "mar", "seed0").read_text())
