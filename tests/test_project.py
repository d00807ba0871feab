"""The files around the code: one version, hooks that fetch nothing, and a CI that runs the documented check."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere_and_has_an_entry_in_the_changelog():
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]

    assert yaml.safe_load(read("CITATION.cff"))["version"] == version
    assert re.search(rf"^## \[{re.escape(version)}\]", read("CHANGELOG.md"), re.MULTILINE)


def test_hooks_run_the_programs_of_make_lint_and_fetch_nothing():
    hooks = [
        (repo["repo"], hook)
        for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
        for hook in repo["hooks"]
    ]

    assert {(repo, hook["language"]) for repo, hook in hooks} == {("local", "system")}
    linted = set(re.findall(r"\$\(BIN\)/(ruff \w+|snakefmt|mypy)", read("Makefile")))
    assert {re.match(r"\.venv/bin/(ruff \w+|\w+)", hook["entry"])[1] for _, hook in hooks} == linted


def test_the_workflow_on_github_runs_the_check():
    steps = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]["check"]["steps"]

    assert any(step.get("run", "").endswith("bash .ci/run") for step in steps)


def test_the_workflow_catalog_finds_what_it_reads():
    usage = yaml.safe_load(read(".snakemake-workflow-catalog.yml"))["usage"]

    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert (ROOT / "config" / "README.md").is_file() and (ROOT / "workflow" / "Snakefile").is_file()
    assert (ROOT / usage["mandatory-flags"]["flags"].split()[1]).is_dir()
