"""A real Slurm for tests, in a temporary folder: munge, a controller, two nodes, accounting on demand.

Nothing of the system's own services is read, started or stopped. Every process is a child of this one, ends when it
ends, and is stopped with whatever jobs left behind when the cluster is closed. Works for root and for other users.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cluster_files import NODES, Ports, Settings, slurm_conf, user, write_files

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "setpriv")
ACCOUNTING_PROGRAMS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db")
SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def missing_programs(accounting: bool = False, path: str = SEARCH_PATH) -> list[str]:
    wanted = PROGRAMS + (ACCOUNTING_PROGRAMS if accounting else ())
    return [name for name in wanted if shutil.which(name, path=path) is None]


def require(accounting: bool = False, path: str = SEARCH_PATH) -> None:
    """Skip a test without Slurm; fail it where REQUIRE_SLURM=1 demands it."""
    missing = missing_programs(accounting, path)
    if missing and os.environ.get("REQUIRE_SLURM") == "1":
        pytest.fail(f"REQUIRE_SLURM=1, but there is no {', '.join(missing)}; see README.md for the packages")
    if missing:
        pytest.skip(f"a real Slurm is needed; there is no {', '.join(missing)}")


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60, interval: float = 0.05):
    """What `condition` returns as soon as that is true. Raises TimeoutError, naming `what`, after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(interval)
    return value


class Cluster:
    """A running Slurm cluster; a context manager.

    environment: what clients (sbatch, a Snakemake) must run with to reach this cluster and no other.
    folder: its short-lived folder; log/ holds the daemons' logs.
    """

    def __init__(self, settings: Settings | None = None, accounting: bool = False) -> None:
        self.settings = settings or Settings()
        self.accounting = accounting
        self.ports = Ports.free()
        self.daemons: dict[str, subprocess.Popen] = {}
        # Directly under the temporary folder: a Unix socket's path has at most 108 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)  # munge refuses to write under a folder it cannot check
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SACCT_"))}
        self.environment |= {
            "SLURM_CONF": str(self.folder / "etc" / "slurm.conf"),
            "MYSQL_UNIX_PORT": str(self.folder / "run" / "database.sock"),
            "PATH": SEARCH_PATH,
        }

    def __enter__(self) -> Cluster:
        try:
            write_files(self.folder, self.ports, self.settings, self.accounting)
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Starting and stopping

    def start(self) -> None:
        self.start_munge()
        if self.accounting:
            self.start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)

    def start_daemon(self, name: str, *command: object, ready: Callable[[], object], **environment: str) -> None:
        """Start a process that stays in the foreground and ends with this one, and wait until it is ready."""
        output = (self.folder / "log" / f"{name}.out").open("ab")
        words = ["setpriv", "--pdeathsig", "KILL", *map(str, command)]
        # In its own session: Ctrl-C in a terminal is for the tests, and a job must not reach them through a group.
        process = subprocess.Popen(
            words,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=self.folder,
        )
        output.close()
        self.daemons[name] = process
        try:
            wait_for(lambda: process.poll() is not None or ready(), f"{name} is ready", seconds=60)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log_tail(name)}") from None
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode}:\n{self.log_tail(name)}")

    def stop_daemon(self, name: str, number: signal.Signals = signal.SIGTERM, seconds: float = 30) -> None:
        process = self.daemons.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def start_munge(self) -> None:
        run, log, socket = self.folder / "run", self.folder / "log", self.folder / "run" / "munge.sock"
        self.start_daemon(
            "munged",
            *("munged", "--foreground", "--force", "--key-file", self.folder / "etc" / "munge.key"),
            *("--socket", socket, "--pid-file", run / "munged.pid", "--seed-file", run / "munged.seed"),
            *("--log-file", log / "munged.log", "--num-threads", "2"),
            ready=lambda: self.succeeds("munge", "-n", "-S", socket),
        )

    def start_accounting(self) -> None:
        data, socket = self.folder / "database", self.environment["MYSQL_UNIX_PORT"]
        shared = ("--no-defaults", f"--datadir={data}", f"--user={user()}")
        self.call("mariadb-install-db", *shared, "--auth-root-authentication-method=normal", "--skip-test-db")
        self.start_daemon(
            "mariadbd",
            # No network and no passwords: who may open the socket may open its folder.
            *("mariadbd", *shared, "--skip-networking", "--skip-grant-tables", f"--socket={socket}"),
            *("--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900"),
            ready=lambda: Path(socket).exists(),
        )
        self.start_accounting_daemon()
        self.call("sacctmgr", "-i", "add", "cluster", "test")
        self.call("sacctmgr", "-i", "add", "account", "research")
        self.call("sacctmgr", "-i", "add", "user", user(), "account=research")

    def start_accounting_daemon(self) -> None:
        ready = ("sacctmgr", "-n", "list", "cluster")
        self.start_daemon("slurmdbd", "slurmdbd", "-D", ready=lambda: self.succeeds(*ready))

    def start_controller(self, *options: str) -> None:
        command = ("slurmctld", "-D", *options)
        self.start_daemon("slurmctld", *command, ready=lambda: "is UP" in self.answer("scontrol", "ping"))

    def start_node(self, node: str) -> None:
        def is_up() -> bool:
            return self.node_state(node).startswith(("IDLE", "MIXED", "ALLOCATED")) and "*" not in self.node_state(node)

        self.start_daemon(node, "slurmd", "-D", "-N", node, ready=is_up, SLURMD_NODENAME=node)

    def restart_controller(self, **changes: object) -> None:
        """Stop the controller and start it again on its saved state, with these settings changed."""
        self.stop_daemon("slurmctld")
        self.settings = replace(self.settings, **changes)
        conf = slurm_conf(self.folder, self.ports, self.settings, self.accounting)
        (self.folder / "etc" / "slurm.conf").write_text(conf)
        self.start_controller()

    def kill_node(self, node: str) -> None:
        """The node dies: its slurmd and every process of its jobs, without a word to the controller."""
        self.daemons[node].send_signal(signal.SIGSTOP)
        self.kill_leftovers(f"SLURMD_NODENAME={node}")
        self.stop_daemon(node, signal.SIGKILL)

    def close(self) -> None:
        """Stop everything and remove the folder. Never raises for what is already gone."""
        for name in (*NODES, "slurmctld", "slurmdbd", "mariadbd", "munged"):
            # Nothing is worth saving but the order: accounting complains for long about a missing database.
            self.stop_daemon(name, signal.SIGTERM if name == "slurmdbd" else signal.SIGKILL)
        wait_for(lambda: not self.kill_leftovers(f"SLURM_CONF={self.folder}/"), "every process of the cluster is gone")
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill_leftovers(self, variable: str = "") -> int:
        """SIGKILL what jobs left, or what has this entry in its environment; how many processes there were."""
        daemons = {process.pid for process in self.daemons.values()}
        found = [process for process in processes(self.folder, variable) if process not in daemons]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # first stopped, or one reports to Slurm how another died
            for process in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, number)
        return len(found)

    # Clients

    def call(self, *command: object, **options) -> str:
        """Output of a client. Raises RuntimeError with what it said where it fails."""
        words = [str(word) for word in command]
        result = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60, **options)
        if result.returncode:
            raise RuntimeError(f"{' '.join(words)}: {result.stdout}{result.stderr}")
        return result.stdout

    def which(self, program: str) -> str:
        return shutil.which(program, path=self.environment["PATH"])

    def answer(self, *command: object) -> str:
        try:
            return self.call(*command)
        except RuntimeError:
            return ""

    def succeeds(self, *command: object) -> bool:
        words = [str(word) for word in command]
        return subprocess.run(words, env=self.environment, capture_output=True, timeout=60).returncode == 0

    def node_state(self, node: str) -> str:
        # From scontrol: after a restart of the controller sinfo still shows allocations that have ended.
        found = re.search(r"State=(\S+)", self.answer("scontrol", "show", "node", node))
        return found[1] if found else ""

    def submit(self, script: str, *options: str) -> str:
        """Submit shell lines as a batch job; its id."""
        output = self.folder / "log" / "job-%j.txt"
        text = "#!/bin/bash\n" + script + "\n"
        words = ("sbatch", "--parsable", "--time=5", "--mem=100", f"--output={output}", "--open-mode=append", *options)
        return self.call(*words, input=text).strip()

    def occupy(self, partition: str = "high", seconds: float = 2) -> str:
        """A job that takes both nodes whole, and in partition `high` from preempted jobs; its id."""
        return self.submit(f"sleep {seconds}", "-p", partition, "--nodes=2", "--exclusive", "--job-name=occupant")

    def output(self, job: str) -> str:
        file = self.folder / "log" / f"job-{job}.txt"
        return file.read_text() if file.exists() else ""

    def job(self, job: str) -> dict[str, str]:
        """The controller's record of a job (`JobState`, `Restarts`, `Reason`, ...); empty where it forgot the job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.answer("scontrol", "-o", "show", "job", job)))

    def state(self, job: str) -> str:
        return self.job(job).get("JobState", "")

    def wait_state(self, job: str, *states: str, seconds: float = 60) -> str:
        try:
            return wait_for(lambda: (s := self.state(job)) in states and s, f"{job} is {states}", seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it is {self.job(job)}\n{self.output(job)}") from None

    def queue(self) -> dict[str, str]:
        """Job id (array elements apart) -> state of everything pending, running or ending."""
        lines = self.call("squeue", "-h", "-r", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def clear(self) -> None:
        """Cancel every job and wait until the nodes are idle, dead nodes started again."""
        for node in NODES:
            if node not in self.daemons:
                self.start_node(node)
        self.answer("scancel", "--user", user())
        wait_for(lambda: not self.queue(), "the queue is empty")
        wait_for(lambda: all(self.node_state(node) == "IDLE" for node in NODES), "the nodes are idle")

    def log_tail(self, name: str, lines: int = 15) -> str:
        files = [self.folder / "log" / f"{name}.{suffix}" for suffix in ("log", "out")]
        return "\n".join(line for f in files if f.exists() for line in f.read_text().splitlines()[-lines:])


def processes(folder: Path, variable: str = "") -> list[int]:
    """Ids of the other processes of the cluster in a folder whose environment holds an entry that begins so.

    Jobs' processes are found by their environment: they are children of nobody here, and may have left their session.
    """
    wanted = (f"\0SLURM_CONF={folder}/".encode(), f"\0{variable}".encode())
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            values = b"\0" + (entry / "environ").read_bytes()
        except OSError:  # gone, or another user's
            continue
        if int(entry.name) != os.getpid() and all(part in values for part in wanted):
            found.append(int(entry.name))
    return found
