"""Processes forked from one that has imported what they need: imports take seconds, and are paid once for all tests.

Not forked from the tests' own process: there, a test on fake CUDA may have begun threads of autograd's.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    [
        "torch._dynamo",  # DDP imports it, and so does counting on the meta device
        "mixar.training.job",
        "mixar.stages.check",
        "mixar.stages.plan",
        "snakemake.cli",
    ]
)

MIXAR = [sys.executable, "-m", "mixar"]


def snakemake_process(folder: Path, words: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess:
    """`snakemake` with these words in a folder; returns what `subprocess.run` would.

    Verbs of `mixar` that it runs and waits for are forked from it.
    """
    with tempfile.TemporaryDirectory() as streams:
        arguments = (Path(folder), words, {**os.environ, **environment}, Path(streams))
        process = FORK_SERVER.Process(target=_be_snakemake, args=arguments)
        process.start()
        process.join()
        texts = [(Path(streams) / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")]
    return subprocess.CompletedProcess(["snakemake", *words], process.exitcode, *texts)


def _be_snakemake(folder: Path, words: list[str], environment: dict[str, str], streams: Path) -> None:
    from snakemake import cli

    run = subprocess.run

    def fork_mixar(command, *arguments, **options):
        if list(command[:3]) != MIXAR:
            return run(command, *arguments, **options)
        return _forked_mixar(list(map(str, command[3:])), options.get("env"))

    with patch("subprocess.run", fork_mixar):
        _become(["snakemake", *words], lambda: cli.main(words), folder, environment, streams)


def _forked_mixar(words: list[str], environment: Mapping[str, str] | None) -> subprocess.CompletedProcess:
    from mixar.__main__ import main

    with tempfile.TemporaryDirectory() as folder:
        streams = Path(folder)
        pid = os.fork()
        if pid == 0:
            sys.path.insert(0, os.getcwd())  # as `python -m` has it
            _become(["mixar", *words], lambda: main(words), Path.cwd(), dict(environment or os.environ), streams)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = [(streams / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err")]
    return subprocess.CompletedProcess([*MIXAR, *words], code, *texts)


def _become(words: list[str], main: Callable, folder: Path, environment: dict[str, str], streams: Path) -> None:
    """Run a program's main function in this process, as a new one would, and end the process."""
    code = 1
    try:
        with ExitStack() as stack:
            for number, name in enumerate(("out", "err"), start=1):
                file = stack.enter_context((streams / name).open("wb"))
                os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115 - open until _exit
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:0] = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
        sys.argv = words
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what this process inherited ends in the one that it comes from
