"""Resources as submitit parameters, and the sbatch files that result."""

import pytest

from snakemake_executor_plugin_submitit.parameters import (
    check_names,
    check_site,
    extra_options,
    timeouts_within,
    to_parameters,
)

TRAINING = {
    "_cores": 16,
    "_nodes": 1,
    "tmpdir": "<TBD>",
    "runtime": 2880,
    "mem_mb": 64000,
    "mem_mib": 61036,
    "nodes": 2,
    "gpus_per_node": 4,
}


def sbatch_lines(folder, **parameters):
    """What submitit makes of parameters: the #SBATCH lines and the lines after them."""
    from submitit import AutoExecutor
    from submitit.slurm.slurm import SlurmExecutor

    executor = AutoExecutor(folder=folder, cluster="slurm")
    executor.update_parameters(**parameters)
    assert isinstance(executor._executor, SlurmExecutor)
    text = executor._executor._make_submission_file_text("exec python", "id")
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line]


@pytest.fixture(autouse=True)
def srun(tmp_path, monkeypatch):
    """submitit asks whether there is an srun before it builds anything."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_a_training_on_two_nodes_is_asked_for_as_written(tmp_path):
    site = {"partition": "gpu", "account": "vision", "gpu_type": "a100", "setup": ["module load cuda"]}

    lines = sbatch_lines(tmp_path, name="train", **to_parameters(TRAINING, threads=32, site=site))

    expected = [
        "account=vision",
        "cpus-per-task=32",
        "gpus-per-node=a100:4",
        "job-name=train",
        "mem=64000M",
        "nodes=2",
        "ntasks-per-node=1",
        "open-mode=append",
        "partition=gpu",
        "requeue",
        "signal=B:USR2@120",
        "time=2880",
        "wckey=''",
    ]
    assert [line for line in lines if line in expected] == expected
    assert [line for line in lines if "gpus" in line] == ["gpus-per-node=a100:4"]
    assert lines[-5:] == [
        "trap '' USR2",
        "module load cuda",
        "# command",
        "export SUBMITIT_EXECUTOR=slurm",
        "exec python",
    ]


def test_a_job_without_gpus_goes_to_the_partition_for_cpus():
    site = {"partition": "gpu", "cpu_partition": "cpu", "gpu_type": "a100"}

    with_gpu, without = to_parameters({"gpus_per_node": 1}, 1, site=site), to_parameters({}, 1, site=site)

    assert (with_gpu["slurm_partition"], without["slurm_partition"]) == ("gpu", "cpu")
    assert "gpus-per-node" not in without["slurm_additional_parameters"]
    assert "gpus_per_node" not in without


def test_a_sites_further_options_give_way_to_a_rules_gpus():
    options = to_parameters({"gpus_per_node": 2}, 1, site={"extra": "--gres=shard:1"})["slurm_additional_parameters"]

    assert options["gres"] == "shard:1"


@pytest.mark.parametrize(
    ("runtime", "max_timeouts", "limit", "restarts"),
    [
        (2880, 20, 1440, 41),  # 21 x 2880 minutes, as before
        (2880, 1, 1000, 5),
        (1440, 20, 1440, 20),
        (60, 20, 1440, 20),
        (2880, 0, 1440, 0),  # it does not resume: no restart helps
    ],
)
def test_a_site_cuts_time_limits_and_gives_restarts_to_what_resumes(runtime, max_timeouts, limit, restarts):
    resources, site = {"runtime": runtime, "max_timeouts": max_timeouts}, {"max_runtime": limit}

    parameters = to_parameters(resources, 1, site=site)

    assert parameters["timeout_min"] == min(runtime, limit)
    assert timeouts_within(resources, site, default=7) == restarts
    assert (restarts + 1) * parameters["timeout_min"] >= (max_timeouts + 1) * runtime or not max_timeouts


def test_without_a_longest_time_a_job_has_the_limit_and_restarts_that_it_asks_for():
    assert to_parameters({"runtime": 99_999}, 1, site={"partition": "gpu"})["timeout_min"] == 99_999
    assert timeouts_within({"runtime": 99_999}, {}, default=3) == 3


@pytest.mark.parametrize("value", [0, -5, "1 day", True, 1.5])
def test_a_longest_time_that_is_no_number_of_minutes_is_refused(value):
    with pytest.raises(ValueError, match="site.yaml: max_runtime: expected a whole number from 1"):
        check_site({"max_runtime": value}, "site.yaml")


def test_a_rules_own_resource_wins_over_the_sites():
    found = to_parameters(
        {"slurm_partition": "long", "gpus_per_node": "h100:2"}, 1, site={"partition": "gpu", "gpu_type": "a100"}
    )

    assert found["slurm_partition"] == "long"
    assert found["slurm_additional_parameters"]["gpus-per-node"] == "h100:2"


@pytest.mark.parametrize(
    "resources, name, value",
    [
        ({"runtime": 1}, "signal", "B:USR2@15"),  # a quarter of a short limit
        ({"runtime": 600}, "signal", "B:USR2@120"),
        ({"max_preemptions": 0}, "no-requeue", True),
        ({"reservation": "talk"}, "reservation", "talk"),
        ({"slurm_extra": "--mail-type=FAIL --exclusive"}, "mail-type", "FAIL"),
        ({"slurm_extra": "--mail-type=FAIL --exclusive"}, "exclusive", True),
    ],
)
def test_what_submitit_has_no_name_for_becomes_a_further_option(resources, name, value):
    assert to_parameters(resources, 1)["slurm_additional_parameters"][name] == value


def test_memory_is_asked_for_each_node_or_each_cpu():
    assert to_parameters({"mem_mb": 500}, 1)["slurm_mem"] == "500M"
    assert to_parameters({"mem_mb": 500, "mem_mb_per_cpu": 100}, 1).get("slurm_mem") is None
    assert to_parameters({"mem_mb_per_cpu": 100}, 1)["slurm_mem_per_cpu"] == "100M"
    assert not any("mem" in name for name in to_parameters({}, 1))


def test_no_memory_means_all_of_the_node_as_it_does_to_slurm(tmp_path):
    assert "mem=0" in sbatch_lines(tmp_path, name="train", **to_parameters({"mem_mb": 0}, 1))


ASKED_FOR = ("nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node")


@pytest.mark.parametrize(
    "resources, expected",
    [
        ({"gpu": 2}, {"gpus_per_node": 2}),
        ({"gpu": 8, "nodes": 2}, {"nodes": 2, "gpus_per_node": 4}),
        ({"gpu": 0}, {}),
        ({"gpu": 2, "gpu_model": "a100"}, {"gpus-per-node": "a100:2"}),
        ({"gres": "gpu"}, {"gpus_per_node": 1}),
        ({"gres": "gpu:2"}, {"gpus_per_node": 2}),
        ({"gres": "gpu:a100"}, {"gpus-per-node": "a100:1"}),
        ({"gres": "gpu:a100:2,shard:1", "gpu": 2}, {"gpus-per-node": "a100:2", "gres": "shard:1"}),
        ({"gpus_per_node": "a100:2", "gpu": 2}, {"gpus-per-node": "a100:2"}),
        ({"gres": "lustre:1"}, {"gres": "lustre:1"}),
        ({"gpu": "a100:2"}, {"gpus-per-node": "a100:2"}),
        ({"slurm_extra": "'--gres=gpu:a100:2,shard:1'"}, {"gpus-per-node": "a100:2", "gres": "shard:1"}),
        ({"slurm_extra": "--gpus=2", "nodes": 2}, {"nodes": 2, "gpus_per_node": 1, "gpus": None}),
        ({"slurm_extra": "--gpus-per-node=a100:2"}, {"gpus-per-node": "a100:2"}),
        ({"cpus_per_task": 8}, {"cpus_per_task": 8}),
        ({"cpus_per_task": -1}, {}),
        ({"tasks": 4, "nodes": 2, "mpi": "srun"}, {"nodes": 2, "tasks_per_node": 2}),
        (
            {"gpu": 2, "tasks_per_gpu": 1, "cpus_per_gpu": 4},
            {"gpus_per_node": 2, "tasks_per_node": 2, "cpus_per_task": 4},
        ),
        ({"slurm_partition": "gpu"}, {"slurm_partition": "gpu"}),
    ],
)
def test_names_of_the_standard_executor_mean_the_same_here(resources, expected):
    found = to_parameters(resources, 1)

    options = found.pop("slurm_additional_parameters")
    wanted = {"nodes": 1, "tasks_per_node": 1, "cpus_per_task": 1} | expected
    assert {name: (found | options).get(name) for name in {*wanted, *ASKED_FOR}} == {
        name: wanted.get(name) for name in {*wanted, *ASKED_FOR}
    }


@pytest.mark.parametrize(
    "resources, message",
    [
        (
            {"clusters": "a,b"},
            "resource clusters is not supported: one run works with one cluster; set SLURM_CLUSTERS",
        ),
        ({"slurm_cluster": "a"}, "resource cluster is not supported"),
        ({"requeue": True}, "requeue .* `max_preemptions` says how often"),
        ({"extra": "--gpus=2", "gpu": 1}, "extra: --gpus: means gpu=2, but gpu is 1; give one of the two"),
        ({"gpu": 3, "nodes": 2}, r"gpu: found 3, not divisible by nodes \(2\); give a multiple"),
        ({"tasks": 3, "nodes": 2}, "tasks: found 3, not divisible by nodes"),
        ({"gpu": 2, "gpus_per_node": 4}, "gpu: means gpus_per_node=2, but gpus_per_node is 4; give one of the two"),
        ({"gres": "gpu:2", "gpu": 1}, "gpu: means gpus_per_node=1, but gpus_per_node is 2"),
        ({"gres": "gpu:a100:1,gpu:h100:1"}, "gres: .*GPUs of one type"),
        ({"gres": "gpu:a100:1:2"}, "gres: .*gpu:TYPE:NUMBER"),
        ({"gpu_model": "a100", "gpu_type": "h100"}, "gpu_model: means gpu_type=a100, but gpu_type is h100"),
        ({"cpus_per_gpu": 4}, "cpus_per_gpu: the job asks for no GPU"),
        ({"gpu": 2, "cpus_per_gpu": 1, "tasks_per_node": 3}, "cpus_per_gpu x GPUs of a node: found 2"),
        ({"gpu": -1}, "gpu: expected a whole number from 0, found '-1'"),
        ({"gpu": "a100"}, "gpu: expected a whole number from 0, found 'a100'"),
    ],
)
def test_names_of_the_standard_executor_that_cannot_be_translated_are_refused(resources, message):
    with pytest.raises(ValueError, match=message):
        to_parameters(resources, 1)


def test_an_unknown_resource_is_refused_with_the_list_of_valid_ones():
    with pytest.raises(
        ValueError, match="resources gpus_per_nodes are unknown(.|\n)*gpus_per_node .*GPUs on each node"
    ):
        to_parameters({"gpus_per_nodes": 4}, 1)


def test_a_resource_that_the_run_limits_is_not_for_slurm():
    check_names(["downloads", "runtime"], also=["downloads"])
    with pytest.raises(ValueError, match="downloads"):
        check_names(["downloads", "runtime"])


@pytest.mark.parametrize(
    "resources, message",
    [
        ({"runtime": 0}, "runtime: expected minutes above 0, found 0"),
        ({"runtime": "<TBD>"}, "runtime: .*TBD"),
        ({"nodes": 0}, "nodes: expected a whole number from 1, found 0"),
        ({"runtime": float("inf")}, "runtime: .*inf"),
        ({"mem_mb": "2GB"}, "mem_mb: .*2GB"),
        ({"mem_mb": -1}, "mem_mb: .*-1"),
        ({"mem_mb_per_cpu": 0}, "mem_mb_per_cpu: .*found 0"),
        ({"partition": "gpu\nrm -r results"}, "partition: found .*; give one line of text"),
        ({"account": ["a", "b"]}, "account: found .*; give one line of text"),
        ({"extra": "--nice='1\nrm -r results'"}, "extra: .*one line of text"),
        ({"extra": "--nice='1"}, "extra: .*No closing quotation"),
        ({"extra": 5}, "extra: found 5; give sbatch options as one text"),
        ({"gpus_per_node": "a100"}, "gpus_per_node: .*'a100'"),
        ({"extra": "-p gpu"}, "extra: found '-p'"),
        ({"extra": "--signal=USR1@5"}, "extra: --signal is set by the executor"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(resources, message):
    with pytest.raises(ValueError, match=message):
        to_parameters(resources, 1)


def test_extra_options_may_be_quoted():
    assert extra_options("--comment2='a b' --nice") == {"comment2": "a b", "nice": True}
    assert extra_options("--comment2='a --b c'") == {"comment2": "a --b c"}


@pytest.mark.parametrize(
    "text",
    [
        "--qos=long --mail-type=FAIL",
        "'--qos=long --mail-type=FAIL'",
        '"--qos=long --mail-type=FAIL"',
        "'--qos=long' '--mail-type=FAIL'",
        "--qos=long '--mail-type=FAIL'",
        "--qos=long\n--mail-type=FAIL\n",
    ],
)
def test_several_options_in_one_quoted_text_stay_several(text):
    assert extra_options(text) == {"qos": "long", "mail-type": "FAIL"}


def test_site_values_are_checked_and_empty_ones_left_out():
    assert check_site({"partition": "gpu", "account": None, "qos": ""}, "site.yaml") == {"partition": "gpu"}
    with pytest.raises(ValueError, match="site.yaml: queue unknown; choose from partition"):
        check_site({"queue": "gpu"}, "site.yaml")
    with pytest.raises(ValueError, match="setup: found a text"):
        check_site({"setup": "module load cuda"}, "site.yaml")
    with pytest.raises(ValueError, match="setup: found 3 among the shell lines"):
        check_site({"setup": [3]}, "site.yaml")
    with pytest.raises(ValueError, match="site.yaml: partition: found .'a', 'b'.; give one line of text"):
        check_site({"partition": ["a", "b"]}, "site.yaml")
