"""Starts one torchrun on every node of a Slurm job:

    python -m snakemake_executor_plugin_submitit.node.launch --nproc-per-node 4 MODULE ARGUMENTS

On the first node this becomes `srun`, and in each of its tasks `torchrun`, with ranks and meeting point from Slurm's
variables. In a job of one node it becomes a standalone torchrun.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping

IN_TASK = "SNAKEMAKE_SUBMITIT_LAUNCH"  # the job's id, where srun has started this
# Ports below those that systems give to outgoing connections.
FIRST_PORT, PORTS = 20000, 10000


def number_of_nodes(environment: Mapping[str, str]) -> int:
    return int(environment.get("SLURM_JOB_NUM_NODES") or environment.get("SLURM_NNODES") or 1)


def command(environment: Mapping[str, str], nproc_per_node: int, program: list[str]) -> list[str]:
    """What to become, here. program: a module and its arguments. Raises ValueError for variables that are missing."""
    if number_of_nodes(environment) == 1:
        return [*_torchrun(nproc_per_node), "--standalone", *_module(program)]
    if environment.get(IN_TASK) != environment["SLURM_JOB_ID"]:
        return srun(environment, nproc_per_node, program)
    return [
        *_torchrun(nproc_per_node),
        f"--nnodes={number_of_nodes(environment)}",
        # Given, not negotiated: rank 0 stays on the first node, in every attempt.
        f"--node-rank={environment['SLURM_NODEID']}",
        f"--master-addr={first_node(environment)}",
        f"--master-port={port(environment)}",
        *_module(program),
    ]


def srun(environment: Mapping[str, str], nproc_per_node: int, program: list[str]) -> list[str]:
    """One task on each node, with the CPUs of the job: from Slurm 22.05 on, srun no longer takes them over itself."""
    nodes = number_of_nodes(environment)
    words = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    if environment.get("SLURM_CPUS_PER_TASK"):
        words.append(f"--cpus-per-task={environment['SLURM_CPUS_PER_TASK']}")
    again = [sys.executable, "-m", "snakemake_executor_plugin_submitit.node.launch"]
    return [*words, *again, "--nproc-per-node", str(nproc_per_node), *program]


def _torchrun(nproc_per_node: int) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={nproc_per_node}"]


def _module(program: list[str]) -> list[str]:
    """A module and its arguments for torchrun. Without `--` it takes an argument that resembles its own, such as --run
    for its --run-path, and refuses it."""
    return ["-m", "--", *program]


def first_node(environment: Mapping[str, str]) -> str:
    """Where rank 0 listens: the node that called srun, by its address, which works where names do not resolve."""
    if environment.get("SLURM_LAUNCH_NODE_IPADDR"):
        return environment["SLURM_LAUNCH_NODE_IPADDR"]
    nodes = environment.get("SLURM_JOB_NODELIST")
    if not nodes:
        raise ValueError("SLURM_LAUNCH_NODE_IPADDR, SLURM_JOB_NODELIST: neither is set; start this inside a Slurm job")
    if not re.search(r"[\[,]", nodes):
        return nodes
    words = ["scontrol", "show", "hostnames", nodes]
    return subprocess.run(words, capture_output=True, encoding="utf-8", check=True, timeout=30).stdout.split()[0]


def port(environment: Mapping[str, str]) -> int:
    """The same on all nodes, different for jobs that share a node, and for the next attempt."""
    restarts = int(environment.get("SLURM_RESTART_COUNT") or 0)
    return FIRST_PORT + (int(environment["SLURM_JOB_ID"]) * 7 + restarts) % PORTS


def main() -> None:
    parser = argparse.ArgumentParser(prog="launch", description=__doc__.splitlines()[0])
    parser.add_argument("--nproc-per-node", type=int, required=True, help="processes on each node, one for each GPU")
    parser.add_argument("program", nargs=argparse.REMAINDER, help="module and its arguments")
    arguments = parser.parse_args()
    if not arguments.program:
        parser.error("give a module to run, and its arguments")
    words = command(os.environ, arguments.nproc_per_node, arguments.program)
    if words[0] == "srun":
        os.environ[IN_TASK] = os.environ["SLURM_JOB_ID"]
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
