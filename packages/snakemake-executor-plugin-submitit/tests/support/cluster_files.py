"""The files a test cluster reads: slurm.conf, gres.conf, slurmdbd.conf, a munge key and fake GPU devices.

Nodes are two slurmd on this machine with four fake GPUs each. They claim more memory than there is:
nothing measures it.
"""

from __future__ import annotations

import os
import pwd
import random
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

NODES = ("gpu1", "gpu2")
GPUS_PER_NODE = 4
CPUS_PER_NODE = 8
PORTS = range(10000, 20000)  # below those of the launcher, and of outgoing connections


@dataclass(frozen=True)
class Settings:
    """What the scenarios vary. Times in seconds."""

    user_signal: bool = True  # preempt_send_user_signal: a preempted job gets its own --signal before its grace begins
    grace: int = 13  # between the notice of a preemption and the end of the job
    kill_wait: int = 10  # between SIGTERM and SIGKILL
    min_job_age: int = 300  # a finished job is forgotten after this; Slurm refuses less than 2
    max_array_size: int = 1001
    slurmd_timeout: int = 60  # a node that is silent for so long is down; a busy machine's may be for seconds


@dataclass(frozen=True)
class Ports:
    controller: int
    nodes: tuple[int, ...]
    accounting: int

    @classmethod
    def free(cls) -> Ports:
        """Ports nobody listens on; random, so that two clusters that start together differ."""
        found = [port for port in random.sample(PORTS, 200) if is_free(port)]
        return cls(found[0], tuple(found[2 : 2 + len(NODES)]), found[1])


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def write_files(folder: Path, ports: Ports, settings: Settings, accounting: bool) -> None:
    """Make everything a cluster needs to start in an empty folder."""
    for name in ("etc", "run", "log", "state", "dev", "database", *(f"spool/{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    (folder / "run").chmod(0o755)
    key = folder / "etc" / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    for index in range(GPUS_PER_NODE):  # a device it must be: Slurm sets no CUDA_VISIBLE_DEVICES for regular files
        (folder / "dev" / f"nvidia{index}").symlink_to("/dev/null")
    (folder / "etc" / "gres.conf").write_text(gres_conf(folder))
    (folder / "etc" / "slurm.conf").write_text(slurm_conf(folder, ports, settings, accounting))
    if accounting:
        conf = folder / "etc" / "slurmdbd.conf"
        conf.write_text(slurmdbd_conf(folder, ports))
        conf.chmod(0o600)


def gres_conf(folder: Path) -> str:
    return (
        "AutoDetect=off\n"
        f"NodeName={','.join(NODES)} Name=gpu Type=fake File={folder}/dev/nvidia[0-{GPUS_PER_NODE - 1}] "
        "Flags=nvidia_gpu_env\n"
    )


def slurm_conf(folder: Path, ports: Ports, settings: Settings, accounting: bool) -> str:
    """Partition `gpu` can be preempted by partition `high`, which requeues the victim; `final` cancels it instead."""
    lines = [
        "ClusterName=test",
        "SlurmctldHost=localhost(127.0.0.1)",
        f"SlurmctldPort={ports.controller}",
        f"SlurmUser={user()}",
        f"SlurmdUser={user()}",
        "AuthType=auth/munge",
        # A requeued job waits until its old credential has expired; the default is two minutes.
        f"AuthInfo=socket={folder}/run/munge.sock,cred_expire=5",
        "CredType=cred/munge",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool/%n",
        f"SlurmctldPidFile={folder}/run/slurmctld.pid",
        f"SlurmdPidFile={folder}/run/%n.pid",
        f"SlurmctldLogFile={folder}/log/slurmctld.log",
        f"SlurmdLogFile={folder}/log/%n.log",
        f"SlurmctldParameters={'preempt_send_user_signal' if settings.user_signal else 'idle_on_node_suspend'}",
        "SlurmdParameters=config_overrides",
        "SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0,"
        "default_queue_depth=10000",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "SwitchType=switch/none",
        "MpiDefault=none",
        "GresTypes=gpu",
        "PreemptType=preempt/partition_prio",
        "PreemptMode=REQUEUE",
        "JobRequeue=1",
        "ReturnToService=2",
        "InactiveLimit=0",
        f"KillWait={settings.kill_wait}",
        # A preempting job looks again after KillWait + MessageTimeout: only then a victim's grace can end.
        "MessageTimeout=4",
        f"MinJobAge={settings.min_job_age}",
        f"MaxArraySize={settings.max_array_size}",
        "MaxJobCount=10000",
        "DefMemPerCPU=500",  # else a job that asks for no memory gets all of a node
        "SlurmctldTimeout=30",
        f"SlurmdTimeout={settings.slurmd_timeout}",
        *accounting_lines(folder, ports, accounting),
        *(
            f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={CPUS_PER_NODE} "
            f"RealMemory=256000 Gres=gpu:fake:{GPUS_PER_NODE} State=UNKNOWN"
            for node, port in zip(NODES, ports.nodes, strict=True)
        ),
        f"PartitionName=DEFAULT Nodes={','.join(NODES)} MaxTime=INFINITE State=UP GraceTime={settings.grace}",
        "PartitionName=gpu Default=YES PriorityTier=1",
        "PartitionName=final PriorityTier=1 PreemptMode=CANCEL",
        "PartitionName=high PriorityTier=10 PreemptMode=OFF",
    ]
    return "\n".join(lines) + "\n"


def accounting_lines(folder: Path, ports: Ports, accounting: bool) -> list[str]:
    if not accounting:
        return ["AccountingStorageType=accounting_storage/none", "JobAcctGatherType=jobacct_gather/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={ports.accounting}",
        f"AccountingStoragePass={folder}/run/munge.sock",  # else clients look for the system's munge and hang
        "AccountingStorageTRES=gres/gpu",
        "JobAcctGatherType=jobacct_gather/linux",
    ]


def slurmdbd_conf(folder: Path, ports: Ports) -> str:
    return "\n".join(
        [
            "AuthType=auth/munge",
            f"AuthInfo=socket={folder}/run/munge.sock",
            "DbdHost=localhost",
            "DbdAddr=127.0.0.1",
            f"DbdPort={ports.accounting}",
            f"SlurmUser={user()}",
            "StorageType=accounting_storage/mysql",
            "StorageHost=localhost",  # MariaDB's socket, named by MYSQL_UNIX_PORT
            "StorageUser=root",
            f"LogFile={folder}/log/slurmdbd.log",
            f"PidFile={folder}/run/slurmdbd.pid",
            "",
        ]
    )
