"""Times of two arms that do the same work, taken in turn on one machine, and what the machine did meanwhile."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixar.storage.files import replaced

GEMM = 1024  # side of the self-test's matrices
SLOW = 0.8  # a round counts where the self-test before each arm reaches this share of the best


@dataclass(frozen=True)
class Case:
    """One comparison: `theirs` and `ours` do the same work, once a call."""

    name: str
    theirs: Callable[[], object]
    ours: Callable[[], object]
    items: int  # per call, such as images


def compare(case: Case, rounds: int, device: torch.device, flops: bool = True) -> dict[str, Any]:
    """Wall and CPU seconds of each arm, A, B, A, B, after one call of each to warm up; ratios are theirs to ours.

    flops: count those of the first call, which makes it slow where there are many small operations.
    """
    arms = {"theirs": case.theirs, "ours": case.ours}
    flop = {name: counted(arm, flops) for name, arm in arms.items()}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            taken[name].append({"gflops": gemm(device), "load": os.getloadavg()[0], **timed(arm, device)})
    best = max(t["gflops"] for times in taken.values() for t in times)
    kept = [i for i in range(rounds) if all(times[i]["gflops"] >= SLOW * best for times in taken.values())]
    row: dict[str, Any] = {"case": case.name, "items": case.items, "rounds": rounds, "quiet_rounds": len(kept)}
    for name, times in taken.items():
        of_kept = [times[i] for i in kept] or times
        for clock in ("wall", "cpu"):
            seconds = [t[clock] for t in of_kept]
            row[f"{name}_{clock}_min_s"], row[f"{name}_{clock}_median_s"] = min(seconds), statistics.median(seconds)
        row[f"{name}_gflop"] = flop[name] / 1e9
        row[f"{name}_floor_share"] = flop[name] / 1e9 / best / torch.get_num_threads() / row[f"{name}_wall_min_s"]
    for clock in ("wall", "cpu"):
        for which in ("min", "median"):
            row[f"ratio_{clock}_{which}"] = row[f"theirs_{clock}_{which}_s"] / row[f"ours_{clock}_{which}_s"]
    row["gemm_gflops_per_thread"] = best
    row["load_average"] = statistics.median(t["load"] for times in taken.values() for t in times)
    return row


def timed(action: Callable[[], object], device: torch.device) -> dict[str, float]:
    wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    wait(device)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gemm(device: torch.device, calls: int = 3) -> float:
    """GFLOP/s a thread of a float32 matrix product, the best of a few."""
    a = torch.ones(GEMM, GEMM, device=device)
    seconds = min(timed(lambda: a @ a, device)["wall"] for _ in range(calls))
    return 2 * GEMM**3 / seconds / 1e9 / (torch.get_num_threads() if device.type == "cpu" else 1)


def counted(action: Callable[[], object], is_wanted: bool = True) -> int:
    """FLOPs of one call by torch's counter, or 0 where they are not wanted; the call warms up, too."""
    if not is_wanted:
        action()
        return 0
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str) -> float:
    """The largest difference, as a share of the largest value. Raises ValueError where it exceeds the tolerance."""
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    if not found.any() and not expected.any():
        return 0.0
    if not error <= tolerance:
        raise ValueError(
            f"{what}: differs by {error:.2g} of its largest value; at most {tolerance:g} may come of rounding"
        )
    return error


def show(row: dict[str, Any]) -> str:
    """One line a comparison."""
    times = "; ".join(
        f"{name} {row[f'{name}_wall_min_s']:.3f} s (median {row[f'{name}_wall_median_s']:.3f}, CPU "
        f"{row[f'{name}_cpu_min_s']:.3f})"
        + (
            f", {row[f'{name}_gflop']:.1f} GFLOP at {row[f'{name}_floor_share']:.0%} of the GEMM rate"
            * (row[f"{name}_gflop"] > 0)
        )
        for name in ("theirs", "ours")
    )
    ratio = ", ".join(f"{c} {w} {row[f'ratio_{c}_{w}']:.3f}" for c in ("wall", "cpu") for w in ("min", "median"))
    return (f"{row['case']}: {times}\n  ratio: {ratio}; {row['quiet_rounds']} of {row['rounds']} rounds at full speed, "
            f"GEMM {row['gemm_gflops_per_thread']:.0f} GFLOP/s a thread, load {row['load_average']:.1f}")  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]], device: torch.device) -> None:
    """The rows as Parquet, each with the device, date and versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    machine = {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }
    with replaced(path) as temporary:
        pd.DataFrame([row | machine for row in rows]).to_parquet(temporary, index=False)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
