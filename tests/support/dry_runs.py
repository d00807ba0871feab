"""Snakemake with the arguments of a test, and the tables of jobs that its dry runs print."""

import re
import sys
from pathlib import Path

from fork_server import snakemake_process

BIN = Path(sys.executable).parent


def snakemake(folder, *arguments, **environment):
    """`snakemake` in a folder with these variables set; returns what `subprocess.run` would."""
    return snakemake_process(folder, list(map(str, arguments)), environment)


def dry_run(root, configs, *arguments, **environment):
    result = snakemake(root, "-n", "--quiet", "rules", "--configfile", *configs, *arguments, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def jobs(output):
    """Rule -> number of jobs, from Snakemake's table."""
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, re.M)}


def jobs_with_reasons(output):
    """Rule -> number of jobs, from the table that closes a dry run."""
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)  \S", output, re.M)}
