"""Text is UTF-8 whatever the locale says, and printing never fails."""

import json
import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from snakemake_logger_plugin_mixar import LogHandler

from mixar.storage.files import read_text
from mixar.study.errors import SpecError
from mixar.study.load import load_study

# The strictest environment. ISO-8859-1 has accents, but no arrows or ellipses.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
LATIN = {**ASCII, "PYTHONIOENCODING": "iso-8859-1"}


@pytest.fixture
def study_file(smoke, tmp_path):
    smoke |= {"title": "Café ↓"}
    smoke["runs"]["mar"]["label"] = "Ünguided …"
    smoke["hardware"]["results"] = str(tmp_path / "results")
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(smoke, allow_unicode=True), encoding="utf-8")
    return file


def test_a_byte_order_mark_is_no_part_of_the_text(study_file):
    plain = load_study(study_file)
    study_file.write_text(read_text(study_file), encoding="utf-8-sig")

    assert study_file.read_bytes().startswith(b"\xef\xbb\xbf")
    assert load_study(study_file) == plain


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("latin-1", "found byte 0xe9 on line 2; save it as UTF-8"), ("utf-16", "found UTF-16; save it as UTF-8")],
)
def test_a_study_in_another_encoding_is_refused_by_name_with_what_would_do(tmp_path, encoding, said):
    file = tmp_path / "study.yaml"
    file.write_text("study: small\ntitle: Café\n", encoding=encoding)

    with pytest.raises(SpecError) as error:
        load_study(file)

    assert str(error.value).startswith(f"{file}: expected text in UTF-8, ")
    assert said in str(error.value)


# Runs several verbs in one Python, which takes seconds to start; each ends in SystemExit.
SEVERAL = """
import json, sys
from mixar.__main__ import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        print("ended with", end.code or 0)
"""


def mixar_verbs(*calls, **environment):
    """All that some verbs printed, one after another in one process, each followed by its exit code."""
    command = [sys.executable, "-c", SEVERAL, json.dumps([[str(word) for word in call] for call in calls])]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment}
    )
    return result.stdout.decode("latin-1")


@pytest.mark.parametrize("environment", [ASCII, LATIN], ids=["ascii", "latin-1"])
def test_what_is_printed_never_fails(environment):
    calls = [["--help"], ["score-images", "--help"], ["assets"], ["assets", "show"], ["measure", "--params"]]

    printed = mixar_verbs(*calls, **environment)

    assert printed.count("ended with 0") == len(calls), printed
    assert "Traceback" not in printed


def test_a_study_is_read_and_its_data_listed_under_any_locale(study_file, tmp_path):
    calls = [[verb, "--study", study_file] for verb in ("check", "ingest")]

    printed = mixar_verbs(*calls, **ASCII)

    assert printed.count("ended with 0") == 2, printed
    assert (tmp_path / "results" / "smoke" / "ingest" / "manifest.parquet").is_file()


def test_a_folder_that_the_locale_cannot_name_is_refused_with_what_would_do(study_file, smoke):
    smoke["hardware"]["results"] = "Ergebnis–é"
    study_file.write_text(yaml.safe_dump(smoke, allow_unicode=True), encoding="utf-8")

    printed = mixar_verbs(["ingest", "--study", study_file], **ASCII)

    assert "ended with 2" in printed
    assert "Ergebnis" in printed and "set PYTHONUTF8=1" in printed


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 0, ""),
        ("2>&- >/dev/null", 0, ""),
        (">/dev/full", 2, "mixar: standard output: [Errno 28] No space left on device\n"),
        (">/dev/full --help", 2, "mixar: standard output: [Errno 28] No space left on device\n"),
    ],
)
def test_an_output_that_takes_nothing_is_named(redirection, code, said):
    command = f"{shlex.quote(sys.executable)} -m mixar assets {redirection}"

    result = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)

    assert (result.returncode, result.stderr) == (code, said)


def test_the_progress_line_needs_no_output(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    settings = SimpleNamespace(stdout=False, dryrun=False)

    handler = LogHandler.__new__(LogHandler)
    handler.common_settings = settings
    handler.__post_init__()

    assert not handler.is_terminal
    handler.stream.close()
