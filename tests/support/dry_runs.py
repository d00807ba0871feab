"""Snakemake with the arguments of a test, and the tables of jobs that its dry runs print."""

import os
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

from snakemake import cli

BIN = Path(sys.executable).parent


def snakemake(folder, *arguments, **environment):
    """`snakemake` in a folder with these variables set; returns what `subprocess.run` would.

    The process is forked from this one, so Snakemake's imports, 0.8 CPU-seconds, are paid once for all tests.
    """
    words = ["snakemake", *map(str, arguments)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            _become_snakemake(folder, words, environment, out, err)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = [stream.seek(0) or stream.read().decode() for stream in (out, err)]
    return subprocess.CompletedProcess(words, code, *texts)


def _become_snakemake(folder, words, environment, out, err):
    code = 1
    try:
        for number, stream in enumerate((out, err), start=1):
            os.dup2(stream.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115 - open until _exit
        os.chdir(folder)
        os.environ.update(environment)
        sys.path[:0] = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
        sys.argv = words
        cli.main(words[1:])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # this process's tests, fixtures and threads end in their own


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
