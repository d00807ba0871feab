"""Resources as submitit parameters, and the sbatch files that come of them."""

import pytest
from snakemake_executor_plugin_submitit.parameters import check_names, check_site, extra_options, to_parameters

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
        ({"mem_mb": "2GB"}, "mem_mb: .*2GB"),
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


def test_site_values_are_checked_and_empty_ones_left_out():
    assert check_site({"partition": "gpu", "account": None, "qos": ""}, "site.yaml") == {"partition": "gpu"}
    with pytest.raises(ValueError, match="site.yaml: queue unknown; choose from partition"):
        check_site({"queue": "gpu"}, "site.yaml")
    with pytest.raises(ValueError, match="setup: found a text"):
        check_site({"setup": "module load cuda"}, "site.yaml")
