"""What a report reads of a finished study, small enough to be committed, and back again.

    python docs/scripts/study_results.py keep config/emoji.yaml docs/emoji-study
    python docs/scripts/study_results.py restore config/emoji.yaml docs/emoji-study

`keep` copies rows, sweeps, loss curves and a few images of each sheet to FOLDER/results, as far as they are there, and
the report's tables and figures to FOLDER. `restore` puts them back below the study's results folder, where nothing that
is there is replaced: `mixar report` and `snakemake` then take them as their own.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mixar.storage.files import write_table
from mixar.study.layout import Layout
from mixar.study.load import load_study
from mixar.study.names import KINDS, MASKBIT
from mixar.study.sections import Study
from mixar.training.metrics import FILE as METRICS

IMAGES = 64  # kept of each file, evenly spaced
SHOWN = (".md", ".png", ".parquet")  # of a report


def rows_of(study: Study, layout: Layout) -> list[Path]:
    """The files without images: rows, chosen scales, loss curves, metrics of the trainings, nearest images."""
    trained = [(name, seed) for name, run in study.runs.items() for seed in run.seeds if not run.weights]
    paths = [*layout.row_files(), *(layout.chosen_cfg(*names) for names in study.sweeps)]
    paths += [layout.losses(*names) for names in trained] + [layout.watch(*names) / METRICS for names in trained]
    return paths + ([layout.nearest(*names) for names in study.drawings] if study.scoring.copies else [])


def images_of(study: Study, layout: Layout) -> list[Path]:
    """The files that the report's sheets are cut from."""
    samples = [path for run in (MASKBIT, *study.runs) for path in layout.shown_samples(run)]
    return samples + [layout.reconstruction(kind, i) for kind in KINDS for i in range(study.data.num_shards)]


def keep(study: Study, folder: Path) -> list[Path]:
    """Copy what is there; the paths that are missing."""
    layout, missing = Layout(study), []
    for paths, copy in ((rows_of(study, layout), shutil.copyfile), (images_of(study, layout), thin)):
        for path in paths:
            target = folder / "results" / path.relative_to(layout.root)
            if not path.is_file():
                missing.append(path)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            copy(path, target)
    for name, path in layout.report_files().items():
        if path.suffix in SHOWN and path.is_file():
            shutil.copyfile(path, folder / name)
    return missing


def thin(source: Path, target: Path) -> None:
    """A copy with IMAGES rows, evenly spaced."""
    table = pq.read_table(source)
    chosen = np.unique(np.linspace(0, len(table) - 1, min(IMAGES, len(table))).round().astype(int))
    write_table(target, table.take(chosen))


def restore(study: Study, folder: Path) -> list[Path]:
    """Put back what is not there; the paths written."""
    written, kept = [], folder / "results"
    for source in sorted(path for path in kept.rglob("*") if path.is_file()):
        target = Layout(study).root / source.relative_to(kept)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            written.append(target)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("keep", "restore"))
    parser.add_argument("study", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    study = load_study(given.study)
    if given.verb == "restore":
        print(f"{len(restore(study, given.folder))} files put back below {Layout(study).root}")
        return
    missing = keep(study, given.folder)
    print(f"kept in {given.folder}; not there yet: {len(missing)} files", *missing[:5], sep="\n  ")


if __name__ == "__main__":
    main()
