"""The command line: every verb is there, help is quick, and mistakes end in one message without a traceback."""

import os
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from mixar.__main__ import app

VERBS = [
    "ingest",
    "tokenizer",
    "tokenize",
    "generator",
    "extractor",
    "generate",
    "train",
    "sample",
    "reconstruct",
    "score",
    "measure",
    "report",
    "assets",
    "check",
    "publish",
]


def mixar(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "mixar", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture
def study_file(smoke, tmp_path, root):
    smoke["hardware"]["results"] = str(tmp_path / "results")
    smoke["data"]["path"] = str(root / smoke["data"]["path"])
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(smoke))
    return file


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    result = CliRunner().invoke(app, [verb, "--help"])

    assert result.exit_code == 0
    assert "--study" in result.output


def test_help_does_not_wait_for_torch():
    code = "import sys; import mixar.__main__; print('torch' in sys.modules)"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert found == "False\n"


def test_a_bad_study_ends_in_one_message_and_code_2(study_file, smoke):
    smoke["trainings"] = {}
    study_file.write_text(yaml.safe_dump(smoke))

    result = mixar("check", "--study", study_file)

    assert result.returncode == 2
    assert "'trainings' is unknown; did you mean 'training'?" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout


def test_the_traceback_is_shown_when_asked_for(tmp_path):
    result = mixar("check", "--study", tmp_path / "none.yaml", MIXAR_DEBUG="1")

    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "no such study file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--run", "dc_mx"], "--run: 'dc_mx' is unknown; choose from"),
        (["tokenizer", "--kind", "both"], "--kind: 'both' is unknown"),
        (["score"], "give one of --images, --reference, --run, --kind; found none of them"),
        (["score", "--run", "mar", "--kind", "discrete"], "found --run and --kind"),
    ],
)
def test_wrong_names_are_refused_before_any_work(study_file, arguments, said):
    result = mixar(*arguments, "--study", study_file)

    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_check_says_what_a_study_holds_and_misses(study_file, smoke):
    smoke["runs"]["mar"]["start"] = "nowhere.safetensors"
    study_file.write_text(yaml.safe_dump(smoke))

    result = mixar("check", "--study", study_file)

    assert result.returncode == 0
    assert "smoke: valid" in result.stdout
    assert "missing: runs.mar.start (seed 0) = nowhere.safetensors" in result.stdout


def test_assets_lists_every_external_file_and_marks_what_a_study_needs(tmp_path, root):
    result = mixar("assets", "--study", root / "config" / "imagenet256.yaml", MIXAR_ASSETS=str(tmp_path))

    rows = {line.split("│")[1].strip(): line for line in result.stdout.splitlines() if line.startswith("│")}
    assert "yes" in rows["vavae-f16d32"].split("│")[2]
    assert "no" in rows["vavae-f16d32"].split("│")[3]
    assert "yes" not in rows["kl16"].split("│")[2]


def test_a_verb_runs_and_leaves_its_file(study_file, tmp_path):
    result = mixar("ingest", "--study", study_file)

    assert result.returncode == 0, result.stderr
    assert (tmp_path / "results" / "smoke" / "ingest" / "manifest.parquet").is_file()
