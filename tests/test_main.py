"""The command line: every verb is there, help is quick, and mistakes end in one message without a traceback."""

import subprocess
import sys

import pytest
import torch
import yaml
from toy_runs import write_inputs
from typer.testing import CliRunner
from verbs import mixar

from mixar.__main__ import app
from mixar.assets.table import ASSETS
from mixar.study.load import parse_study
from mixar.weights import save_weights

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
    "features",
    "score",
    "score-images",
    "measure",
    "report",
    "assets",
    "check",
    "publish",
]


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


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_a_path_without_images_is_refused_before_torch_is_imported(path, tmp_path):
    (tmp_path / "empty").mkdir()
    given = repr(["score-images", str(tmp_path / path), "--protocol", "emoji-gfd"])
    code = f"""import sys
from mixar.__main__ import app
try:
    app({given})
except ValueError as error:
    print(error, 'torch' in sys.modules)"""

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "no images found" in run.stdout and run.stdout.strip().endswith("False"), run.stdout + run.stderr


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
        (["score"], "score: give one of --run, --kind; found neither"),
        (["score", "--run", "mar", "--kind", "discrete"], "score: give one of --run, --kind; found --run and --kind"),
        (["sample", "--run", "mar", "--sweep"], "--shard: a sweep is drawn shard by shard; give one"),
        (["features"], "features: give one of --images, --reference; found neither"),
    ],
)
def test_wrong_names_are_refused_before_any_work(study_file, arguments, said):
    result = mixar(*arguments, "--study", study_file)

    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scoring": {"protocol": "emoji-gdf"}}, "scoring.protocol: 'emoji-gdf' is unknown; choose from emoji-gfd"),
        ({"scoring": {"protocol": "adm256-gfid"}}, "scoring.extractor.network is 'subgroup-cnn'"),
        ({"runs": {"dc_sa": {"guidance": {"strategy": "dc_sa", "options": {"stag": "both"}}}}}, "runs.dc_sa"),
        ({"runs": {"mar": {"guidance": {"strategy": "nowhere:Mine"}}}}, "nowhere"),
        ({"models": {"tiny": {"decoder_width": 64}}}, "decoder_width: 64 differs from width 32"),
        ({"runs": {"mar": {"start": "damaged.safetensors"}}}, "damaged or no safetensors file"),
        (
            {"runs": {"mar": {"start": "other.safetensors"}}},
            "not a mar file: diffloss.net.input_proj.weight is missing",
        ),
        ({"generator": {"weights": "damaged.safetensors"}}, "damaged or no safetensors file"),
        (
            {"scoring": {"extractor": {"network": "subgroup-cnn", "weights": "other.safetensors"}}},
            "not a feature network",
        ),
    ],
)
def test_check_finds_what_would_stop_the_study_later(study_file, smoke, tmp_path, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)  # these studies name files relative to it
    save_weights(tmp_path / "other.safetensors", {"a": torch.zeros(3)}, {})
    (tmp_path / "damaged.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes()[:-4])
    study_file.write_text(yaml.safe_dump(merged(smoke, change)))

    result = CliRunner().invoke(app, ["check", "--study", str(study_file)])

    assert isinstance(result.exception, ValueError)
    assert said in str(result.exception)


def merged(content, change):
    """`content` with the values of `change` laid over it."""
    for key, value in change.items():
        if isinstance(value, dict):
            content[key] = merged(dict(content.get(key, {})), value)
        else:
            content[key] = value
    return content


@pytest.mark.parametrize(
    ("verb", "section"),
    [
        (["generator"], "generator"),
        (["tokenizer", "--kind", "discrete"], "discrete"),
        (["tokenizer", "--kind", "continuous"], "continuous"),
        (["extractor"], "extractor"),
        (["train", "--run", "mar"], "start"),
    ],
)
def test_a_truncated_weights_file_ends_in_one_message(study_file, smoke, tmp_path, verb, section):
    whole = tmp_path / "whole.safetensors"
    save_weights(whole, {"a": torch.zeros(1000)}, {})
    half = tmp_path / "half.safetensors"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    if section == "start":
        smoke["runs"]["mar"]["start"] = str(half)
        smoke["data"]["num_shards"] = 1
        write_inputs(parse_study(smoke), channels=4)
    else:
        part = smoke["scoring"]["extractor"] if section == "extractor" else smoke[section]
        part["weights"] = str(half)
    study_file.write_text(yaml.safe_dump(smoke))

    result = mixar(*verb, "--study", study_file)

    assert result.returncode == 2
    assert f"{half}: damaged or no safetensors file" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_loss_that_is_not_finite_ends_in_one_message(study_file, smoke):
    smoke["training"]["learning_rate"] = 1e38
    smoke["data"]["num_shards"] = 1
    study_file.write_text(yaml.safe_dump(smoke))
    write_inputs(parse_study(smoke), channels=4)

    result = mixar("train", "--run", "mar", "--study", study_file)

    assert result.returncode == 2
    assert "steps in a row, up to step" in result.stderr and "Lower learning_rate" in result.stderr
    assert "Traceback" not in result.stderr


def test_check_says_what_a_study_holds_and_misses(study_file, smoke):
    smoke["runs"]["mar"]["start"] = "nowhere.safetensors"
    study_file.write_text(yaml.safe_dump(smoke))

    result = mixar("check", "--study", study_file, "--files-later")

    assert result.returncode == 0
    assert "smoke: valid" in result.stdout
    assert "missing: runs.mar.start (seed 0) = nowhere.safetensors" in result.stdout


def test_assets_lists_every_external_file_and_marks_what_a_study_needs(tmp_path, root):
    result = mixar("assets", "--study", root / "config" / "imagenet256.yaml", MIXAR_ASSETS=str(tmp_path))

    table, *below = result.stdout.split("\n\n")
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert max(map(len, table.splitlines())) <= 110
    assert rows["vavae-f16d32"][:6] == ["*", "missing", "~2,050", "MiB", "2088e073…", "MIT"]
    assert rows["mar-h"] == ["missing", "~7,191", "MiB", "MIT", "mar_huge/checkpoint-last.pth"]
    assert rows["adm-statistics"][-4:] == ["git", "1da4c176…", "MIT", "adm_in256_stats.npz"]
    assert all(name in rows for name in ASSETS)
    assert f"Looked for in {tmp_path}" in below[0]
    ways = [line.strip() for line in below[1].splitlines()[1:]]
    assert ways[0] == "mixar assets get vavae-f16d32" and "mixar assets get kl16" not in ways
    assert ways[-1].startswith("imagenet-val: register at image-net.org; put ILSVRC2012_img_val.tar")


def test_a_verb_runs_and_leaves_its_file(study_file, tmp_path):
    result = mixar("ingest", "--study", study_file)

    assert result.returncode == 0, result.stderr
    assert (tmp_path / "results" / "smoke" / "ingest" / "manifest.parquet").is_file()
