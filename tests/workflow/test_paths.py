"""Paths with characters that a shell reads: they reach the commands whole, and nothing else is touched."""

import re
import shlex

import dry_runs
import pyarrow.parquet as pq
import pytest
import yaml

ODD = "-a b;$HOME `id` '\"&*?#\\(|)<>é! ~%j=,:[x]"


def snakemake(root, *arguments, **environment):
    result = dry_runs.snakemake(root, *arguments, **environment)
    return result.returncode, result.stdout + result.stderr


@pytest.fixture
def study_file(smoke, tmp_path, root):
    """The smoke study with its results and its data under odd names."""
    (tmp_path / f"{ODD}.parquet").write_bytes((root / smoke["data"]["path"]).read_bytes())
    smoke["data"]["path"] = str(tmp_path / f"{ODD}.parquet").replace("$", "$$")
    smoke["hardware"]["results"] = str(tmp_path / ODD).replace("$", "$$")
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(smoke), encoding="utf-8")
    return file


def test_every_shell_command_names_the_study_and_its_log_whole(root, tmp_path, study_file):
    code, output = snakemake(root, "-n", "-p", "--configfile", study_file)
    assert code == 0, output

    commands = [shlex.split(found) for found in re.findall(r"^Shell command: (python -m mixar .*)$", output, re.M)]
    assert {words[3] for words in commands} >= {"ingest", "tokenizer", "train", "sample", "score", "measure", "report"}
    for words in commands:
        assert words[words.index("--study") + 1] == str(tmp_path / ODD / "smoke" / "study.json")
        assert words[-3] == ">" and words[-1] == "2>&1"
        assert words[-2].startswith(str(tmp_path / ODD / "smoke" / "logs"))


@pytest.mark.workflow
def test_a_job_writes_below_an_odd_folder_and_leaves_the_files_beside_it_alone(root, tmp_path, study_file):
    beside = tmp_path / "-a"  # where an unquoted redirect would end
    beside.write_text("a thesis")

    code, output = snakemake(root, "--cores", 1, "--configfile", study_file, "--until", "ingest")

    assert code == 0, output
    assert pq.read_metadata(tmp_path / ODD / "smoke" / "ingest" / "manifest.parquet").num_rows > 0
    assert beside.read_text() == "a thesis"
    assert {path.name for path in tmp_path.iterdir()} == {"-a", ODD, f"{ODD}.parquet", "study.yaml"}


def test_an_asset_folder_that_snakemake_would_read_as_a_wildcard_is_refused(root, tmp_path):
    code, output = snakemake(
        root, "-n", "--configfile", "config/imagenet256.yaml", MIXAR_ASSETS=str(tmp_path / "{assets}")
    )

    assert code != 0
    assert "MIXAR_ASSETS" in output and "Traceback" not in output


def test_a_quote_that_snakemake_would_let_the_shell_read_is_refused(root, tmp_path):
    results = f'hardware={{results: "{tmp_path}/it\'s $(touch {tmp_path}/made)"}}'
    remote = ["--executor", "submitit", "--submitit-cluster", "local", "--jobs", 1, "--until", "ingest"]

    code, output = snakemake(root, *remote, "--configfile", "config/smoke.yaml", "--config", results)

    assert code != 0 and "Traceback" not in output
    assert """--config: Snakemake cannot pass "'" to its jobs""" in output
    assert not (tmp_path / "made").exists()
