"""What a user may set: `--submitit-NAME VALUE`, or `submitit-name: value` in a profile."""

# No postponed annotations here: Snakemake reads the fields' types.
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import yaml
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase

from snakemake_executor_plugin_submitit.parameters import check_site

FOLDER = Path(".snakemake/submitit")

common_settings = CommonSettings(
    non_local_exec=True,  # rules named in `localrules` run in the driver, everything else on the cluster
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    # sbatch hands the environment over; as part of the command, secrets would end up in files.
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,  # or every job would begin with `pip install`
    init_seconds_before_status_checks=1,
)


def _setting(default, text, **metadata):
    return field(default=default, metadata={"help": text, "env_var": False, "required": False, **metadata})


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """Settings of a whole run. What differs between rules is a resource of the rule: see parameters.py."""

    cluster: str = _setting(
        "slurm",
        "slurm, or without one: local (processes on this machine, all at once), debug (one after the other).",
        choices=["slurm", "local", "debug"],
    )
    site: Optional[Path] = _setting(  # noqa: UP045  Snakemake reads no other form
        None,
        "YAML file with this cluster's names: partition, account, gpu_type and so on.",
        parse_func=lambda path: Path(path).absolute(),  # before Snakemake changes to --directory
        unparse_func=str,
    )
    folder: Optional[Path] = _setting(  # noqa: UP045
        None,  # and not FOLDER: the plugin catalog writes defaults as JSON
        f"Folder on the shared file system for the registry of jobs, logs, pickles and records; default: {FOLDER}.",
    )
    detach: bool = _setting(False, "On Ctrl-C leave the jobs running; the next snakemake adopts them.")
    max_preemptions: int = _setting(
        100, "How often a job may be interrupted and restarted; 0: never. Per rule: resource max_preemptions."
    )
    max_timeouts: int = _setting(
        0,
        "How often a job may reach its time limit and be restarted. Per rule: resource max_timeouts. "
        "Only for rules that resume from checkpoints.",
    )
    notice_seconds: int = _setting(120, "Seconds before the time limit at which a job gets SIGTERM to save its state.")
    checkpoint_seconds: int = _setting(300, "Seconds that a command may take to save its state.")
    array_limit: int = _setting(1000, "Largest number of jobs in one array; 1 turns arrays off.")
    array_parallelism: int = _setting(256, "Largest number of jobs of one array that run at the same time.")
    poll_min_seconds: int = _setting(2, "Shortest pause between two status queries, while jobs start and end.")
    poll_max_seconds: int = _setting(60, "Longest pause between two status queries, while nothing changes.")
    retention_days: int = _setting(30, "Days after which logs, pickles and records of runs are removed; 0 keeps them.")


def read_site(path: Path | None) -> dict:
    """The site's values; none without a file. Raises WorkflowError for one that cannot be read."""
    if path is None:
        return {}
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8-sig"), _SiteLoader) or {}  # noqa: S506  a safe loader
        if not isinstance(content, dict):
            raise ValueError(f"{path}: expected lines such as `partition: gpu`, found a {type(content).__name__}")
        return check_site(content, str(path))
    except yaml.YAMLError as error:
        raise WorkflowError(f"--submitit-site: {path}: {error}") from None
    except (OSError, ValueError) as error:
        raise WorkflowError(f"--submitit-site: {error}") from None


class _SiteLoader(yaml.SafeLoader):
    """A mapping that has a key twice is refused; PyYAML itself keeps the last one."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(f"key {name!r} occurs twice, in lines {lines[name]} and {line}; keep one")
            lines[name] = line
        return node
