"""The overhead of running on a cluster: seconds before a rule's first line, and the driver's CPU time.

    python benchmarks/slurm_overhead.py [--jobs 1000] [--output benchmarks/slurm-overhead.json]

Starts a Slurm of its own in a temporary folder (the Debian packages that .ci/run names), so that no other user's jobs
are measured. Latency: jobs submitted one after the other to idle nodes. CPU time: jobs that are held in the queue.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "packages" / "snakemake-executor-plugin-submitit" / "tests" / "support"))
from cluster import Cluster, wait_for  # noqa: E402
from driver import Study  # noqa: E402

# Each step waits for the one before, so each is submitted to an idle cluster.
CHAIN = """
rule all:
    input: "step-{last}.txt"
rule step:
    output: "step-{{i}}.txt"
    input: lambda w: [f"step-{{int(w.i) - 1}}.txt"] if int(w.i) else []
    shell: "date +%s.%N > {{output}}"
"""
HELD = """
rule all:
    input: expand("{{i}}.txt", i=range({jobs}))
rule held:
    output: "{{i}}.txt"
    resources: extra="--hold"
    shell: "touch {{output}}"
"""


def latency(cluster: Cluster, folder: Path, steps: int) -> dict[str, float]:
    """Seconds from submission to the rule's first line: median and longest of the steps."""
    study = Study(cluster, folder, CHAIN.format(last=steps - 1))
    driver = study.run(seconds=60 * steps)
    if driver.process.returncode:
        raise RuntimeError(driver.output)
    first_lines = [float((folder / f"step-{i}.txt").read_text(encoding="utf-8")) for i in range(steps)]
    seconds = [line - study.finished()[f"step {i}"]["submitted"] for i, line in enumerate(first_lines)]
    return {
        "steps": steps,
        "submission_to_first_line_s": round(statistics.median(seconds), 2),
        "submission_to_first_line_max_s": round(max(seconds), 2),
    }


def cpu_seconds(process: int) -> float:
    """CPU time of a process and of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def queued(cluster: Cluster, folder: Path, jobs: int, watched_seconds: float) -> dict[str, float]:
    """The driver's CPU time to submit many jobs, and while they wait in the queue."""
    study = Study(cluster, folder, HELD.format(jobs=jobs))
    shim = study.shim()
    driver = study.start("--jobs", str(jobs), "--submitit-detach")
    wait_for(lambda: len(cluster.queue()) >= jobs and (shim / "asked").exists(), "all jobs are queued", 600, 1)
    time.sleep(5)
    submitted = cpu_seconds(driver.process.pid)
    polls = len((shim / "asked").read_text(encoding="utf-8").split())
    time.sleep(watched_seconds)
    waited = cpu_seconds(driver.process.pid) - submitted
    polls = len((shim / "asked").read_text(encoding="utf-8").split()) - polls
    driver.interrupt()
    driver.wait()
    cluster.clear()
    return {
        "jobs": jobs,
        "cpu_until_queued_s": round(submitted, 2),
        "watched_s": watched_seconds,
        "queries": polls,
        "cpu_per_minute_queued_s": round(60 * waited / watched_seconds, 2),
        "cpu_per_query_s": round(waited / max(polls, 1), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000, help="queued jobs")
    parser.add_argument("--steps", type=int, default=8, help="jobs whose latency is measured")
    parser.add_argument("--watch", type=float, default=60, help="seconds to watch the driver while all jobs wait")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "slurm-overhead.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Cluster() as cluster:
        result = {
            "machine": {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]},
            "latency": latency(cluster, Path(folder) / "chain", arguments.steps),
            "queued": queued(cluster, Path(folder) / "held", arguments.jobs, arguments.watch),
        }
    text = json.dumps(result, indent=2) + "\n"
    temporary = arguments.output.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, arguments.output)
    print(text, end="")


if __name__ == "__main__":
    main()
