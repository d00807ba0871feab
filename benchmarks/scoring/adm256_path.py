"""The whole `adm256-gfid` path from the command line: 200 images, random weights in the layout of Inception's file.

    python benchmarks/scoring/adm256_path.py [--images 200]

Images of four colours and random Inception weights stand for ImageNet and the released file, and a statistics file of
random features for ADM's. What is shown is that every step runs, what it costs, that the rows say how they differ from
the protocol, and that a file under the released name must be the released one. Writes adm256_path.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml
from PIL import Image

from mixar.data.images import write_images
from mixar.scoring.statistics import save_statistics
from mixar.storage.files import write_text
from mixar.study.layout import Layout
from mixar.study.load import load_study

ROOT = Path(__file__).parents[2]
SIZE, CLASSES, REFERENCE = 256, 4, 24


def picture(rng: np.random.Generator, label: int) -> np.ndarray:
    """Uneven stripes in the class's colour, uint8 [256, 256, 3]."""
    waves = np.sin(np.linspace(0, rng.uniform(5, 60), SIZE))[:, None, None] * rng.uniform(20, 90)
    colour = np.full(3, 90.0)
    colour[label % 3] = 60 * label
    return (colour + waves + rng.normal(0, 8, (SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8)


def stage_files(folder: Path, images: int) -> Path:
    """Data, weights, statistics and the study; returns the study's file."""
    rng = np.random.default_rng(0)
    for i in range(REFERENCE):
        place = folder / "data" / f"class{i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(rng, i % CLASSES)).save(place / f"{i}.png")
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from inception_file import write_random_inception

    write_random_inception(folder / "random.pth")
    basis = rng.standard_normal((2048, 64)) * 0.1
    sigma = basis @ basis.T + 0.01 * np.eye(2048)
    save_statistics(folder / "assets" / "adm_in256_stats.npz", {"mu": np.full(2048, 0.4), "sigma": sigma})
    study = yaml.safe_load((ROOT / "config" / "imagenet256.yaml").read_text(encoding="utf-8"))
    study |= {"study": "adm_path", "hardware": {"device": "cpu", "results": str(folder / "results")}}
    study["data"] = {"source": "folder", "path": str(folder / "data"), "image_size": SIZE, "num_classes": CLASSES,
                     "held_out_rate": 0.5}  # fmt: skip
    study["evaluation"] |= {"num_images": images, "shard_size": images // 2}
    study["scoring"] |= {"extractor": {"network": "inception-v3", "weights": str(folder / "random.pth")},
                         "kid_subsets": 5, "kid_subset_size": 8, "jackknife_groups": 5}  # fmt: skip
    write_text(folder / "study.yaml", yaml.safe_dump(study))
    return folder / "study.yaml"


def draw(layout: Layout, images: int) -> list[Path]:
    """Images as `sample` would leave them, of the study's first run, in two shards."""
    rng, paths, half = np.random.default_rng(1), [], images // 2
    for shard in range(2):
        rows = np.arange(shard * half, (shard + 1) * half)
        paths.append(layout.samples("control_l", 0, "default", shard))
        write_images(paths[-1], rows, rows % CLASSES, np.stack([picture(rng, i % CLASSES) for i in rows]))
    return paths


def call(folder: Path, *arguments: str, fails: bool = False) -> tuple[str, float]:
    """Run one command of mixar; returns what it said and its wall seconds."""
    environment = {**os.environ, "MIXAR_ASSETS": str(folder / "assets"), "COLUMNS": "120"}
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-m", "mixar", *arguments], cwd=ROOT, env=environment, encoding="utf-8",
                         capture_output=True)  # fmt: skip
    if (run.returncode != 0) != fails:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {run.returncode}\n{run.stderr}")
    return (run.stderr if fails else run.stdout).strip(), time.perf_counter() - start


def run_path(folder: Path, images: int) -> list[str]:
    """Every command in turn; returns the lines of the record."""
    file = stage_files(folder, images)
    layout = Layout(load_study(file))
    study = ("--study", str(file))
    steps = [("ingest",), ("extractor",)]
    steps += [("score", "--reference", split) for split in ("train", "held_out")]
    drawn = draw(layout, images)
    steps += [("score", "--images", str(path)) for path in drawn]
    steps += [("score", "--run", "control_l", "--seed", "0")]
    lines = ["| command | wall s |", "|---|---:|"]
    for verb, *rest in steps:
        said, seconds = call(folder, verb, *study, *rest)
        shown = [Path(word).name if "/" in word else word for word in rest]
        lines.append(f"| `mixar {' '.join([verb, *shown])}` | {seconds:.1f} |")
        print(lines[-1], flush=True)
    rows = pq.read_table(layout.scores("sample", "control_l", 0, "default")).to_pylist()
    lines += [
        "",
        "What the last one said:",
        "",
        "```",
        said,
        "```",
        "",
        f"Protocol of its rows: `{rows[0]['protocol']}`.",
    ]
    imposter = folder / "weights-inception-2015-12-05-6726825d.pth"
    (folder / "random.pth").rename(imposter)
    file.write_text(file.read_text(encoding="utf-8").replace("random.pth", imposter.name), encoding="utf-8")
    said, _ = call(folder, "extractor", "--study", str(file), fails=True)
    return [
        *lines,
        "",
        "The same weights under the released file's name:",
        "",
        "```",
        said.replace(str(folder), ""),
        "```",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        lines = run_path(Path(name), given.images)
    head = f"# adm256-gfid with {given.images} images and random weights\n\nCPU, a machine shared with other work.\n\n"
    write_text(given.out / "adm256_path.md", head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
