"""The committed weights are those that their list of hashes names, small, and say how they were made."""

import pytest
import torch
from toy_runs import toy_study, write_inputs

from mixar.stages.publish import publish
from mixar.storage.files import file_sha256
from mixar.weights import read_file, read_metadata, save_weights


def test_every_committed_weights_file_has_its_hash_in_the_list(root):
    folder = root / "resources" / "demo"
    listed = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())

    found = {path.name: file_sha256(path) for path in folder.glob("*.safetensors")}

    assert found == listed


def test_the_tokenizers_stay_below_eight_megabytes(root):
    folder = root / "resources" / "demo"

    assert sum((folder / f"{name}.safetensors").stat().st_size for name in ("continuous", "discrete")) < 8e6


def test_every_committed_weights_file_says_how_it_was_made(root):
    for path in (root / "resources" / "demo").glob("*.safetensors"):
        recorded = read_metadata(path)
        assert {"settings", "steps", "wall_seconds", "command", "digest", "commit", "versions"} <= set(recorded), path


def test_publishing_copies_what_was_trained_as_float16_with_its_hashes(tmp_path):
    study = toy_study(tmp_path)
    layout = write_inputs(study)
    runs = [("mar", 0), ("mar", 1), ("mix", 0), ("ti", 0)]
    for path in (layout.extractor(), *(layout.weights(*run) for run in runs)):
        save_weights(path, {"a": torch.ones(3)}, {"steps": 7})

    written = publish(study, layout, tmp_path / "out")

    networks = {"continuous", "discrete", "generator", "extractor"}
    assert {path.stem for path in written} == networks | {f"{run}-seed{seed}" for run, seed in runs}
    mar = tmp_path / "out" / "mar-seed1.safetensors"
    assert read_file(mar)["a"].dtype == torch.float16 and read_metadata(mar)["steps"] == 7
    assert f"{file_sha256(mar)}  mar-seed1.safetensors" in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()


def test_nothing_is_published_before_all_of_it_is_trained(tmp_path):
    study = toy_study(tmp_path)
    layout = write_inputs(study)

    with pytest.raises(ValueError, match="not trained yet: .*extractor"):
        publish(study, layout, tmp_path / "out")

    assert not (tmp_path / "out").exists()
