"""A rule's resources as submitit parameters. Pure: nothing here asks Slurm or reads files.

Names are those of Snakemake and submitit; `slurm_` in front is accepted, as the standard Slurm executor writes them.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Mapping
from typing import Any

# Resource -> what it says.
RESOURCES = {
    "runtime": "time limit in minutes; 60 where it is not given",
    "mem_mb": "memory of each node in MB",
    "mem_mb_per_cpu": "memory of each CPU in MB, instead of mem_mb",
    "nodes": "number of nodes",
    "tasks_per_node": "Slurm tasks on each node; 1 where it is not given",
    "gpus_per_node": "GPUs on each node",
    "gpu_type": "their type, as the cluster calls it",
    "partition": "partition, or several with commas",
    "account": "account that pays",
    "qos": "quality of service",
    "constraint": "features that the nodes must have",
    "reservation": "reservation to use",
    "exclude": "nodes not to use",
    "extra": "further sbatch options, as one text",
    "max_preemptions": "how often the job may lose its place and start again",
    "max_timeouts": "how often the job may reach its time limit and start again",
}
# Resources that Snakemake adds to every job.
SNAKEMAKES_OWN = {"_cores", "_nodes", "mem", "mem_mib", "disk", "disk_mb", "disk_mib", "tmpdir"}
# What a site may set for all jobs; a rule's own resource wins.
SITE = (
    "partition",
    "cpu_partition",
    "account",
    "qos",
    "constraint",
    "reservation",
    "gpu_type",
    "exclude",
    "extra",
    "setup",
)
# sbatch options that belong to this plugin.
RESERVED = {
    "array", "comment", "error", "job-name", "no-requeue", "open-mode", "output", "requeue", "signal", "wait", "wrap",
}  # fmt: skip
DEFAULT_RUNTIME_MINUTES = 60


def check_site(site: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The site's values without empty ones. Raises ValueError for names that mean nothing."""
    unknown = sorted(set(site) - set(SITE))
    if unknown:
        raise ValueError(f"{source}: {', '.join(unknown)} unknown; choose from {', '.join(SITE)}")
    if isinstance(site.get("setup"), str):
        raise ValueError(f"{source}: setup: found a text; give a list of shell lines")
    return {name: value for name, value in site.items() if value not in (None, "", [])}


def check_names(names: Collection[str], also: Collection[str] = (), source: str = "") -> None:
    """Raise ValueError if a resource means nothing here. also: names that the run limits with --resources."""
    unknown = sorted({plain(n) for n in names} - set(RESOURCES) - SNAKEMAKES_OWN - {plain(n) for n in also})
    if unknown:
        valid = "\n".join(f"  {name:16} {meaning}" for name, meaning in RESOURCES.items())
        raise ValueError(f"{source}resources {', '.join(unknown)} are unknown; choose from\n{valid}")


def plain(name: str) -> str:
    return name.removeprefix("slurm_")


def to_parameters(
    resources: Mapping[str, Any],
    threads: int,
    *,
    site: Mapping[str, Any] | None = None,
    notice_seconds: int = 120,
    max_preemptions: int = 100,
    array_parallelism: int = 256,
    also: Collection[str] = (),
) -> dict[str, Any]:
    """Keyword arguments for submitit's AutoExecutor.update_parameters, without the job's name and comment.

    threads: CPUs of each task. site: see SITE. also: names that are not for us. Raises ValueError for unknown names and
    for values that do not fit, naming the resource.
    """
    check_names(resources, also)
    asked = {plain(k): v for k, v in resources.items() if plain(k) in RESOURCES and v is not None and v != ""}
    count, gpu_type = gpus_of(asked)
    asked = {**defaults(site or {}, count), **asked}
    gpu_type = gpu_type or asked.get("gpu_type")
    minutes = runtime_of(asked)
    notice = min(notice_seconds, 15 * minutes)  # a quarter of a short limit
    options: dict[str, Any] = {"signal": f"B:USR2@{notice}", **extra_options(asked.get("extra"))}
    options["requeue" if number(asked, "max_preemptions", max_preemptions) else "no-requeue"] = True
    options |= {name: asked[name] for name in ("reservation",) if name in asked}
    result = {
        "timeout_min": minutes,
        "nodes": number(asked, "nodes", 1, least=1),
        "tasks_per_node": number(asked, "tasks_per_node", 1, least=1),
        "cpus_per_task": max(int(threads), 1),
        "stderr_to_stdout": True,
        "slurm_use_srun": False,  # only so does the early signal reach this plugin's process alone
        "slurm_wckey": "",  # submitit's own would be refused where wckeys are checked
        "slurm_array_parallelism": array_parallelism,
        # Until Python listens, the early signal must not end the job.
        "slurm_setup": ["trap '' USR2", *(site or {}).get("setup", [])],
        **{f"slurm_{n}": asked[n] for n in ("partition", "account", "qos", "constraint", "exclude") if n in asked},
        **memory_of(asked),
    }
    if count and gpu_type:  # submitit itself takes numbers only
        options["gpus-per-node"] = f"{gpu_type}:{count}"
    elif count:
        result["gpus_per_node"] = count
    return result | {"slurm_additional_parameters": options}


def defaults(site: Mapping[str, Any], gpus: int) -> dict[str, Any]:
    """The site's values as resources of one job."""
    found = {name: value for name, value in site.items() if name in RESOURCES}
    if not gpus and "cpu_partition" in site:
        found["partition"] = site["cpu_partition"]
    return found


def number(asked: Mapping[str, Any], name: str, default: int, least: int = 0) -> int:
    value = asked.get(name, default)
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < least:
        raise ValueError(f"{name}: expected a whole number from {least}, found {value!r}")
    return int(value)


def runtime_of(asked: Mapping[str, Any]) -> int:
    value = asked.get("runtime", DEFAULT_RUNTIME_MINUTES)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"runtime: expected minutes above 0, found {value!r}")
    return math.ceil(value)


def gpus_of(asked: Mapping[str, Any]) -> tuple[int, str | None]:
    """GPUs on each node and their type; `gpus_per_node` may say both: a100:4."""
    value = str(asked.get("gpus_per_node", 0))
    gpu_type, _, count = value.rpartition(":")
    if not count.isdecimal():
        raise ValueError(f"gpus_per_node: expected a number, or type:number, found {value!r}")
    return int(count), gpu_type or asked.get("gpu_type")


def memory_of(asked: Mapping[str, Any]) -> dict[str, str]:
    if "mem_mb_per_cpu" in asked:
        return {"slurm_mem_per_cpu": f"{number(asked, 'mem_mb_per_cpu', 0, least=1)}M"}
    return {"slurm_mem": f"{number(asked, 'mem_mb', 0, least=1)}M"} if "mem_mb" in asked else {}


def extra_options(text: str | None) -> dict[str, Any]:
    """`--key=value --flag` as {key: value, flag: True}. Raises ValueError for what belongs to the plugin."""
    options: dict[str, Any] = {}
    for word in shlex.split(text or ""):
        name, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise ValueError(f"extra: found {word!r}; write sbatch options as --name=value or --name")
        if name in RESERVED:
            raise ValueError(f"extra: --{name} is set by the executor; leave it out")
        options[name] = value if has_value else True
    return options
