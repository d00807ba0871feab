"""A rule's resources as submitit parameters. Pure: nothing here asks Slurm or reads files.

Accepts the names of Snakemake, of submitit, and of the standard Slurm executor, with or without the prefix `slurm_`.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

# Resource -> what it says.
RESOURCES = {
    "runtime": "time limit in minutes; default: 60",
    "mem_mb": "memory of each node in MB; 0: all that the node has",
    "mem_mb_per_cpu": "memory of each CPU in MB, instead of mem_mb",
    "nodes": "number of nodes",
    "tasks_per_node": "Slurm tasks on each node; default: 1",
    "tasks": "Slurm tasks of all nodes together, instead of tasks_per_node",
    "tasks_per_gpu": "Slurm tasks for each GPU, instead of tasks_per_node",
    "cpus_per_task": "CPUs of each task, instead of threads",
    "cpus_per_gpu": "CPUs for each GPU, instead of cpus_per_task",
    "gpus_per_node": "GPUs on each node",
    "gpu": "GPUs of all nodes together, instead of gpus_per_node",
    "gpu_type": "their type, as the cluster calls it",
    "gpu_model": "another name for gpu_type",
    "gres": "generic resources of each node, as sbatch takes them: gpu:a100:4,shard:2",
    "mpi": "launcher that the rule's command uses as {resources.mpi}; requests nothing from Slurm",
    "partition": "partition, or several with commas",
    "account": "account that pays",
    "qos": "quality of service",
    "constraint": "features that the nodes must have",
    "reservation": "reservation to use",
    "exclude": "nodes not to use",
    "extra": "further sbatch options, as one text",
    "max_preemptions": "how often the job may be preempted and restarted",
    "max_timeouts": "how often the job may reach its time limit and be restarted",
}
# Names of the standard Slurm executor that mean nothing here, and what to do instead.
INSTEAD = {
    "cluster": "one run works with one cluster; set SLURM_CLUSTERS before you start snakemake",
    "clusters": "one run works with one cluster; set SLURM_CLUSTERS before you start snakemake",
    "requeue": "jobs requeue themselves; `max_preemptions` says how often",
}
# Below 1 these mean the same as not given, as in the standard executor.
OPTIONAL_NUMBERS = ("tasks_per_gpu", "cpus_per_gpu", "cpus_per_task")
# sbatch options for GPUs -> the same as a resource.
GPU_OPTIONS = {"gres": "gres", "gpus": "gpu", "gpus-per-node": "gpus_per_node"}
# Resources that are single lines of text for sbatch.
TEXTS = ("partition", "account", "qos", "constraint", "exclude", "reservation", "gpu_type", "gpu_model", "gres")
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
    "max_runtime",
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
    setup = site.get("setup") or []
    if not isinstance(setup, list):
        raise ValueError(f"{source}: setup: found {found_type(setup)}; give a list of shell lines")
    for line in setup:
        if not isinstance(line, str):
            raise ValueError(f"{source}: setup: found {line!r} among the shell lines; put it into quotes")
    try:
        check_texts(site)
        longest_of(site)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return {name: value for name, value in site.items() if value not in (None, "", [])}


def check_names(names: Collection[str], also: Collection[str] = (), source: str = "") -> None:
    """Raise ValueError if a resource means nothing here. also: names that the run limits with --resources."""
    unknown = sorted({plain(n) for n in names} - set(RESOURCES) - SNAKEMAKES_OWN - {plain(n) for n in also})
    for name in unknown:
        if name in INSTEAD:
            raise ValueError(f"{source}resource {name} is not supported: {INSTEAD[name]}")
    if unknown:
        valid = "\n".join(f"  {name:16} {meaning}" for name, meaning in RESOURCES.items())
        raise ValueError(f"{source}resources {', '.join(unknown)} are unknown; choose from\n{valid}")


def plain(name: str) -> str:
    return name.removeprefix("slurm_")


def check_texts(asked: Mapping[str, Any]) -> None:
    """Raise ValueError if text for an sbatch option is not a single line."""
    for name in (*TEXTS, "cpu_partition"):
        value = asked.get(name) or ""
        if isinstance(value, bool) or not isinstance(value, str | int) or has_control_characters(value):
            raise ValueError(f"{name}: found {value!r}; give one line of text")
    if not isinstance(asked.get("extra") or "", str):
        raise ValueError(f"extra: found {asked['extra']!r}; give sbatch options as one text")


def has_control_characters(value: object) -> bool:
    return bool(re.search(r"[\x00-\x1f\x7f]", str(value)))


def found_type(value: object) -> str:
    if isinstance(value, str):
        return "a text"
    return "a mapping" if isinstance(value, dict) else repr(value)


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
    check_texts(asked)
    extra = extra_options(asked.get("extra", (site or {}).get("extra")))
    for option, name in GPU_OPTIONS.items() if "extra" in asked else ():  # GPUs are counted, wherever a rule names them
        if option in extra:
            _give(asked, name, extra.pop(option), f"extra: --{option}")
    asked = translated(asked)
    count, gpu_type = gpus_of(asked)
    asked = {**defaults(site or {}, count), **asked}
    gpu_type = gpu_type or asked.get("gpu_type")
    minutes = min(runtime_of(asked), longest_of(site or {}))
    notice = min(notice_seconds, 15 * minutes)  # a quarter of a short limit
    options: dict[str, Any] = {"signal": f"B:USR2@{notice}", **extra}
    options["requeue" if number(asked, "max_preemptions", max_preemptions) else "no-requeue"] = True
    options |= {name: asked[name] for name in ("reservation", "gres") if name in asked}
    result = {
        "timeout_min": minutes,
        "nodes": number(asked, "nodes", 1, least=1),
        "tasks_per_node": number(asked, "tasks_per_node", 1, least=1),
        "cpus_per_task": number(asked, "cpus_per_task", max(int(threads), 1), least=1),
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


def translated(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the standard executor's names into ours. Raises ValueError if two names contradict each other."""
    result = {name: value for name, value in asked.items() if name not in OPTIONAL_NUMBERS or value not in (0, -1)}
    nodes = number(asked, "nodes", 1, least=1)
    if "gpu_model" in result:
        _give(result, "gpu_type", result.pop("gpu_model"), "gpu_model")
    if "gres" in result:
        gpus, gpu_type, others = split_gres(result.pop("gres"))
        for name, value in (("gpus_per_node", gpus), ("gpu_type", gpu_type)):
            if value:
                _give(result, name, value, "gres")
        if others:
            result["gres"] = others
    if "gpu" in result:
        gpu_type, _, count = str(result.pop("gpu")).rpartition(":")
        if gpu_type:
            _give(result, "gpu_type", gpu_type, "gpu")
        _give(result, "gpus_per_node", _share(number({"gpu": count}, "gpu", 0), nodes, "gpu", "nodes"), "gpu")
    if "tasks" in result:
        _give(result, "tasks_per_node", _share(number(result, "tasks", 1, least=1), nodes, "tasks", "nodes"), "tasks")
        del result["tasks"]
    gpus, _ = gpus_of(result)
    for name in ("tasks_per_gpu", "cpus_per_gpu"):
        if name in result and not gpus:
            raise ValueError(f"{name}: the job asks for no GPU; leave it out, or give gpus_per_node")
    if "tasks_per_gpu" in result:
        tasks = number(result, "tasks_per_gpu", 1) * gpus
        _give(result, "tasks_per_node", tasks, "tasks_per_gpu")
        del result["tasks_per_gpu"]
    if "cpus_per_gpu" in result:
        tasks = number(result, "tasks_per_node", 1, least=1)
        cpus = _share(number(result, "cpus_per_gpu", 1) * gpus, tasks, "cpus_per_gpu x GPUs of a node", "its tasks")
        _give(result, "cpus_per_task", cpus, "cpus_per_gpu")
        del result["cpus_per_gpu"]
    return result


def _give(asked: dict[str, Any], name: str, value: Any, source: str) -> None:
    found = str(asked.setdefault(name, value))
    if str(value) not in (found, found.rpartition(":")[2]):  # gpus_per_node may be a100:4
        raise ValueError(f"{source}: means {name}={value}, but {name} is {found}; give one of the two")


def _share(total: int, parts: int, name: str, by: str) -> int:
    if total % parts:
        raise ValueError(f"{name}: found {total}, not divisible by {by} ({parts}); give a multiple")
    return total // parts


def split_gres(text: str) -> tuple[int, str, str]:
    """Generic resources of a node: number of GPUs, their type, and all others as sbatch takes them."""
    parts = [part.strip().split(":") for part in str(text).split(",") if part.strip()]
    gpus = [words[1:] for words in parts if words[0] == "gpu"]  # [], [2], [a100] or [a100, 2]
    others = ",".join(":".join(words) for words in parts if words[0] != "gpu")
    if not gpus:
        return 0, "", others
    gpu_type, count = "", "1"
    for word in gpus[0]:
        gpu_type, count = (gpu_type, word) if word.isdecimal() else (word, count)
    if len(gpus) > 1 or len(gpus[0]) > 2:
        raise ValueError(f"gres: found {text!r}; a job takes GPUs of one type, as gpu:TYPE:NUMBER")
    return int(count), gpu_type, others


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
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"runtime: expected minutes above 0, found {value!r}")
    return math.ceil(value)


def longest_of(site: Mapping[str, Any]) -> float:
    """The site's `max_runtime`: minutes that a job may ask for, infinite where it is not given. Raises ValueError."""
    return number(site, "max_runtime", 0, least=1) if site.get("max_runtime") is not None else math.inf


def timeouts_within(asked: Mapping[str, Any], site: Mapping[str, Any], default: int) -> int:
    """How often a job may reach its time limit. If the site shortens the limit, the job gets more restarts, so that
    its total time stays the same. A job with max_timeouts=0 cannot resume and gets none.

    asked: resources under their plain names.
    """
    times, minutes = number(asked, "max_timeouts", default), runtime_of(asked)
    if times == 0 or minutes <= longest_of(site):
        return times
    return math.ceil((times + 1) * minutes / longest_of(site)) - 1


def gpus_of(asked: Mapping[str, Any]) -> tuple[int, str | None]:
    """GPUs on each node and their type; `gpus_per_node` may say both: a100:4."""
    value = str(asked.get("gpus_per_node", 0))
    gpu_type, _, count = value.rpartition(":")
    if not count.isdecimal():
        raise ValueError(f"gpus_per_node: expected a number, or type:number, found {value!r}")
    return int(count), gpu_type or asked.get("gpu_type")


def gpus_per_node(parameters: dict[str, Any]) -> int:
    typed = parameters["slurm_additional_parameters"].get("gpus-per-node", "")
    return int(typed.rpartition(":")[2]) if typed else parameters.get("gpus_per_node", 0)


def memory_of(asked: Mapping[str, Any]) -> dict[str, str]:
    if "mem_mb_per_cpu" in asked:
        return {"slurm_mem_per_cpu": f"{number(asked, 'mem_mb_per_cpu', 0, least=1)}M"}
    if "mem_mb" not in asked:
        return {}
    megabytes = number(asked, "mem_mb", 0)
    return {"slurm_mem": f"{megabytes}M" if megabytes else "0"}  # to Slurm, 0 is all of the node


def extra_options(text: str | None) -> dict[str, Any]:
    """`--key=value --flag` as {key: value, flag: True}. Raises ValueError for what belongs to the plugin.

    Several options may be quoted together: Snakemake's command line accepts a value with spaces only in quotes.
    """
    options: dict[str, Any] = {}
    for word in words_of(text or ""):
        name, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise ValueError(f"extra: found {word!r}; write sbatch options as --name=value or --name")
        if name in RESERVED:
            raise ValueError(f"extra: --{name} is set by the executor; leave it out")
        if has_control_characters(word):
            raise ValueError(f"extra: found {word!r}; an option's value is one line of text")
        options[name] = value if has_value else True
    return options


def words_of(text: str) -> list[str]:
    """Words as a shell splits them; what is in quotes from its first character on is split again."""
    try:
        words = shlex.split(text)
        quoted = [shlex.split(part)[0] for part in re.findall(r"(?<!\S)(?:'[^']*'|\"[^\"]*\")(?!\S)", text)]
    except ValueError as error:
        raise ValueError(f"extra: found {text!r}: {error}") from None
    return [part for word in words for part in (words_of(word) if word in quoted and word != text else [word])]
