"""A results folder of another study with the same name: the message lists what would be replaced, and nothing else."""

import pytest

from mixar.study.digests import Digests
from mixar.study.earlier import replaced
from mixar.study.layout import Layout
from mixar.study.load import parse_study


@pytest.fixture
def folder(smoke, tmp_path):
    """The smoke study with its results in a temporary folder, its study file and two of its networks there."""
    smoke["hardware"]["results"] = str(tmp_path)
    layout = Layout(parse_study(smoke))
    for path in (layout.weights("mar", 0), layout.weights("dc_mix", 0), layout.tokenizer("discrete")):
        path.parent.mkdir(parents=True)
        path.touch()
    layout.study_file.write_text(layout.study.model_dump_json(), encoding="utf-8")
    return layout


def test_a_study_that_retrains_is_reported_with_what_differs_and_what_would_do(folder, smoke):
    smoke["training"]["epochs"] = 7
    smoke["title"] = "Another title"

    said = replaced(parse_study(smoke))

    assert f"{folder.root} holds results of another study named 'smoke'" in said
    assert "run mar seed 0, run dc_mix seed 0" in said and "dc_sa" not in said and "discrete" not in said
    assert f"training.epochs: {folder.study.training.epochs} in the folder, 7 here" in said
    assert "title" not in said
    assert "`study:`" in said and "--config replace=true" in said


def test_a_run_that_only_one_study_has_is_one_difference_and_values_read_as_in_a_study_file(folder, smoke):
    smoke["training"]["epochs"] = 7
    smoke["discrete"]["train"]["max_shift"] = 8
    smoke["runs"]["new"] = {"label": "New", "model": "tiny"}

    said = replaced(parse_study(smoke))

    assert "runs.new: absent in the folder, given here" in said and "runs.new." not in said
    assert "discrete.train.max_shift: null in the folder, 8 here" in said


@pytest.mark.parametrize(
    "change",
    [
        {"title": "Another title"},
        {"evaluation": {"num_images": 36, "shard_size": 36, "batch_size": 36}},  # images are drawn again, cheaply
        {"study": "another_name"},
    ],
    ids=["title", "evaluation", "name"],
)
def test_a_study_that_retrains_nothing_is_not_stopped(folder, smoke, change):
    assert replaced(parse_study(smoke | change)) is None


@pytest.fixture
def kept(folder, smoke):
    """A function that keeps the state at the end of a run's training."""

    def keep(run):
        trajectory = Digests(folder.study).trajectory(run, 0)
        file = folder.checkpoints("train", f"{run}-seed0", f"{trajectory}-images") / "kept" / "state-00000008.pt"
        file.parent.mkdir(parents=True)
        file.touch()

    return keep


def test_more_epochs_replace_nothing_where_the_state_at_the_end_is_kept(folder, smoke, kept):
    smoke["runs"]["dc_mix"]["training"]["epochs"] = 7  # dc_mix_long continues it, so it keeps its state
    assert "More epochs of run dc_mix seed 0: no state of their end was kept" in replaced(parse_study(smoke))

    kept("dc_mix")

    assert replaced(parse_study(smoke)) is None
    smoke["runs"]["dc_mix"]["training"]["learning_rate"] = 1.0
    assert "run dc_mix seed 0" in replaced(parse_study(smoke))


def test_an_empty_folder_and_an_unreadable_study_file_hold_no_other_study(folder, smoke):
    smoke["training"]["epochs"] = 7
    folder.study_file.write_text("{", encoding="utf-8")
    assert replaced(parse_study(smoke)) is None

    folder.study_file.unlink()
    assert replaced(parse_study(smoke)) is None
