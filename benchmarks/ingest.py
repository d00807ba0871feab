"""`mixar ingest` on many images: minutes, CPU time and peak memory.

    python benchmarks/ingest.py [--images 128116 1281167] [--source webdataset parquet folder] [--pixels 32]

Writes tiny JPEGs (1,000 different ones, each with its number in a comment, so that no two files are equal), and runs
the verb on them in a process of its own. Rows join those that the output file has. Times of fewer images than ImageNet
has are printed extrapolated to it, too; the file holds only what was measured. --unreadable makes so many of the images
unreadable and lets the verb leave them out. Decoding ImageNet's images costs what `decoding_ms` of the result says on
top, and reading its 140 GB.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image
from token_store import machine

from mixar.storage.files import write_text

ROOT = Path(__file__).parent.parent
CLASSES, IN_A_FILE, KINDS = 1000, 10_000, 1000
IMAGENET = 1_281_167
HELD_OUT_RATE = 0.04


def jpegs(pixels: int) -> list[bytes]:
    """Small images of noise that is smooth, so that they compress as photographs do."""
    rng, found = np.random.default_rng(0), []
    for _ in range(KINDS):
        buffer = io.BytesIO()
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((pixels, pixels), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=75)
        found.append(buffer.getvalue())
    return found


def numbered(jpeg: bytes, number: int) -> bytes:
    """A JPEG with a comment that holds a number."""
    return jpeg[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + jpeg[2:]


def encoded(images: int, pixels: int, unreadable: int) -> Iterator[tuple[int, int, bytes]]:
    """Number, class and bytes of each image; every class has images next to each other, as in a folder."""
    kinds, every = jpegs(pixels), images // unreadable if unreadable else 0
    for number in range(images):
        content = numbered(kinds[number % KINDS], number)
        yield number, number * CLASSES // images, content[:40] if every and number % every == every - 1 else content


def write_webdataset(folder: Path, rows: Iterator[tuple[int, int, bytes]]) -> None:
    """Tars of 10,000 samples, an image and its class each."""
    for file, part in groupby(rows, lambda row: row[0] // IN_A_FILE):
        with tarfile.TarFile(folder / f"{file:05d}.tar", "w") as archive:
            for number, label, content in part:
                for suffix, body in (("jpg", content), ("cls", str(label).encode())):
                    entry = tarfile.TarInfo(f"{number:08d}.{suffix}")
                    entry.size = len(body)
                    archive.addfile(entry, io.BytesIO(body))


def write_parquet(folder: Path, rows: Iterator[tuple[int, int, bytes]]) -> None:
    """Files of 10,000 rows as the `datasets` library writes them, in row groups of 100."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for file, part in groupby(rows, lambda row: row[0] // IN_A_FILE):
        numbers, labels, contents = zip(*part, strict=True)
        found = [{"bytes": c, "path": f"{n:08d}.jpg"} for n, c in zip(numbers, contents, strict=True)]
        columns = [pa.array(found, image), pa.array(labels, pa.int64())]
        pq.write_table(pa.table(columns, names=["image", "label"]), folder / f"train-{file:05d}.parquet", 100)


def write_folder(folder: Path, rows: Iterator[tuple[int, int, bytes]]) -> None:
    """A folder a class, a file an image: as many inodes as images."""
    for number, label, content in rows:
        place = folder / f"n{label:08d}"
        place.mkdir(exist_ok=True)
        (place / f"{number:08d}.JPEG").write_bytes(content)


WRITERS: dict[str, Callable] = {"webdataset": write_webdataset, "parquet": write_parquet, "folder": write_folder}


def ingested(source: str, images: Path, folder: Path, pixels: int, unreadable: int) -> dict[str, float]:
    """Run `mixar ingest` on a folder of images; what it took. Raises RuntimeError with its output if it fails."""
    study = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text(encoding="utf-8"))
    study["data"] = {"source": source, "path": str(images), "held_out_rate": HELD_OUT_RATE, "image_size": 32}
    study["data"] |= {"num_classes": CLASSES, "num_shards": 2, "skip_unreadable": unreadable > 0}
    study["hardware"]["results"] = str(folder)
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    start = time.perf_counter()
    command = [sys.executable, "-m", "mixar", "ingest", "--study", str(file)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode, wall = os.waitstatus_to_exitcode(status), time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(output)
    manifest = next(folder.glob("**/manifest.parquet"))
    return {
        "wall_s": round(wall, 1),
        "user_s": round(used.ru_utime, 1),
        "system_s": round(used.ru_stime, 1),
        "peak_gib": round(used.ru_maxrss / 2**20, 2),
        "progress_lines": output.count("images/s"),
        "manifest_mb": round(manifest.stat().st_size / 1e6, 1),
        "rows": pq.read_metadata(manifest).num_rows,
    }


def said(found: dict[str, float]) -> str:
    """What was measured, in words; for fewer images than ImageNet's, what as many would take if all grew linearly."""
    cpu = found["user_s"] + found["system_s"]
    text = f"measured: {found['rows']:,} images, {found['wall_s']} s, {cpu:.1f} CPU-s, {found['peak_gib']} GiB at most"
    if found["rows"] >= IMAGENET:
        return text
    factor = IMAGENET / found["rows"] / 60
    return f"{text}; extrapolated: {IMAGENET:,} images, {factor * found['wall_s']:.0f} min, {factor * cpu:.0f} CPU-min"


def decoding_ms(rounds: int = 5) -> float:
    """CPU time to decode a JPEG of ImageNet's usual size, 500 x 375."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
    coarse.resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=95)
    times = []
    for _ in range(rounds):
        start = time.process_time()
        Image.open(io.BytesIO(buffer.getvalue())).load()
        times.append(1e3 * (time.process_time() - start))
    return round(min(times), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[IMAGENET // 10, IMAGENET])
    parser.add_argument("--source", nargs="+", default=["webdataset", "parquet"], choices=sorted(WRITERS))
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--unreadable", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where images are written, stay and are used again")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "ingest.json")
    arguments = parser.parse_args()
    result = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.exists() else {"sources": {}}
    result |= {"machine": machine(), "decoding_ms": decoding_ms()}
    for source in arguments.source:
        rows = result["sources"].setdefault(source, {})
        for images in arguments.images:
            with tempfile.TemporaryDirectory() as temporary:
                folder = (arguments.folder or Path(temporary)) / f"{source}-{images}"
                start = time.perf_counter()
                if not folder.exists():
                    folder.mkdir(parents=True)
                    WRITERS[source](folder, encoded(images, arguments.pixels, arguments.unreadable))
                print(f"{source}: wrote {images:,} images in {time.perf_counter() - start:.0f} s", flush=True)
                load = round(os.getloadavg()[0], 1)
                found = ingested(source, folder, Path(temporary), arguments.pixels, arguments.unreadable)
            rows[str(images)] = found | {
                "unreadable": arguments.unreadable,
                "load_before": load,
                "cpu": result["machine"]["cpu"],
            }
            print(said(found), flush=True)
            write_text(arguments.output, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
