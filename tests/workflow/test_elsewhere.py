"""From another folder, and from an installed wheel: what comes with the project is found wherever one stands."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def snakemake(folder, *arguments):
    command = [BIN / "snakemake", *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_the_default_study_is_planned_from_another_folder(root, tmp_path):
    output = snakemake(tmp_path, "-n", "-p", "--snakefile", root / "workflow" / "Snakefile")

    assert "rule report:" in output and str(root / "resources" / "literature.yaml") in output
    assert "--study results/imagenet256/study.json" in output


@pytest.mark.workflow
def test_a_committed_study_runs_from_another_folder_and_writes_there(root, tmp_path):
    study = root / "config" / "smoke.yaml"

    snakemake(tmp_path, "--snakefile", root / "workflow" / "Snakefile", "--configfile", study, "--until", "ingest")

    assert (tmp_path / "results" / "smoke" / "ingest" / "manifest.parquet").is_file()


@pytest.mark.workflow
def test_a_profile_and_its_site_file_are_found_before_the_directory_changes(root, tmp_path):
    profile = ["--profile", "slurm", "--submitit-cluster", "local", "--submitit-poll-min-seconds", 1]
    study = ["--configfile", "config/smoke.yaml", "--until", "ingest"]

    snakemake(root, *profile, *study, "--directory", tmp_path)

    assert (tmp_path / "results" / "smoke" / "ingest" / "manifest.parquet").is_file()


ASKED = """
from mixar import __main__
from mixar.assets.shipped import LITERATURE
from mixar.study import external
from mixar.study.sections import load_study
study = load_study(__main__.STUDIES["emoji-gfd"])
print(__main__.__file__, external.missing(study), LITERATURE.is_file())
"""


@pytest.mark.slow
def test_an_installed_wheel_holds_the_studies_and_what_they_name(root, tmp_path):
    build = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=root, check=True, capture_output=True)
    installed = tmp_path / "installed"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(installed)

    environment = os.environ | {"PYTHONPATH": str(installed)}
    asked = subprocess.run(
        [sys.executable, "-c", ASKED], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
    )

    assert asked.stdout.split() == [str(installed / "mixar" / "__main__.py"), "{}", "True"], asked.stderr
