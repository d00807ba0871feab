"""The example of the README: shown as it is, planned by every documented command, and run to its end."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + (ROOT / "docs" / "further.md").read_text(encoding="utf-8")
WALKS = "ada 30\nbob 30\ncyd 30\n"
LOCAL = ("--executor", "submitit", "--submitit-cluster", "local", "--jobs", "3", "--submitit-poll-max-seconds", "1")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES, re.M | re.S)


COMMANDS = [line.split("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]


@pytest.fixture
def example(tmp_path):
    return shutil.copytree(ROOT / "examples", tmp_path / "example")


def run(folder, *words):
    result = subprocess.run([*map(str, words)], cwd=folder, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_the_readme_shows_the_example_in_twenty_lines():
    text = (ROOT / "examples" / "Snakefile").read_text(encoding="utf-8")

    assert text in blocks("python")
    assert len(text.splitlines()) <= 20


@pytest.mark.workflow
@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("snakemake ")}))
def test_a_documented_command_works_as_it_is_written(example, command):
    words = shlex.split(command)[1:]

    output = run(example, Path(sys.executable).parent / "snakemake", *words, *([] if "--help" in words else ["-n"]))

    assert "--submitit-detach" in output if "--help" in words else "walk" in output


def test_every_setting_that_the_pages_name_exists():
    output = run(ROOT, Path(sys.executable).parent / "snakemake", "--help")

    assert set(re.findall(r"--submitit-[a-z]+(?:-[a-z]+)*", PAGES)) <= set(re.findall(r"--submitit-[a-z-]+", output))


@pytest.mark.workflow
def test_the_example_runs_to_its_end(example):
    run(example, Path(sys.executable).parent / "snakemake", *LOCAL)

    assert (example / "walks.txt").read_text(encoding="utf-8") == WALKS


@pytest.mark.slow
def test_the_example_runs_in_an_environment_with_nothing_but_the_plugin(example, tmp_path):
    run(tmp_path, sys.executable, "-m", "venv", "empty")
    programs = tmp_path / "empty" / "bin"
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=shutil.ignore_patterns("tests", ".*"))
    words = [programs / "python", "-m", "pip", "install", "--quiet", source]
    installed = subprocess.run(words, capture_output=True, encoding="utf-8")
    if "No matching distribution" in installed.stderr or "Connection" in installed.stderr:
        pytest.skip(f"no package index: {installed.stderr.splitlines()[-1]}")
    assert installed.returncode == 0, installed.stderr

    run(example, programs / "snakemake", *LOCAL)

    assert (example / "walks.txt").read_text(encoding="utf-8") == WALKS
