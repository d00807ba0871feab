# The study, its paths and digests, and functions for the rules; no rules.
import functools
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from mixar.storage import locks
from mixar.assets import table
from mixar.assets.check import locate
from mixar.assets.shipped import LITERATURE
from mixar.storage.files import print_anything, safetensors_metadata, write_text
from mixar.study import earlier, inventory
from mixar.study.external import missing, missing_in_words, places
from mixar.study.digests import Digests, digest, plain
from mixar.study.layout import Layout
from mixar.study.errors import SpecError
from mixar.study.names import KINDS, MASKBIT, split
from mixar.study.load import parse_study, read_layer
from mixar.study.sections import TrainingHardware
from mixar.study.strict_yaml import check_config

print_anything()

# Snakemake writes --config into the shell text of its remote jobs, quoted as Python quotes and not as a shell does.
UNSAFE = {"'", "\\", "\n"} & set("".join(workflow.config_settings.config_args or []))
if workflow.resource_settings.nodes is not None and UNSAFE:
    raise WorkflowError(
        f"--config: Snakemake cannot pass {', '.join(map(ascii, sorted(UNSAFE)))} to its jobs; "
        "write the value into a study file"
    )

# `--config replace=true`: networks in the results folder that a study of other settings made may be replaced.
REPLACE = str(config.get("replace", False)).lower() in ("true", "yes", "1")

try:
    check_config(workflow.config_settings.config_args or [])
    for file in workflow.configfiles:  # Snakemake keeps the last of two equal keys without a word
        read_layer(file)
    STUDY = parse_study({key: value for key, value in config.items() if key != "replace"}, source="study")
    MISSING = missing(STUDY)
    if {"{", "}"} & set(str(table.folder())):
        raise ValueError(f"MIXAR_ASSETS: Snakemake reads braces as wildcards; found {str(table.folder())!r}")
except (SpecError, ValueError) as error:
    raise WorkflowError(str(error)) from None

LAYOUT = Layout(STUDY)
if not (FOUND := next(path for path in (LAYOUT.root, *LAYOUT.root.parents) if path.exists())).is_dir():
    raise WorkflowError(f"hardware.results: {FOUND} is a file; give an existing folder or a new one")
DIGESTS = Digests(STUDY)
STUDY_FILE = str(LAYOUT.study_file)
GET_ASSETS = " ".join(["python -m mixar assets get", *(f"--study {shlex.quote(str(f))}" for f in workflow.configfiles)])
ENVIRONMENT = "../../environment.yml"
IMAGE_SHARDS = range(STUDY.evaluation.num_shards)
TOKEN_SHARDS = range(STUDY.data.num_shards)
TABLES = ("table1", "table2", "audit", "audit_claims", "audit_costs", "later", "results", "cfg_points", "samplers")
SUMMARIES = ("report", "claims", "summary")
# Sections of the study that name files, and the rules that read them; those of `runs` are read by `train`.
READERS = {
    "data": {"ingest"},
    "continuous": {"tokenizer_continuous"},
    "discrete": {"tokenizer_discrete"},
    "generator": {"generator"},
    "scoring": {
        "extractor",
        "features_reference",
        "sample",
        "sample_sweep",
        "sample_maskbit",
        "reconstruct",
        "score",
        "score_sweep",
        "score_reconstruction",
    },
}
RECONSTRUCTIONS = [LAYOUT.reconstruction("{kind}", shard) for shard in TOKEN_SHARDS]
((_, *MASKBIT_DRAWING),) = [names for names in STUDY.drawings if names[0] == MASKBIT]
MASKBIT_IMAGES = [LAYOUT.samples(MASKBIT, *MASKBIT_DRAWING, shard) for shard in IMAGE_SHARDS]
SPLITS = ("train", "held_out")
REFERENCES = list(dict.fromkeys([*SPLITS, *(LAYOUT.reconstruction_split(kind) for kind in KINDS)]))
SHUTDOWN_SECONDS = 600  # from SIGTERM until torchrun kills a training that still writes its state
ONE_GPU = min(STUDY.hardware.gpus, 1)  # of every stage but training that runs a network

# Jobs run with the Python that runs Snakemake, whether or not its environment is activated.
os.environ.update(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
# Left over from another program, these would let a job of one process wait for others; torchrun sets its own.
for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)


def external(value):
    """An external file or folder as a rule input if it exists; otherwise the stage reports it missing."""
    path = locate(value) if value else None
    return [str(path)] if path and path.exists() else []


def gpu_unless(*given):
    """GPUs of a stage that only converts files where all of them are given."""
    return 0 if all(value is not None for value in given) else ONE_GPU


@functools.cache
def stamp_of_data():
    """Changes with the names, sizes and times of the study's images: seconds for a million files on a local disk."""
    return inventory.stamp(STUDY.data, LAYOUT.inventory)


def hardware_of(wildcards):
    """What a run's training runs on; released weights are only converted."""
    run, _ = split(wildcards.run)
    return STUDY.hardware_of(run) if STUDY.runs[run].weights is None else TrainingHardware(minutes=60)


def launch(wildcards, resources):
    """The command that starts a training: a process for each GPU, or for each node without GPUs.

    On several nodes Slurm starts one torchrun on each. Behind `--` it takes no argument of mixar's for its own. Other
    hardware retrains nothing: to Snakemake, what follows from `resources` is no parameter.
    """
    processes = max(resources.gpus_per_node, 1)
    if resources.nodes > 1:
        return f"snakemake_executor_plugin_submitit.node.launch --nproc-per-node={processes} mixar"
    if processes == 1:
        return "mixar"
    options = f"--standalone --nproc-per-node={processes} --shutdown-timeout={SHUTDOWN_SECONDS}"
    return f"torch.distributed.run {options} -m -- mixar"


def parent_weights(wildcards):
    parent = STUDY.networks[wildcards.run].parent
    return [LAYOUT.weights(parent, wildcards.seed)] if parent else []


def milestone_before(wildcards):
    """The last milestone before this network, which its training continues.

    None for a network that these settings made: a milestone that is added later must not train it again.
    """
    name, seed = wildcards.run, int(wildcards.seed)
    if (before := STUDY.milestone_before(name)) is None:
        return []
    is_made = safetensors_metadata(LAYOUT.weights(name, seed)).get("digest") == DIGESTS.train(name, seed)
    return [] if is_made else [LAYOUT.weights(before, seed)]


def start_file(wildcards):
    run = STUDY.networks[wildcards.run]
    return external((run.start or run.weights or "").format(seed=wildcards.seed))


def training_tokens(wildcards):
    return [] if STUDY.networks[wildcards.run].weights else LAYOUT.token_shards()


def mixing_generator(wildcards):
    return [LAYOUT.generator] if STUDY.networks[wildcards.run].ti_mix else []


def networks_of(run, seed):
    return [LAYOUT.weights(run, seed), LAYOUT.tokenizer("continuous"), LAYOUT.statistics]


def swept_networks(wildcards):
    return networks_of(wildcards.run, STUDY.networks[wildcards.run].seeds[0])


def swept_tokens(wildcards):
    images = STUDY.sweeps[wildcards.run, wildcards.sampler].num_images
    return LAYOUT.generated_for_sweep(images, wildcards.shard)


def swept_features(wildcards):
    names = wildcards.run, wildcards.sampler
    return [LAYOUT.sweep_features(*names, shard) for shard in range(STUDY.shards_of(STUDY.sweeps[names].num_images))]


def chosen_cfg(wildcards):
    """The guidance scale that a sweep chose for these images."""
    names = wildcards.run, wildcards.sampler
    return [LAYOUT.chosen_cfg(*names)] if STUDY.sweep_of(*names) else []


def timed_cfg(wildcards):
    """The guidance scales that sweeps chose for a run's own samplers."""
    pairs = [(wildcards.run, sampler) for sampler in STUDY.runs[wildcards.run].samplers]
    return [LAYOUT.chosen_cfg(*pair) for pair in pairs if STUDY.sweep_of(*pair)]


def sample_images(wildcards):
    names = wildcards.run, wildcards.seed, wildcards.sampler
    return [LAYOUT.samples(*names, shard) for shard in IMAGE_SHARDS]


def sample_features(wildcards):
    return [LAYOUT.features(path) for path in sample_images(wildcards)]


def reconstruction_features(wildcards):
    return [LAYOUT.features(LAYOUT.reconstruction(wildcards.kind, shard)) for shard in TOKEN_SHARDS]


def shown_images():
    """What the report's image sheets are cut from: samples, and reconstructions of both tokenizers."""
    samples = [path for run in (*STUDY.runs, MASKBIT) for path in LAYOUT.shown_samples(run)]
    return samples + [LAYOUT.reconstruction(kind, shard) for kind in KINDS for shard in TOKEN_SHARDS]


def report_outputs():
    """Every file of the report, each shown by `snakemake --report` under a caption of its own."""
    outputs = []
    for name, path in LAYOUT.report_files().items():
        stem, suffix = name.split(".")
        category = "Tables" if stem in TABLES else "Summary" if stem in SUMMARIES else "Figures"
        labels = {"part": stem, "format": suffix}
        outputs.append(report(path, caption=f"../report/{stem}.rst", category=category, labels=labels))
    return outputs


def write_study_file():
    """The validated study as the jobs read it; left alone while it says the same."""
    text = STUDY.model_dump_json(indent=2)
    path = LAYOUT.study_file
    try:
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    except OSError as error:
        raise WorkflowError(f"hardware.results: {error}; choose a folder that can be written to") from None


def refuse_replacing():
    """Stop before any job where the folder holds networks that a study of other settings made."""
    if not REPLACE and (said := earlier.replaced(STUDY)):
        raise WorkflowError(f"{said}\nNothing was started.")


def refuse_missing():
    """Stop before any job where a job that is to run needs a file outside the study that is not there."""
    jobs = list(workflow.dag.needrun_jobs())
    trained = {split(job.wildcards.run)[0] for job in jobs if job.rule.name == "train"}
    rules_needed = {job.rule.name for job in jobs}

    def is_needed(key):
        section, _, rest = key.partition(".")
        return rest.split(".")[0] in trained if section == "runs" else not READERS[section].isdisjoint(rules_needed)

    if needed := {key: value for key, value in MISSING.items() if is_needed(key)}:
        lines = [f"  {line}" for line in missing_in_words(needed)]
        advice = f"Nothing was started. Get them first; for assets: {GET_ASSETS}"
        said = [f"{STUDY.study} cannot run without these files or folders:", *lines, advice]
        raise WorkflowError("\n".join(said))


def refuse_unfit():
    """Stop before any job where the study's networks cannot be built, or a file that it names does not fit them."""
    command = [sys.executable, "-m", "mixar", "check", "--study", STUDY_FILE, "--files-later"]
    command += [] if workflow.local_exec else ["--elsewhere"]
    said_in = os.environ | {"PYTHONIOENCODING": "utf-8"}
    found = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=said_in)
    if found.returncode or f"{STUDY.study}: valid." not in found.stdout:  # code of a study's own may end Python with 0
        raise WorkflowError(found.stderr.strip() or f"{shlex.join(command)}: ended without output; run it by hand")
    for line in filter(lambda line: line.startswith("  warning: "), found.stdout.splitlines()):
        logger.warning(line.strip())


def announce_jobs():
    """Tell the progress line which jobs will run and how many minutes each is expected to take."""
    jobs = workflow.dag.needrun_jobs()
    expected = {workflow.dag.jobid(job): (job.rule.name, job.resources.get("runtime")) for job in jobs}
    logger.info(None, extra={"mixar_jobs": expected})


def announce_held():
    """Name trainings that a killed driver left running. Jobs that would repeat them wait."""
    for folder in sorted(LAYOUT.root.glob("checkpoints/*")):
        if who := locks.holder(folder):
            logger.warning(f"{folder}: in use by {who}. A job for the same result waits until it ends.")


def announce_missing():
    """Say which files outside the study are not there yet. A dry run closes with it."""
    lines = [f"{STUDY.study} needs {len(MISSING)} files or folders that are not there:"]
    lines += [f"  {place}" for place in places(MISSING)]
    lines += [f"Fetch what can be fetched: {GET_ASSETS}"]
    logger.warning("\n".join(lines), extra={"mixar_closing": True})


def announce_price():
    """The totals of `mixar plan`, for a study that may cost many GPU-hours: torch stays out of this process."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        file.write(STUDY.model_dump_json())
        file.flush()
        command = [sys.executable, "-m", "mixar", "plan", "--study", file.name, "--totals"]
        try:
            found = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=60)
        except subprocess.TimeoutExpired:
            return
    price = re.search(r": ([\d,]+) GPU-hours", found.stdout)
    if found.returncode == 0 and price and int(price[1].replace(",", "")) > 100:
        logger.warning(f"{found.stdout.strip()}. Stage by stage: mixar plan")


if workflow.is_main_process:
    if workflow.output_settings.dryrun and any(STUDY.hardware_of(run).gpus for run in STUDY.runs):
        announce_price()
    if MISSING:
        announce_missing()
    if workflow.output_settings.dryrun and not REPLACE and (replaced := earlier.replaced(STUDY)):
        logger.warning(replaced, extra={"mixar_closing": True})
