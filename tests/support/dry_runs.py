"""Snakemake as a process, and the tables of jobs that its dry runs print."""

import os
import re
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def snakemake(root, *arguments, **environment):
    return subprocess.run(
        [BIN / "snakemake", *map(str, arguments)],
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


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
