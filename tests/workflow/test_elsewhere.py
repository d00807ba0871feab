"""From another folder: what comes with the project is found from anywhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from mixar.assets.shipped import LITERATURE

BIN = Path(sys.executable).parent


def snakemake(folder, *arguments):
    command = [BIN / "snakemake", *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_the_default_study_is_planned_from_another_folder(root, tmp_path):
    output = snakemake(tmp_path, "-n", "-p", "--snakefile", root / "workflow" / "Snakefile")

    assert "rule report:" in output and str(LITERATURE) in output
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
