"""The verbs: `python -m mixar VERB --study FILE`, one for each stage, called by the workflow and by hand.

Every verb loads the study, calls one function of `mixar.stages`, and prints what a user can mend as one message.
Stages are imported where they are called, after what can be checked without them: importing torch takes seconds.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from mixar.assets.shipped import CONFIG, study_file
from mixar.process.failures import MORE, is_shortage
from mixar.storage.files import print_anything
from mixar.storage.listing import counted
from mixar.study import external
from mixar.study.layout import Layout
from mixar.study.load import load_study
from mixar.study.names import KINDS
from mixar.study.sections import Study
from mixar.study.strict_yaml import load_yaml

if TYPE_CHECKING:
    from mixar.stages.plan import Plan

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="MixAR: masked autoregressive image generation guided by discrete tokens, stage by stage.",
)

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # of a disk, a quota, a file, or a device
LAYERS = "Study file (YAML or JSON), or the name of a committed one (smoke); later files override earlier ones."
StudyFiles = Annotated[list[Path], typer.Option("--study", help=LAYERS, show_default=False)]
MaybeStudyFiles = Annotated[list[Path] | None, typer.Option("--study", help=LAYERS, show_default=False)]
Kind = Annotated[str, typer.Option("--kind", help="Tokenizer: continuous or discrete.", show_default=False)]
Shard = Annotated[int, typer.Option("--shard", min=0, help="Shard to work on, from 0.", show_default=False)]
ShardOrAll = Annotated[int | None, typer.Option("--shard", min=0, help="Which part of the work; default: all.")]
RunName = Annotated[str, typer.Option("--run", help="A run of the study.", show_default=False)]
Seed = Annotated[int, typer.Option("--seed", help="One of the run's seeds.", show_default=False)]
WithFeatures = Annotated[bool, typer.Option("--with-features", help="Extract the images' features, too.")]
IsSweep = Annotated[bool, typer.Option("--sweep", help="The run's guidance sweep.")]
SamplerName = Annotated[str, typer.Option("--sampler", help="A sampler of the study.", show_default=False)]

STUDIES = {  # by scoring.protocol
    "adm256-gfid": CONFIG / "imagenet256.yaml",
    "drawings-gfd": CONFIG / "emoji.yaml",
    "emoji-gfd": CONFIG / "demo.yaml",
}


def load(paths: list[Path]) -> tuple[Study, Layout]:
    """The study, merged from one or more files, and its layout. Raises SpecError."""
    study = load_study(*map(study_file, paths))
    return study, Layout(study)


@app.command()
def ingest(study: StudyFiles) -> None:
    """Index the images into one Parquet manifest."""
    loaded = load(study)
    from mixar.stages import ingest as stage

    stage.ingest(*loaded)


@app.command()
def tokenizer(study: StudyFiles, kind: Kind) -> None:
    """Import the weights of a tokenizer, or train a small one if the study says so."""
    loaded, layout = load(study)
    _kind(kind)
    from mixar.stages import tokenizer as stage

    stage.tokenizer(loaded, layout, kind)


@app.command()
def tokenize(study: StudyFiles, shard: Shard) -> None:
    """Encode images and mirrored images to continuous latents and discrete tokens."""
    loaded = load(study)
    from mixar.stages import tokenize as stage

    stage.tokenize(*loaded, shard)


@app.command()
def verify(study: StudyFiles) -> None:
    """Check every token shard: counts, hashes, ranges, labels against the manifest; list what to make again."""
    loaded = load(study)
    from mixar.stages import verify as stage

    images, faulty = stage.verify(*loaded)
    if faulty:
        files = " ".join(f"--study {shlex.quote(str(path))}" for path in study)
        commands = [f"  mixar tokenize {files} --shard {shard}" for shard in faulty]
        found = f"verify: {counted(len(faulty), 'shard')} of {loaded[0].data.num_shards} with faults; make anew:"
        raise ValueError("\n".join([found, *commands]))
    print(f"verify: {counted(images, 'image')} in {counted(loaded[0].data.num_shards, 'shard')}, no fault")


@app.command()
def generator(study: StudyFiles) -> None:
    """Import the weights of MaskBit's generator, or train a small one if the study says so."""
    loaded = load(study)
    from mixar.stages import generator as stage

    stage.generator(*loaded)


@app.command()
def extractor(study: StudyFiles) -> None:
    """Import the weights of the feature network behind the scores, or train a small one."""
    loaded = load(study)
    from mixar.stages import extractor as stage

    stage.extractor(*loaded)


@app.command()
def generate(
    study: StudyFiles,
    shard: Shard,
    sweep: Annotated[
        int | None, typer.Option("--sweep", help="For the sweeps of so many images.", show_default=False)
    ] = None,
) -> None:
    """Draw the discrete tokens of the evaluation labels, or of sweeps, once for every run."""
    loaded = load(study)
    from mixar.stages import generate as stage

    if sweep is None:
        stage.generate(*loaded, shard)
    else:
        stage.generate_for_sweep(*loaded, sweep, shard)


@app.command()
def train(study: StudyFiles, run: RunName, seed: Seed = 0) -> None:
    """Train one run; resume from its checkpoint if there is one."""
    loaded, layout = load(study)
    _one_of_names(run, loaded.networks)
    from mixar.stages import train as stage

    stage.train(loaded, layout, run, seed)


@app.command()
def watch(
    study: Annotated[list[Path], typer.Argument(help=LAYERS, show_default=False)],
    once: Annotated[bool, typer.Option("--once", help="Print once and end.")] = False,
    seconds: Annotated[float, typer.Option(min=0.2, help="Between two looks at the files.")] = 5.0,
) -> None:
    """Show every training: state, epoch, loss, images/s, time left, node, restarts. Reads files only."""
    loaded = load(study)
    from mixar.stages import watch as stage

    stage.watch(*loaded, once, seconds)


@app.command()
def resume(
    run: Annotated[str, typer.Argument(help="A run of the study that was stopped.", show_default=False)],
    study: StudyFiles,
    settings: Annotated[
        list[str],
        typer.Option("--set", help="What changes: training.learning_rate=5.0e-5.", show_default=False),
    ],
    seed: Seed = 0,
    later: Annotated[bool, typer.Option("--later", help="Record it only; the next snakemake trains.")] = False,
) -> None:
    """Continue a stopped training from its last checkpoint under changed settings, which every table marks."""
    loaded, layout = load(study)
    _one_of_names(run, loaded.runs)
    values = _settings(settings)
    processes = loaded.hardware_of(run).processes
    from mixar.stages import resume as stage

    change = stage.resume(loaded, layout, run, seed, values)
    print(f"{run} seed {seed}: {change.in_words()} (step {change.step}), recorded", flush=True)
    if later or processes > 1:
        print("Continue it with the snakemake command that ran it")
        return
    from mixar.stages import train as training

    training.train(loaded, layout, run, seed)


@app.command()
def sample(
    study: StudyFiles,
    run: RunName,
    shard: ShardOrAll = None,
    seed: Seed = 0,
    sampler: SamplerName = "default",
    with_features: WithFeatures = False,
    sweep: IsSweep = False,
) -> None:
    """Draw the evaluation images, or one shard of them. Run 'maskbit' decodes the generated tokens themselves.

    With --sweep: draw the images of a guidance sweep at every scale, and keep their features alone.
    """
    loaded, layout = load(study)
    from mixar.stages import sample as stage

    if sweep:
        if shard is None:
            raise ValueError("--shard: a sweep is drawn shard by shard; give one")
        stage.sample_sweep(loaded, layout, run, sampler, shard)
        return
    then = _then_features(with_features, loaded, layout)
    for each in range(loaded.evaluation.num_shards) if shard is None else [shard]:
        stage.sample(loaded, layout, run, seed, sampler, each, *then)


@app.command()
def reconstruct(
    study: StudyFiles,
    kind: Kind,
    shard: ShardOrAll = None,
    with_features: WithFeatures = False,
) -> None:
    """Encode and decode the held-out images."""
    loaded, layout = load(study)
    _kind(kind)
    from mixar.stages import reconstruct as stage

    stage.reconstruct(loaded, layout, kind, shard, *_then_features(with_features, loaded, layout))


def _then_features(wanted: bool, study: Study, layout: Layout) -> list[Callable[..., None]]:
    """What a stage that draws images is to do with each file of them."""
    if not wanted:
        return []
    from mixar.stages import features as stage

    return [stage.extraction(study, layout)]


@app.command()
def features(
    study: StudyFiles,
    images: Annotated[Path | None, typer.Option(help="Parquet file of images.", show_default=False)] = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(help="Reference images: train, held_out or reconstructed; may be repeated.", show_default=False),
    ] = None,
) -> None:
    """Extract the features of a file of images, or of the reference images. Those that are there and fit are kept."""
    _one_of("features", {"--images": images, "--reference": reference or None})
    loaded, layout = load(study)
    from mixar.stages import features as stage

    if images is not None:
        stage.image_features(loaded, layout, images)
    for split in reference or []:
        stage.reference_features(loaded, layout, split)


@app.command()
def score(
    study: StudyFiles,
    run: Annotated[str | None, typer.Option(help="A run of the study, or 'maskbit'.", show_default=False)] = None,
    seed: Seed = 0,
    sampler: SamplerName = "default",
    kind: Annotated[str | None, typer.Option(help="Tokenizer: continuous or discrete.", show_default=False)] = None,
    sweep: IsSweep = False,
) -> None:
    """Score the samples of a run (--run), or the reconstructions of a tokenizer (--kind), from their features.

    With --sweep: score a run's guidance sweep, and record the scale with the smallest distance.
    """
    _one_of("score", {"--run": run, "--kind": kind})
    if sweep and kind is not None:
        raise ValueError("score: reconstructions have no guidance scale; give --sweep with --run")
    loaded, layout = load(study)
    if kind is not None:
        _kind(kind)
    from mixar.stages import score as stage

    if run is not None and sweep:
        stage.score_sweep(loaded, layout, run, sampler)
    elif run is not None:
        stage.score_samples(loaded, layout, run, seed, sampler)
    else:
        stage.score_reconstructions(loaded, layout, kind)


@app.command()
def score_images(
    path: Annotated[Path, typer.Argument(help="Images to score: a folder, .npz or Parquet.")],
    study: MaybeStudyFiles = None,
    protocol: Annotated[str | None, typer.Option(help="Protocol, such as adm256-gfid; default: the study's.")] = None,
    label: Annotated[str | None, typer.Option(help="The row's name in Table 1.", show_default=False)] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the images that have this label now.")] = False,
) -> None:
    """Score images of any generator under a study's protocol, as a row of its Table 1."""
    loaded, layout = load(study or _study_of(protocol))
    if not (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        raise ValueError(f"{path}: no images found; give a folder, .npz or .parquet file of images")
    from mixar.stages import score_images as stage

    stage.score_images(loaded, layout, path, label, protocol, replace)


def _study_of(protocol: str | None) -> list[Path]:
    """The study that this project has for a protocol. Raises ValueError where it has none."""
    if protocol not in STUDIES:
        known = ", ".join(STUDIES)
        raise ValueError(f"score-images: give --study, or --protocol with one of {known}; found {protocol}")
    return [STUDIES[protocol]]


@app.command()
def measure(
    study: MaybeStudyFiles = None,
    run: Annotated[str | None, typer.Option("--run", help="A run of the study.", show_default=False)] = None,
    params: Annotated[bool, typer.Option("--params", help="Count the paper's and the released models.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Instead of measuring, write a profiler trace of one training step and one sampled batch (in few "
            "iterations) to this file, .json or .json.gz, for Perfetto or chrome://tracing.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Count parameters, FLOPs and tokens of a run, and time it here. With --params: count the paper's models."""
    if params and (study or run or trace):
        raise ValueError("measure: --params counts the paper's models and takes no --study, --run or --trace")
    if trace and not trace.name.endswith((".json", ".json.gz")):
        raise ValueError(f"measure: --trace {trace}: the file's name must end in .json or .json.gz")
    if params:
        _print_parameters()
        return
    if not study or run is None:
        raise ValueError("measure: give --study and --run, or --params alone")
    loaded, layout = load(study)
    _one_of_names(run, loaded.runs)
    from mixar.stages import measure as stage

    if trace:
        stage.trace(loaded, run, trace)
        print(f"{trace}: open it in https://ui.perfetto.dev or chrome://tracing")
    else:
        stage.measure(loaded, layout, run)


def _print_parameters() -> None:
    """A table that fits into 80 columns, and below it where each number is printed and why it differs."""
    from mixar.stages import parameters

    table = Table("model", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("parameters", "without\nguidance", "guidance's\nown", "the paper\nprints", "difference"):
        table.add_column(name, justify="right", no_wrap=True)
    counts = parameters.count_all()
    for c in counts:
        own = ("", "") if c.guidance is None else (f"{c.total - c.guidance:,}", f"{c.guidance:,}")
        table.add_row(c.model, f"{c.total:,}", *own, c.printed, f"{c.difference:+,}" if c.printed else "")
    Console(width=80).print(table)
    print()
    for c in counts:
        print(f"{c.model}{f' ({c.where})' if c.where else ''}: {c.why}")


@app.command()
def report(study: StudyFiles) -> None:
    """Join every result into the paper's tables and figures, and one HTML page."""
    loaded = load(study)
    from mixar.stages import report as stage

    stage.report(*loaded)


asset_app = typer.Typer(invoke_without_command=True)
app.add_typer(asset_app, name="assets")
AssetNames = Annotated[list[str] | None, typer.Argument(help="Names of assets.", show_default=False)]


@asset_app.callback()
def assets(
    context: typer.Context,
    study: Annotated[list[Path] | None, typer.Option("--study", help="Mark what this study needs.")] = None,
) -> None:
    """List the external files and their state; show, check and fetch them."""
    if context.invoked_subcommand is None:
        from mixar.stages import assets as stage

        stage.list_all(load_study(*study) if study else None)


@asset_app.command("show")
def assets_show(names: AssetNames = None) -> None:
    """Print licence, source, size, hash, path and download command of these assets, or of all."""
    from mixar.stages import assets as stage

    stage.show(names or [])


@asset_app.command("check")
def assets_check(names: AssetNames = None) -> None:
    """Compute and compare the hashes of these assets, or of all that are there."""
    from mixar.stages import assets as stage

    stage.check(names or [])


@asset_app.command("get")
def assets_get(
    names: AssetNames = None,
    study: Annotated[
        list[Path] | None, typer.Option("--study", help="Fetch every asset that this study lacks.")
    ] = None,
) -> None:
    """Download assets, and verify their size and hash."""
    from mixar.stages import assets as stage

    stage.get(names or [], load_study(*study) if study else None)


@app.command()
def check(
    study: StudyFiles,
    elsewhere: Annotated[
        bool, typer.Option("--elsewhere", help="Jobs run on other machines: need no GPU here.")
    ] = False,
    files_later: Annotated[bool, typer.Option("--files-later", help="Allow missing files.")] = False,
) -> None:
    """Validate a study, its networks and its files; print its size and what is missing."""
    loaded, layout = load(study)
    from mixar.stages import check as stage

    missing = external.missing_in_words(external.missing(loaded))
    warnings: list[str] = []
    if found := stage.problems(loaded, elsewhere, warnings.append) + ([] if files_later else missing):
        raise ValueError("\n".join([f"{loaded.study} cannot run:", *(f"  {problem}" for problem in found)]))
    trained = sum(len(run.seeds) for run in loaded.runs.values())
    print(f"{loaded.study}: valid. {loaded.title}")
    size = f"{loaded.grid} x {loaded.grid} tokens, {len(loaded.runs)} runs, {trained} trainings"
    print(f"  {size}, results in {layout.root}")
    print(f"  relative paths begin at {Path.cwd()}")
    for line in [*(f"warning: {warning}" for warning in warnings), *missing]:
        print(f"  {line}")


@app.command()
def plan(
    study: StudyFiles,
    only: Annotated[
        str | None, typer.Option("--only", help="A table or figure alone, such as figure7.", show_default=False)
    ] = None,
    totals: Annotated[bool, typer.Option("--totals", help="Print one line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    measures: Annotated[
        Path | None,
        typer.Option(
            help="Rates of your card, as benchmarks/gpu.sh wrote them; default: the file that MIXAR_MEASURES names.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Price a study before its first job: GPU-hours, time, memory, restarts and disk of every stage."""
    files = [study_file(path) for path in study]
    loaded, layout = load(study)
    from mixar.stages import plan as stage

    found = stage.plan(loaded, layout, only, files, measures)
    if as_json:
        print(json.dumps(found.as_mapping(), indent=2))
    elif totals:
        print(found.totals())
    else:
        _print_plan(found)


def _print_plan(found: Plan) -> None:
    """One row for each stage and run; below it totals, the critical path and what is assumed."""
    from mixar.stages.plan import time_of

    table = Table("stage", "of", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("jobs", "GPU", "GPU-h", "a job", "mem", "cuts", "disk"):
        table.add_column(name, justify="right", no_wrap=True)
    for w in found.work:
        price = [f"{w.gpu_hours:,.1f}" if w.gpus else "", time_of(w.hours)]
        memory = f"{w.memory_gib:.1f}" if w.memory_gib else "own" if w.gpus and w.is_own else "?" if w.gpus else ""
        restarts = str(w.restarts or "")
        disk = f"{w.disk_gib:,.1f}" if w.disk_gib >= 0.05 else ""
        table.add_row(w.stage, w.name, str(w.jobs), str(w.gpus or ""), *price, memory, restarts, disk)
    Console().print(table)
    print(f"\n{found.totals()}")
    print(f"Longest chain: {' → '.join(found.critical)}: {time_of(found.critical_hours)} without the queue.")
    legend = ["GPU, a job: of one job. mem, disk: GiB. cuts: restarts of a job under its time limit."]
    if any(w.gpus and w.is_own and not w.memory_gib for w in found.work):
        legend.append("own: with code of the study's own; its memory is not estimated.")
    if any(w.gpus and not w.is_own and not w.memory_gib for w in found.work):
        legend.append("?: memory is not estimated.")
    for line in [*found.notes, *legend]:
        print(line)
    if found.command:
        print(f"\nTo make only these rows:\n{found.command}")


@app.command()
def convert(
    kind: Annotated[str, typer.Argument(help="mar, maskbit-tokenizer, maskbit-generator, vavae or kl16.")],
    source: Annotated[Path, typer.Argument(help="Released file, or with --to-released one of ours.")],
    target: Annotated[Path, typer.Argument(help="File to write: .safetensors; with --to-released .pth.")],
    entry: Annotated[str | None, typer.Option(help="mar: model_ema (default) or model.", show_default=False)] = None,
    preset: Annotated[
        str | None, typer.Option(help="Preset with the sizes; default: the one that fits.", show_default=False)
    ] = None,
    dims: Annotated[
        list[str] | None,
        typer.Option("--set", help="A size that differs from the preset: key=value.", show_default=False),
    ] = None,
    to_released: Annotated[bool, typer.Option("--to-released", help="mar: write MAR's own layout.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace TARGET if it exists.")] = False,
) -> None:
    """Convert a released weights file to mixar's layout, or back (--to-released); checked strictly."""
    sizes = _settings(dims or [])
    from mixar.stages import convert as stage

    if to_released and kind != "mar":
        raise ValueError(f"--to-released: only for mar, found {kind!r}")
    if to_released and entry:
        raise ValueError("--entry: selects a part of a released file; leave it out with --to-released")
    if to_released:
        loaded = stage.to_released(source, target, preset, sizes, force)
    else:
        loaded = stage.convert(kind, source, target, entry, preset, sizes, force)
    parameters = sum(p.numel() for p in loaded.network.parameters())
    taken = f", from {loaded.state.entry}" if loaded.state.entry else ""
    print(f"{target}: {kind}, {loaded.preset or 'sizes of its own'}, {parameters:,} parameters{taken}")
    if left_out := loaded.state.left_out:
        print(f"  left out: {stage.some(left_out)}")


def _settings(pairs: list[str]) -> dict[str, object]:
    """Pairs key=value as a mapping, values read as YAML. Raises ValueError."""
    found = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"--set {pair}: expected key=value")
        if key in found:
            raise ValueError(f"--set {key}: given twice; keep one")
        found[key] = load_yaml(value, f"--set {pair}")
    return found


@app.command()
def export(
    study: StudyFiles,
    run: RunName,
    seed: Seed,
    sampler: SamplerName,
    to: Annotated[Path, typer.Option("--to", help="The .npz file to write.", show_default=False)],
) -> None:
    """Write a run's drawn images as one .npz, as ADM's evaluator reads it."""
    loaded = load(study)
    from mixar.stages import export as stage

    count = stage.export(*loaded, run, seed, sampler, to)
    print(f"{to}: {counted(count, 'image')}")


@app.command()
def publish(study: StudyFiles, to: Annotated[Path, typer.Option("--to", help="Folder to copy to.")]) -> None:
    """Copy the networks and runs that a study trained into a folder, as float16."""
    loaded = load(study)
    from mixar.stages import publish as stage

    for path in stage.publish(*loaded, to):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def _one_of(verb: str, choices: dict[str, object]) -> None:
    """Raise ValueError unless exactly one of these options is given."""
    given = [option for option, value in choices.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(given) or "neither"
        raise ValueError(f"{verb}: give one of {', '.join(choices)}; found {found}")


def _kind(name: str) -> None:
    if name not in KINDS:
        raise ValueError(f"--kind: {name!r} is unknown; choose from {', '.join(KINDS)}")


def _one_of_names(name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(f"--run: {name!r} is unknown; choose from {', '.join(known)}")


def main(arguments: list[str] | None = None, verbs: Callable[[list[str] | None], None] = app) -> None:
    """Run a verb on `arguments` (default: sys.argv).

    An error that a user can mend ends in one message and exit code 2; MIXAR_DEBUG=1 shows the traceback.
    """
    print_anything()
    try:
        try:
            verbs(arguments)
        except SystemExit:  # how every verb ends
            sys.stdout.flush()  # now, while a full disk can still be reported
            raise
    except BrokenPipeError:  # such as `mixar assets | head`
        _drop_output()
        sys.exit(1)
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("MIXAR_DEBUG") == "1":
            raise
        where = "" if _can_print(error) else "standard output: "
        sys.stderr.write(f"mixar: {where}{_in_words(error)}\n")
        sys.exit(2)
    except (ImportError, MemoryError) as error:
        if not is_shortage(error) or os.environ.get("MIXAR_DEBUG") == "1":
            raise
        sys.stderr.write(f"mixar: out of memory ({str(error) or 'an import did not fit into memory'}); {MORE}\n")
        sys.exit(2)


def _can_print(error: Exception) -> bool:
    """Whether standard output is not what an error is about. If it is, the rest of the output is dropped: Python would
    try again."""
    if not (isinstance(error, OSError) and error.errno in FULL and error.filename is None):
        return True
    try:
        print(flush=True)  # raises again, now without the lost detail
    except OSError:
        _drop_output()
        return False
    return True


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_words(error: Exception) -> str:
    """The message of an error. A path that the locale cannot write carries none that helps."""
    if isinstance(error, UnicodeEncodeError) and error.encoding != "utf-8":
        return f"{error.object!r}: cannot be written in this locale's {error.encoding}; set PYTHONUTF8=1, or rename it"
    return str(error)


if __name__ == "__main__":
    main()
