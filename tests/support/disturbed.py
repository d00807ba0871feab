"""A training that a test disturbs: its study, how far it is, and the death of its writer inside a checkpoint."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from cluster import wait_for
from toy_runs import toy_study, write_inputs

from mixar.study.layout import Layout
from mixar.training.checkpoints import states
from mixar.training.metrics import FILE, RESUMED, STARTED, Metrics, read_metrics

SUPPORT = Path(__file__).parent
HALF_WRITTEN = re.compile(r"\.(\d+)\.state-\d+\.pt")  # with the number of the process that writes


def paced_study(folder: Path, **hardware) -> tuple[Path, Layout]:
    """The file and layout of a study in a folder whose run `mix` takes 400 paced steps, its tokens and the optimizer.

    `released` in that folder ends the pace.
    """
    training = {"epochs": 200, "optimizer": "paced_optimizer:paced", "warmup_epochs": 1}
    hardware = {"device": "cpu", "checkpoint_minutes": 0.01, **hardware, "results": str(folder / "results")}
    study = toy_study(folder / "results", training=training, hardware=hardware)
    layout = write_inputs(study)
    shutil.copy(SUPPORT / "paced_optimizer.py", folder)
    file = folder / "study.json"
    file.write_text(study.model_dump_json(), encoding="utf-8")
    return file, layout


def training_alone(folder: Path, processes: int, **hardware) -> tuple[subprocess.Popen, Layout]:
    """The same training on this machine, in its own folder, at full pace: the process and the layout."""
    folder.mkdir()
    file, layout = paced_study(folder, **hardware)
    (folder / "released").touch()
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "--"]
    words = [*(launch if processes > 1 else []), "mixar", "train", "--study", str(file), "--run", "mix"]
    with (folder / "output.txt").open("w") as output:
        environment = os.environ | {"PYTHONPATH": str(folder)}
        streams = {"stdout": output, "stderr": output}
        return subprocess.Popen([sys.executable, "-m", *words], cwd=folder, env=environment, **streams), layout


def metrics(layout: Layout) -> Metrics | None:
    """What the training has told so far."""
    path = layout.watch("mix", 0) / FILE
    return read_metrics(path) if path.exists() and path.stat().st_size else None


def wait_attempt(layout: Layout, number: int, steps: int, seconds: float = 600) -> None:
    """Until the training was started or resumed for the `number`-th time and has made so many steps since."""

    def is_there() -> bool:
        if (found := metrics(layout)) is None:
            return False
        begun = [event["step"] for event in found.events if event["event"] in (STARTED, RESUMED)]
        last = found.rows[-1]["step"] if found.rows else 0
        return len(begun) >= number and last >= begun[-1] + steps

    wait_for(is_there, f"{steps} steps of attempt {number}", seconds)


def kill_inside_a_checkpoint(layout: Layout, seconds: float = 600) -> Path:
    """SIGKILL the process that writes a checkpoint, not the first, while its file is half written. Returns the file."""
    (folder,) = (layout.root / "checkpoints").glob("train-mix-seed0-*")
    wait_for(lambda: states(folder), "a checkpoint", seconds)
    return wait_for(lambda: _killed(folder), "a checkpoint that is being written", seconds, interval=0)


def _killed(folder: Path) -> Path | None:
    """The half-written file of the process that was killed; None where it was no longer writing."""
    for name in os.listdir(folder):
        if found := HALF_WRITTEN.fullmatch(name):
            process = int(found[1])
            os.kill(process, signal.SIGSTOP)  # or the file may be whole and renamed before it is killed
            wait_for(lambda process=process: _is_stopped(process), f"process {process} stopped", interval=0)
            is_half = (folder / name).exists()
            os.kill(process, signal.SIGKILL if is_half else signal.SIGCONT)
            return folder / name if is_half else None
    return None


def _is_stopped(process: int) -> bool:
    """Whether all threads of a process are."""
    states = [stat.read_bytes().rpartition(b")")[2].split()[0] for stat in Path(f"/proc/{process}/task").glob("*/stat")]
    return set(states) == {b"T"}
