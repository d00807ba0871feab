"""A Snakemake of its own folder on a test cluster: started with the example profile, watched, killed, interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster import Cluster, wait_for
from snakemake_executor_plugin_submitit.records.attempts import Attempts

EXAMPLES = Path(__file__).parents[2] / "examples"
SNAKEMAKE = Path(sys.executable).parent / "snakemake"
# The example's profile, at the pace of a test.
PROFILE = ("--profile", EXAMPLES / "slurm", "--retries", "0", "--latency-wait", "5")
PACE = ("--submitit-poll-min-seconds", "1", "--submitit-poll-max-seconds", "2")

# count.sh NAME STEPS [FILE] counts to STEPS, five a second, and on until FILE exists: a job lasts as long as its test
# needs it, however busy the machine is. It continues where it was stopped. Every line of its life goes to the journal;
# `NAME.counted` appears with its first step.
COUNT = """
name=$1 steps=$2 file=${3:-/} step=$(cat $1.saved 2>/dev/null || echo 0)
exec 9> $name.lock
flock -n 9 || echo "$name overlaps" >> journal
trap 'echo $step > $name.saved; echo "$name saved $step" >> journal; exit 143' TERM
echo "$name start $step" >> journal
while (( step < steps )) || [ ! -e $file ]; do sleep 0.2; (( ++step )); : > $name.counted; done
echo "$name end" >> journal
"""

# A shim for squeue and sacct: counts its calls; fails or hangs while a file exists.
SHIM = """#!/bin/bash
echo {name} >> {folder}/asked
if [ -e {folder}/fail ]; then echo refused >> {folder}/refused; echo "{name}: error: Unable to contact" >&2; exit 1; fi
while [ -e {folder}/hang ]; do : > {folder}/hanging; sleep 0.1; done
exec {program} "$@"
"""


class Study:
    """A folder with a Snakefile, `count.sh` and what its jobs leave there."""

    def __init__(self, cluster: Cluster, folder: Path, snakefile: str) -> None:
        self.cluster, self.folder = cluster, folder
        self.environment = dict(cluster.environment)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "count.sh").write_text(COUNT)
        (folder / "Snakefile").write_text(textwrap.dedent(snakefile))

    def start(self, *options: object) -> Driver:
        return Driver(self.folder, self.environment, *PROFILE, *PACE, *options)

    def run(self, *options: object, seconds: float = 300) -> Driver:
        """A whole run, from start to end."""
        driver = self.start(*options)
        driver.wait(seconds)
        return driver

    def journal(self, name: str = "") -> list[str]:
        """What the counting jobs wrote, in order, or only the lines of one of them without its name."""
        file = self.folder / "journal"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ") or not name]

    def touch(self, name: str) -> None:
        """Make the file that jobs wait for."""
        (self.folder / name).touch()

    def wait_counted(self, *names: str) -> None:
        """Until each of these has counted a step, and so has something to save."""
        self.wait(lambda: all((self.folder / f"{n}.counted").exists() for n in names), f"{names} counted")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Until this is true. Raises TimeoutError with all that is known about the study."""
        try:
            wait_for(condition, what, seconds=200)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.journal()}\n{self.cluster.queue()}\n{self.outputs()}") from None

    def finished(self) -> dict[str, dict]:
        """Job's name -> what the executor wrote down at its end; of several ends the last."""
        file = self.folder / ".snakemake" / "submitit" / "finished.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return {line["name"]: line for line in lines}

    def slurm_ids(self, name: str) -> list[str]:
        """Ids of the queued jobs whose Slurm name begins with this one; array elements apart."""
        lines = self.cluster.call("squeue", "-h", "-r", "-o", "%i|%j").splitlines()
        return [line.split("|")[0] for line in lines if line.split("|")[1].startswith(name)]

    def ends(self, name: str) -> list[str]:
        """How each attempt of an ended job ended, by its own records."""
        folder = self.folder / ".snakemake" / "submitit"
        job = self.finished()[name]["job"]
        records = [Attempts(folder, key.name).all() for key in (folder / "attempts").iterdir()]
        return [attempt.ended_by for found in records if found[-1].job == job for attempt in found]

    def outputs(self) -> str:
        return "\n".join(file.read_text() for file in sorted(self.folder.glob("driver-*.txt")))

    def shim(self, *names: str) -> Path:
        """Put shims before clients of this study's drivers, the status clients where none is named.

        Returns the folder in which `fail` and `hang` act.
        """
        folder = self.folder / "shim"
        folder.mkdir()
        for name in names or ("squeue", "sacct"):
            program = self.cluster.which(name)
            (folder / name).write_text(SHIM.format(name=name, folder=folder, program=program))
            (folder / name).chmod(0o755)
        self.environment["PATH"] = f"{folder}{os.pathsep}{self.environment['PATH']}"
        return folder


class Driver:
    """A running `snakemake`, in a session of its own."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *options: object) -> None:
        self.file = folder / f"driver-{len(list(folder.glob('driver-*.txt')))}.txt"
        with self.file.open("w") as output:
            self.process = subprocess.Popen(
                [str(word) for word in (SNAKEMAKE, *options)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # What was started in the background ignores Ctrl-C, and so would all its children.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def output(self) -> str:
        return self.file.read_text()

    def wait(self, seconds: float = 300) -> int:
        """Its exit code. Raises TimeoutError with what it said, and kills it, where it does not end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TimeoutError(f"snakemake did not end within {seconds} s:\n{self.output}") from None

    def kill(self) -> None:
        """SIGKILL: nothing can be cleaned up. Nothing happens to one that has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
