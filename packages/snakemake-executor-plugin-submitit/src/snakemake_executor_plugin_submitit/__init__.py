"""Snakemake executor for Slurm through submitit: `snakemake --executor submitit`. See README.md beside this file.

Importing it starts no process and imports no submitit: Snakemake imports every installed plugin at every start.
"""

from snakemake_executor_plugin_submitit.executor import Executor
from snakemake_executor_plugin_submitit.settings import ExecutorSettings, common_settings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
