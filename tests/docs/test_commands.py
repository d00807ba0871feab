"""Every command of the documentation works as it is written: snakemake as a dry run, long verbs up to their options."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from dry_runs import snakemake

from mixar.__main__ import app

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "config/README.md", "results/README.md", "resources/README.md", "benchmarks/README.md",
         *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]  # fmt: skip
PROGRAMS = ("snakemake", "python", "mixar", "make", "pytest")
ELSEWHERE = ("git", "apt-get", "$EDITOR", "source")  # of other programs
PLACEHOLDERS = {"FILE": "config/demo.yaml", "NAME": "mar-l", "PATH": "my_images", "VERB": "check",
                "config/mine.yaml": "config/smoke.yaml", "config/shapes.yaml": "config/smoke.yaml",
                "config/my_images.yaml": "config/smoke.yaml"}  # fmt: skip
PARTIAL = {
    "python -m mixar",
    "snakemake -n",
    "snakemake --directory",
    "snakemake --executor submitit",
}  # options that a sentence is about


def fenced(text):
    """The commands of fenced blocks, without their comments."""
    inside, plain = False, False
    for line in text.splitlines():
        if line.startswith("```"):
            plain, inside = line.rstrip() in ("```", "```bash"), not inside
        elif inside and plain:
            yield re.sub(r"^(\w+=\S+ )+", "", re.split(r"\s+#", line)[0].strip())


def inline(text):
    """Commands between backticks that have arguments; in brackets, arguments that may be left out."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for found in re.findall(r"`([^`\n]+)`", prose):
        words = re.sub(r"^(\w+=\S+ )+", "", found)
        if words.split()[0] in PROGRAMS and " " in words and words not in PARTIAL:
            yield re.sub(r"[\[\]]", "", found)


def commands(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    first = (*PROGRAMS, *ELSEWHERE)
    found = [line for line in fenced(text) if line.replace(".venv/bin/", "").startswith(first)]
    return list(dict.fromkeys([*found, *inline(text)]))


ALL = list(dict.fromkeys(command for page in PAGES for command in commands(page)))


def filled(command):
    """The words of a command, its placeholders replaced."""
    words = shlex.split(command.replace(".venv/bin/", ""))
    return [PLACEHOLDERS.get(word, word) for word in words if not re.fullmatch(r"[A-Z_]+=\S+", word)]


def execute(*words):
    result = subprocess.run(words, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def plan(words):
    """A dry run of snakemake."""
    planned = snakemake(ROOT, *words, *([] if "--help" in words else ["-n"]))
    assert planned.returncode == 0, planned.stdout + planned.stderr
    said = planned.stdout
    assert "total" in said or "nothing to do" in said or "--help" in words


def read_options(words):
    """Parse a verb's options as `mixar` would, and start nothing."""
    command, context = typer.main.get_command(app), None
    if len(words) == 1:  # a sentence about a verb
        assert words[0] in command.commands
        return
    while words or context is None:
        context = command.make_context(command.name or "mixar", list(words), parent=context)
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not rest or not hasattr(command, "resolve_command"):
            return
        _, command, words = command.resolve_command(context, rest)


def make(words):
    """What a target would do; its calls of snakemake as dry runs."""
    lines = execute("make", "-n", *words).replace("\\\n", " ").splitlines()
    for line in lines:
        found = shlex.split(line.lstrip("@"))
        if found and found[0].endswith("/snakemake") and "--lint" not in found:
            plan(found[1:])


@pytest.mark.parametrize("command", [command for command in ALL if not command.startswith(ELSEWHERE)])
def test_a_documented_command_works_as_it_is_written(command, monkeypatch):
    environment = dict(re.findall(r"(?:^|\s)([A-Z_]+)=(\S+)", command))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    program, *words = filled(re.split(r"[|&]", command)[0])
    if program == "python" and words[:1] == ["-m"] and words[1] != "mixar":
        execute(sys.executable, "-c", f"import {words[1]}")
    elif program == "python" and words[0] != "-m":
        assert all(option in execute(sys.executable, words[0], "--help") for option in words if option.startswith("--"))
    elif program in ("python", "mixar"):
        words = words[2:] if program == "python" else words
        read_options(words)
        if words in (["assets"], ["measure", "--params"]):
            execute(sys.executable, "-m", "mixar", *words)
    elif program == "snakemake":
        plan(words)
    elif program == "make":
        make(words)
    else:
        execute(sys.executable, "-m", program, "--collect-only", "-q", *words)


def test_commands_are_found_on_the_pages():
    assert {"make demo", "snakemake --profile slurm", "snakemake --configfile config/mar-released.yaml"} <= set(ALL)
    assert "snakemake --configfile config/mine.yaml" in ALL
    assert len(ALL) >= 30
    assert (ROOT / "slurm" / "site.yaml").is_file()  # which the README opens in an editor
