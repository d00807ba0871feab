"""A training's history: written and read back, and what it makes of the settings."""

import pytest

from mixar.study.sections import MarTraining
from mixar.training.history import CHANGEABLE, HISTORY, Change, History, changed, read_history, write_history

SETTINGS = MarTraining(epochs=4, batch_size=8, learning_rate=1.0)
CHANGES = [
    Change(step=10, epoch=1.25, settings={"learning_rate": 0.5, "clip_norm": 2.0}),
    Change(step=20, epoch=2.5, settings={"learning_rate": 0.25}),
]


def test_a_history_survives_the_way_through_its_file_and_is_empty_without_one(tmp_path):
    history = History(continued="weights of mar", restart_steps=5, changes=CHANGES)

    before = read_history(tmp_path)
    write_history(tmp_path, history)

    assert before == History()
    assert read_history(tmp_path) == history


def test_a_damaged_file_is_named_with_what_would_do(tmp_path):
    (tmp_path / HISTORY).write_text('{"changes": [{"step": "soon"}]}')

    with pytest.raises(ValueError, match=rf"{HISTORY}: damaged \(\d errors\); delete it"):
        read_history(tmp_path)


def test_a_network_has_seen_the_changes_before_its_last_step():
    history = History(changes=CHANGES)

    assert [len(history.until(steps)) for steps in (10, 11, 20, 21)] == [0, 1, 1, 2]
    assert CHANGES[0].in_words() == "training.learning_rate=0.5, training.clip_norm=2.0 from epoch 1.25"


def test_the_last_change_of_a_key_counts_and_hardware_stays():
    settings = SETTINGS.model_copy(update={"micro_batch": 2})

    found = changed(settings, CHANGES)

    assert (found.learning_rate, found.clip_norm, found.micro_batch) == (0.25, 2.0, 2)
    assert found.model_copy(update={"learning_rate": 1.0, "clip_norm": SETTINGS.clip_norm}) == settings
    with pytest.raises(ValueError, match="learning_rate"):
        changed(settings, [Change(step=1, epoch=0.1, settings={"learning_rate": -1.0})])


def test_every_key_that_may_change_is_a_key_of_trainings():
    assert set(CHANGEABLE) <= set(MarTraining.model_fields)
