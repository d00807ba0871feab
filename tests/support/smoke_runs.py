"""The smoke study through Snakemake, run once for all workers; fixtures for tests of whole workflows to import."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from mixar.study.layout import Layout
from mixar.study.load import parse_study

SNAKEMAKE = Path(sys.executable).parent / "snakemake"
TOY = """
from mixar.model.guidance import DCMix

class EveryOther(DCMix):
    def fill(self, q):
        shown = super().fill(q).clone()
        shown[:, ::2] = 0
        return shown
"""


class Finished(NamedTuple):
    """A finished study: its file, its layout, what Snakemake printed, and the layout of a copy that no test changes."""

    study_file: Path
    layout: Layout
    output: str
    copy: Layout


def command(study_file, *targets):
    """Snakemake on a study; targets are files of it, none for the whole study."""
    options = ["--profile", "workflow/profiles/local", "--cores", "2", "--configfile", study_file]
    return [str(part) for part in (SNAKEMAKE, *targets, *options)]


def run(root, study_file, *targets):
    """All that Snakemake prints. A study's own modules are found beside its file."""
    environment = os.environ | {"PYTHONPATH": str(Path(study_file).parent)}
    arguments = command(study_file, *targets)
    result = subprocess.run(arguments, cwd=root, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def write_study(content, folder):
    """Write a study whose results are in a folder; returns its file and layout."""
    content["hardware"]["results"] = str(folder / "results")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file, Layout(parse_study(content))


def long_training(content, whole: Layout, folder):
    """A study of two runs that train long enough to be caught in their middle, with the tokens of a finished one."""
    content["training"]["epochs"] = 400
    content["runs"] = {name: content["runs"][name] for name in ("mar", "dc_mix")}
    content["report"] = {}
    content["hardware"]["checkpoint_minutes"] = 0.02
    file, layout = write_study(content, folder)
    layout.root.mkdir(parents=True)
    for part in ("ingest", "tokenizer", "tokenize"):
        subprocess.run(["cp", "-rp", whole.root / part, layout.root / part], check=True)  # with the times of the files
    return file, layout


@contextmanager
def first_of_all_workers(folder: Path) -> Iterator[bool]:
    """Whether this worker is the first to make a folder; others wait for it, and try again if it failed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not (folder / "finished").exists()
        (folder / "finished").touch()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Callable[[str], Path]:
    """A function that names a folder which all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base).joinpath


@pytest.fixture(scope="session")
def finished_smoke(root, shared_folder) -> Finished:
    """The smoke study and a run with a strategy of its own, after one command."""
    folder = shared_folder("smoke")
    content = yaml.safe_load((root / "config" / "smoke.yaml").read_text())
    content["runs"]["toy"] = {"label": "Toy", "model": "tiny", "guidance": {"strategy": "toy_guidance:EveryOther"}}
    with first_of_all_workers(folder) as is_first:
        if is_first:
            shutil.rmtree(folder / "study", ignore_errors=True)
            study_file, layout = write_study(content, folder / "study")
            (study_file.parent / "toy_guidance.py").write_text(TOY)
            (folder / "output.txt").write_text(run(root, study_file))
            shutil.copytree(layout.root, folder / "copy" / layout.root.name)
    study_file, layout = folder / "study" / "study.yaml", Layout(_study_in(content, folder / "study" / "results"))
    return Finished(
        study_file, layout, (folder / "output.txt").read_text(), Layout(_study_in(content, folder / "copy"))
    )


def _study_in(content, results):
    return parse_study({**content, "hardware": {**content["hardware"], "results": str(results)}})


@pytest.fixture(scope="session")
def undisturbed(root, shared_folder, finished_smoke) -> Layout:
    """The long training of run mar, from its start to its end."""
    folder = shared_folder("undisturbed")
    content = yaml.safe_load((root / "config" / "smoke.yaml").read_text())
    with first_of_all_workers(folder) as is_first:
        if is_first:
            shutil.rmtree(folder / "study", ignore_errors=True)
            file, layout = long_training(content, finished_smoke.copy, folder / "study")
            run(root, file, layout.weights("mar", 0), "--allowed-rules", "train")
    return Layout(_study_in(content, folder / "study" / "results"))
