"""How the cost of a run grows: seconds against tokens, images, width and number of runs, and slopes in log-log axes.

    python benchmarks/speed/scaling.py [--threads 1] [--repeats 3] [--axis tokens batch width runs] [--output FILE.json]

A training step and the drawing of latents of a small model whose other sizes stay; runs: loading a study with so many
runs and their digests. A slope of 1 is proportional. Each time is the shortest of the repeats, in CPU seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from interleaved import timed, write  # noqa: E402

from mixar.model.decode import sample_latents  # noqa: E402
from mixar.model.guidance import DCMix  # noqa: E402
from mixar.model.mar import MAR  # noqa: E402
from mixar.model.masking import mask_first, sample_orders  # noqa: E402
from mixar.study.digests import Digests  # noqa: E402
from mixar.study.load import parse_study  # noqa: E402
from mixar.study.sections import Model, Sampler  # noqa: E402

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CHANNELS, BITS, CLASSES = 16, 10, 10
USUAL = {"tokens": 64, "batch": 8, "width": 128}
AXES = {"tokens": (64, 256, 1024), "batch": (2, 8, 32), "width": (128, 256, 512), "runs": (8, 32, 128)}
SAMPLER = Sampler(num_iterations=8, head_steps=10, cfg=3.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--axis", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    for axis in args.axis:
        rows += grown(axis, AXES[axis], args.repeats)
        if args.output:
            write(args.output, rows, CPU)


def grown(axis: str, sizes: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """A row for each kind of work: its seconds at every size, and its slope."""
    seconds: dict[str, list[float]] = {}
    for size in sizes:
        for what, action in actions(axis, size):
            action()  # warm up
            seconds.setdefault(what, []).append(min(timed(action, CPU)["cpu"] for _ in range(repeats)))
    rows = [{"axis": axis, "what": what, "sizes": list(sizes), "cpu_s": times, "slope": slope(sizes, times)}
            for what, times in seconds.items()]  # fmt: skip
    for row in rows:
        times = ", ".join(f"{size}: {s:.3g} s" for size, s in zip(sizes, row["cpu_s"], strict=True))
        print(f"{axis}, {row['what']}: slope {row['slope']:.2f} ({times})", flush=True)
    return rows


def slope(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def actions(axis: str, size: int) -> Iterator[tuple[str, Callable[[], object]]]:
    if axis == "runs":
        yield "load and digests", partial(load, size)
        return
    sizes = {**USUAL, axis: size}
    model, inputs = network(sizes["tokens"], sizes["width"]), batch(sizes["batch"], sizes["tokens"])
    yield "training step", partial(train, model, inputs)
    yield "sampling", partial(draw, model, inputs)


def network(tokens: int, width: int) -> MAR:
    torch.manual_seed(0)
    sizes = Model(width=width, encoder_depth=2, decoder_depth=2, heads=4, buffer_size=16, dropout=0.0, head_depth=2,
                  head_width=width)  # fmt: skip
    return MAR(sizes, DCMix(width, tokens, BITS), tokens, CHANNELS, CLASSES)


def batch(images: int, tokens: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(images, tokens, CHANNELS, generator=rng),
        "q": torch.randint(2**BITS, (images, tokens), generator=rng),
        "m": mask_first(sample_orders(images, tokens, rng), tokens * 7 // 8),
        "c": torch.randint(CLASSES, (images,), generator=rng),
        "drop": torch.arange(images) % 10 == 0,
    }


def train(model: MAR, inputs: dict[str, Tensor]) -> None:
    model.train()(**inputs, rng=torch.Generator().manual_seed(0)).backward()


@torch.inference_mode()
def draw(model: MAR, inputs: dict[str, Tensor]) -> None:
    sample_latents(model.eval(), inputs["q"], inputs["c"], SAMPLER, torch.Generator().manual_seed(0))


def load(runs: int) -> None:
    """The demo with so many runs."""
    content = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text(encoding="utf-8"))
    name, first = next(iter(content["runs"].items()))
    kept = {key: value for key, value in content.items() if key not in ("report",)}
    study = parse_study({**kept, "runs": {f"{name}_{i}": {**first, "label": f"Run {i}"} for i in range(runs)}})
    digests = Digests(study)
    for run in study.runs:
        digests.train(run, study.runs[run].seeds[0])


if __name__ == "__main__":
    main()
