"""Run the parts of gpu_parts.py on one device, each in a process and a time box of its own; write what they find.

    benchmarks/gpu.sh [--mar FOLDER] [--minutes 9] [--output benchmarks/gpu.json]

A part that fails, is killed or runs over its time is recorded as such, with what it had found, and the next begins. The
file is complete JSON after every finding. `mixar plan` takes the rates in it for the card that it names, and
docs/explanation/gpu.md shows it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import gpu_parts
import torch
from gpu_parts import Setup

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "benchmarks" / "gpu.json"
FORMAT = "mixar gpu benchmark, version 1"
Part = Callable[[Setup], Iterator[dict[str, Any]]]
# In order: what is first is measured even where time runs short. Seconds that a part may take.
PARTS: dict[str, tuple[Part, int]] = {
    "machine": (gpu_parts.machine, 30),
    "vectors": (gpu_parts.vectors, 40),
    "steps": (gpu_parts.steps, 120),
    "training": (gpu_parts.training, 130),
    "sampling": (gpu_parts.sampling, 110),
    "mar": (gpu_parts.official, 60),
    "training_compiled": (gpu_parts.training_compiled, 90),
    "stages": (gpu_parts.stages, 50),
    "sampling_compiled": (gpu_parts.sampling_compiled, 60),
}


def main(arguments: list[str] | None = None) -> int:
    given = _arguments(arguments)
    setup = Setup(given.device, given.small, given.mar)
    found = run(setup, given.output, 60 * given.minutes, given.only or list(PARTS))
    print(f"{given.output}: {summary(found)}")
    return int(any(part["status"] == "failed" for part in found["parts"].values()))


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny networks of the smoke study: a trial of the script")
    parser.add_argument("--mar", type=Path, help="folder of an official MAR checkout, measured beside ours")
    parser.add_argument("--minutes", type=float, default=9.0, help="for all parts together")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--output", type=Path, help=f"default, on a GPU at full size: {OUTPUT.relative_to(ROOT)}")
    given = parser.parse_args(arguments)
    if given.output is None and (given.small or given.device == "cpu"):
        parser.error("--output: name a file; the default one is for measurements on a GPU at full size")
    given.output = given.output or OUTPUT
    if given.mar and not (given.mar / "models" / "mar.py").is_file():
        parser.error(f"--mar: {given.mar} holds no models/mar.py; give a checkout of MAR's repository")
    return given


def run(setup: Setup, output: Path, seconds: float, names: list[str]) -> dict[str, Any]:
    """Run the named parts in order, and write after each finding. Returns what is in the file."""
    end = time.monotonic() + seconds
    found: dict[str, Any] = {
        "format": FORMAT,
        "card": None,
        "is_small": setup.small,
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tflops": {},
        "parts": {name: {"status": "not run", "items": []} for name in names},
    }
    write(output, found)
    for name in names:
        part, limit = PARTS[name]
        left = min(float(limit), end - time.monotonic())
        record = found["parts"][name]
        if name == "mar" and setup.mar is None:
            record["status"], record["why"] = "left out", "no --mar"
            continue
        if left <= 1:
            record["why"] = "no time was left"
            continue
        print(f"{name}: at most {left:.0f} s")
        began = time.monotonic()
        for update in boxed(part, setup, left):
            if "item" in update:
                record["items"].append(update["item"])
                print(f"  {_line(update['item'])}")
            else:
                record |= update
            conclude(found, setup)
            write(output, found)
        record["seconds"] = round(time.monotonic() - began, 1)
        print(f"  {record['status']}{': ' + record['why'] if 'why' in record else ''}, {record['seconds']} s")
        write(output, found)
    return found


def boxed(part: Part, setup: Setup, seconds: float) -> Iterator[dict[str, Any]]:
    """What a part finds, as {"item": …} each, then {"status": …}. It runs in a child, which is killed after `seconds`.

    The child is forked: imports are paid once, and CUDA begins in it, because this process never touches it.
    """
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(part, setup, sending))
    child.start()
    sending.close()
    end = time.monotonic() + seconds
    try:
        while True:
            if not receiving.poll(max(end - time.monotonic(), 0)):
                yield {"status": "out of time", "why": f"killed after {seconds:.0f} s"}
                return
            try:
                update = receiving.recv()
            except EOFError:  # killed, by memory say, or crashed
                child.join()
                yield {"status": "failed", "why": f"the process ended with exit code {child.exitcode}"}
                return
            yield update
            if "status" in update:
                return
    finally:
        child.join(0.0 if child.exitcode is None and time.monotonic() >= end else 5.0)
        if child.is_alive():
            child.kill()
        child.join()


def _child(part: Part, setup: Setup, sending: Connection) -> None:
    try:
        for item in part(setup):
            sending.send({"item": item})
        sending.send({"status": "done"})
    except Exception as error:
        sending.send({"status": "failed", "why": gpu_parts.said(error)})


def conclude(found: dict[str, Any], setup: Setup) -> None:
    """The card and the TFLOP/s of stages by precision, as `mixar plan` reads them: measured at full size on a GPU."""
    parts = {name: part["items"] for name, part in found["parts"].items()}
    for machine in parts.get("machine", []):
        found |= {key: machine[key] for key in ("device", "card", "memory_gib") if key in machine}
    if setup.small or setup.device != "cuda":
        return
    by_stage: dict[str, list[dict]] = {
        "train": parts.get("training", []),
        # the paper's sampler where it was drawn with; shorter ones have larger matrices
        "sample": [i for i in parts.get("sampling", []) if i.get("is_whole")],
    }
    for item in parts.get("stages", []):
        by_stage.setdefault(item["stage"], []).append(item)
    for stage, items in by_stage.items():
        timed = [item for item in items if "seconds" in item]
        for precision in sorted({item["precision"] for item in timed}):
            of = [item for item in timed if item["precision"] == precision]
            rate = sum(item["tflop"] for item in of) / sum(item["seconds"] for item in of)
            found["tflops"].setdefault(stage, {})[precision] = round(rate, 1)


def write(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def summary(found: dict[str, Any]) -> str:
    """How many parts ended how."""
    states = [part["status"] for part in found["parts"].values()]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _line(item: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in item.items() if v is not None)


def _commit() -> str | None:
    """Of the checkout, with a mark where files were changed; None outside a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8")
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
