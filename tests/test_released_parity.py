"""Our networks, losses, schedules and loops against stored runs of the released code, for any configuration.

Every file of tests/vectors/ and of the folders in the variable MIXAR_VECTORS is recognised by its header's `config` and
replayed from it: other sizes need no change here. Every stored result must be compared by some replay.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
import torch
from replay import COMMITTED, Check, Stored, files_in, folders, problem_of
from replay_mar import SCHEDULE_REPLAYS
from replay_maskbit import GENERATOR_REPLAYS, build_generator
from replays import Replay, replays_of
from safetensors.torch import save_file


@cache
def open_stored(path: Path) -> Stored:
    return Stored(path)


@cache
def checks_of(path: Path, replay: Replay) -> tuple[Check, ...]:
    return tuple(replay(open_stored(path)))


def found_files() -> list[Path]:
    """What can be replayed; the tests below say what cannot."""
    return [path for folder in folders() for path in sorted(folder.glob("*.safetensors"))]


def found_replays() -> list:
    found = []
    for path in found_files():
        try:
            found += [
                pytest.param(path, replay, id=f"{name_of(path)}-{replay.__name__}") for replay in replays_of(path)
            ]
        except ValueError:
            continue
    return found


def found_generators() -> list[Path]:
    found = [param.values for param in found_replays()]
    return [path for path, replay in found if replay is GENERATOR_REPLAYS[0]]


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("folder", folders(), ids=str)
def test_every_named_folder_holds_stored_runs(folder):
    assert files_in(folder)


@pytest.mark.parametrize("path", found_files(), ids=name_of)
def test_every_file_is_of_a_known_kind(path):
    assert replays_of(path)


@pytest.mark.parametrize(("path", "replay"), found_replays())
def test_ours_equals_the_stored_run(path, replay):
    checks = checks_of(path, replay)
    problems = [found for check in checks if (found := problem_of(check, open_stored(path)))]
    assert checks and not problems, "\n".join([str(path), *problems])


@pytest.mark.parametrize("path", found_files(), ids=name_of)
def test_every_stored_result_is_compared(path):
    compared = {check.key for replay in replays_of(path) for check in checks_of(path, replay)}
    assert not open_stored(path).results() - compared


# --- the comparison itself


@pytest.mark.parametrize("path", found_generators(), ids=name_of)
def test_without_a_drop_argument_ours_keeps_the_classes_that_the_release_drops(path):
    stored = open_stored(path)
    model, c, masked = build_generator(stored), stored["in/labels"], stored["mask/out/masked_tokens"]

    with torch.no_grad():
        found = model(masked, c)
        kept = model(masked, c, torch.zeros(len(c), dtype=torch.bool))

    assert torch.equal(found, kept)
    assert problem_of(Check("out/logits_drop_none", found, tolerance=1e-3), stored)


def rewritten(path, folder, config=None, **changes):
    """A copy of a stored run in another folder, under another name, with other tensors or another configuration."""
    stored = Stored(path)
    header = {"config": json.dumps(stored.config if config is None else config)}
    save_file({**stored.tensors, **changes}, folder / "copy.safetensors", metadata=header)
    return folder / "copy.safetensors"


def test_files_of_further_folders_are_found_and_recognised_by_their_header(tmp_path):
    path = rewritten(COMMITTED / "mar_schedule.safetensors", tmp_path)

    named = folders({"MIXAR_VECTORS": os.pathsep.join([str(tmp_path), str(tmp_path)])})

    assert named == [COMMITTED, tmp_path, tmp_path] and files_in(tmp_path) == [path]
    assert replays_of(path) is SCHEDULE_REPLAYS


@pytest.mark.parametrize("name", ["empty", "absent"])
def test_a_folder_without_stored_runs_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=f"{name} (holds no|is no folder).*MIXAR_VECTORS"):
        files_in(tmp_path / name)


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    path = rewritten(COMMITTED / "mar_schedule.safetensors", tmp_path, config={"unknown": 1})
    with pytest.raises(ValueError, match="config holds unknown; .*gen and tok; gen; tok; ae"):
        replays_of(path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="copy.safetensors: no stored run"):
        replays_of(path)


def test_a_wrong_a_reshaped_and_a_missing_value_are_found():
    stored = open_stored(COMMITTED / "vavae.safetensors")
    key, image = "decode/out/image", stored["decode/out/image"]
    wrong = image.clone()
    wrong[0, 0, 0, 0] += 2e-5 * image.abs().max()

    assert problem_of(Check(key, image), stored) is None
    assert "error 2e-05, allowed 1e-05" in problem_of(Check(key, wrong), stored)
    assert "allowed 0" in problem_of(Check(key, image.nextafter(image + 1), 0.0), stored)
    assert "error nan" in problem_of(Check(key, image * torch.nan), stored)
    assert "shape" in problem_of(Check(key, image[:1]), stored)
    assert "no such tensor" in problem_of(Check("decode/out/absent", image), stored)


def test_a_result_that_no_replay_knows_is_noticed(tmp_path):
    path = rewritten(COMMITTED / "vavae.safetensors", tmp_path, **{"decode/out/more": torch.zeros(1)})
    compared = {check.key for replay in replays_of(path) for check in replay(Stored(path))}
    assert Stored(path).results() - compared == {"decode/out/more"}
