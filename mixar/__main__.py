"""The verbs: `python -m mixar VERB --study FILE`, one for each stage, called by the workflow and by hand.

Every verb loads the study, calls one function of `mixar.stages`, and prints what a user can mend as one message.
Stages are imported where they are called, after what can be checked without them: importing torch takes seconds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mixar.layout import Layout
from mixar.spec import Study, load_study

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="MixAR: masked autoregressive image generation guided by discrete tokens, stage by stage.",
)

StudyFile = Annotated[Path, typer.Option("--study", help="Study file, YAML or JSON.", show_default=False)]
Kind = Annotated[str, typer.Option("--kind", help="Tokenizer: continuous or discrete.", show_default=False)]
Shard = Annotated[int, typer.Option("--shard", min=0, help="Which part of the work, from 0.", show_default=False)]
RunName = Annotated[str, typer.Option("--run", help="A run of the study.", show_default=False)]
Seed = Annotated[int, typer.Option("--seed", help="One of the run's seeds.", show_default=False)]
SamplerName = Annotated[str, typer.Option("--sampler", help="A sampler of the study.", show_default=False)]


def load(path: Path) -> tuple[Study, Layout]:
    """The study and where its files lie. Raises SpecError."""
    study = load_study(path)
    return study, Layout(study)


@app.command()
def ingest(study: StudyFile) -> None:
    """Index the images into one Parquet manifest."""
    loaded = load(study)
    from mixar.stages import tokens

    tokens.ingest(*loaded)


@app.command()
def tokenizer(study: StudyFile, kind: Kind) -> None:
    """Import the weights of a tokenizer, or train a small one where the study says so."""
    loaded, layout = load(study)
    _kind(kind)
    from mixar.stages import pretrain

    pretrain.tokenizer(loaded, layout, kind)


@app.command()
def tokenize(study: StudyFile, shard: Shard) -> None:
    """Encode images and mirrored images to continuous latents and discrete tokens."""
    loaded = load(study)
    from mixar.stages import tokens

    tokens.tokenize(*loaded, shard)


@app.command()
def generator(study: StudyFile) -> None:
    """Import the weights of MaskBit's generator, or train a small one where the study says so."""
    loaded = load(study)
    from mixar.stages import pretrain

    pretrain.generator(*loaded)


@app.command()
def extractor(study: StudyFile) -> None:
    """Import the weights of the feature network behind the scores, or train a small one."""
    loaded = load(study)
    from mixar.stages import pretrain

    pretrain.extractor(*loaded)


@app.command()
def generate(study: StudyFile, shard: Shard) -> None:
    """Draw the discrete tokens of the evaluation labels, once for every run."""
    loaded = load(study)
    from mixar.stages import tokens

    tokens.generate(*loaded, shard)


@app.command()
def train(study: StudyFile, run: RunName, seed: Seed = 0) -> None:
    """Train one run; continue from its checkpoint where there is one."""
    loaded, layout = load(study)
    _run(loaded, run)
    from mixar.stages import train as stage

    stage.train(loaded, layout, run, seed)


@app.command()
def sample(study: StudyFile, run: RunName, shard: Shard, seed: Seed = 0, sampler: SamplerName = "default") -> None:
    """Draw one shard of the evaluation images. Run 'maskbit' decodes the generated tokens themselves."""
    loaded = load(study)
    from mixar.stages import sample as stage

    stage.sample(*loaded, run, seed, sampler, shard)


@app.command()
def reconstruct(study: StudyFile, kind: Kind, shard: Shard) -> None:
    """Encode and decode one shard of the held-out images."""
    loaded, layout = load(study)
    _kind(kind)
    from mixar.stages import tokens

    tokens.reconstruct(loaded, layout, kind, shard)


@app.command()
def score(
    study: StudyFile,
    images: Annotated[Path | None, typer.Option(help="Extract the features of this Parquet file of images.")] = None,
    reference: Annotated[str | None, typer.Option(help="Extract the features of a split: train or held_out.")] = None,
    run: Annotated[str | None, typer.Option(help="Score the samples of this run, or of 'maskbit'.")] = None,
    kind: Annotated[str | None, typer.Option(help="Score the reconstructions of this tokenizer.")] = None,
    seed: Seed = 0,
    sampler: SamplerName = "default",
) -> None:
    """Extract features (--images, --reference), or turn them into scores (--run, --kind). Give one of the four."""
    choices = {"images": images, "reference": reference, "run": run, "kind": kind}
    given = [name for name, value in choices.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(f"--{name}" for name in given) or "none of them"
        raise ValueError(f"score: give one of --images, --reference, --run, --kind; found {found}")
    loaded, layout = load(study)
    if kind is not None:
        _kind(kind)
    from mixar.stages import score as stage

    if images is not None:
        stage.score_features(loaded, layout, images)
    elif reference is not None:
        stage.reference_features(loaded, layout, reference)
    elif run is not None:
        stage.score(loaded, layout, "sample", run, seed, sampler)
    else:
        stage.score(loaded, layout, "reconstruct", kind)


@app.command()
def measure(study: StudyFile, run: RunName) -> None:
    """Count parameters, FLOPs and tokens of a run; time it here."""
    loaded, layout = load(study)
    _run(loaded, run)
    from mixar.stages import measure as stage

    stage.measure(loaded, layout, run)


@app.command()
def report(study: StudyFile) -> None:
    """Join every result into the paper's tables and figures, and one HTML page."""
    loaded = load(study)
    from mixar.stages import report as stage

    stage.report(*loaded)


@app.command()
def assets(study: Annotated[Path | None, typer.Option("--study", help="Mark what this study needs.")] = None) -> None:
    """List the external files, where each is looked for and whether it is there."""
    from mixar import assets as files

    needed = set(files.references(load_study(study)).values()) if study else set()
    table = Table("asset", "needed", "there", "what", "size", "licence", "source", "looked for at")
    for asset in files.ASSETS.values():
        size = f"{asset.num_bytes / 2**20:,.0f} MiB" if asset.num_bytes else ""
        row = (asset.name, "yes" if files.PREFIX + asset.name in needed else "", "yes" if asset.is_there else "no")
        table.add_row(*row, asset.what, size, asset.licence, asset.source, str(asset.path))
    for value in sorted(v for v in needed if not v.startswith(files.PREFIX)):
        there = "yes" if files.locate(value).exists() else "no"
        table.add_row(value, "yes", there, "named by the study", "", "", "", value)
    Console(width=None if sys.stdout.isatty() else 240).print(table)


@app.command()
def check(study: StudyFile) -> None:
    """Validate a study and say what it holds and what it misses."""
    from mixar import assets as files

    loaded, layout = load(study)
    trained = sum(len(run.seeds) for run in loaded.runs.values())
    print(f"{loaded.study}: valid. {loaded.title}")
    size = f"{loaded.grid} x {loaded.grid} tokens, {len(loaded.runs)} runs, {trained} trainings"
    print(f"  {size}, results in {layout.root}")
    for key, value in files.missing(loaded).items():
        print(f"  missing: {key} = {value}, expected at {files.locate(value)}")


@app.command()
def publish(study: StudyFile, to: Annotated[Path, typer.Option("--to", help="Folder of the copies.")]) -> None:
    """Copy the networks and runs that a study trained into a folder, as float16."""
    loaded = load(study)
    from mixar.stages import pretrain

    for path in pretrain.publish(*loaded, to):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def _kind(name: str) -> None:
    if name not in ("continuous", "discrete"):
        raise ValueError(f"--kind: {name!r} is unknown; choose from continuous, discrete")


def _run(study: Study, name: str) -> None:
    if name not in study.runs:
        raise ValueError(f"--run: {name!r} is unknown; choose from {', '.join(study.runs)}")


def main() -> None:
    """Run a verb. What a user can mend ends in one message and exit code 2; MIXAR_DEBUG=1 shows the traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("MIXAR_DEBUG") == "1":
            raise
        sys.stderr.write(f"mixar: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
