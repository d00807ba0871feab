"""Files of states: two kept, each checked, the older one used where the newer is damaged or could not be written."""

from __future__ import annotations

import resource
import signal

import pytest
import torch

from mixar.training import checkpoints
from mixar.training.checkpoints import last, newest, read_state, save_state, states, writing
from mixar.training.state import State

CPU = torch.device("cpu")


def state_after(done: int, size: int = 10) -> State:
    return State({"w": torch.full((size,), float(done))}, {}, {}, [], [], done, 0.0, 0)


def names(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def refuse(done, reason):
    raise AssertionError(f"state {done} was not written: {reason}")


@pytest.fixture
def small_files():
    """Files of more than 50 kB meet the same kind of error as a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_the_newest_two_states_stay_and_the_kept_ones_outlive_the_training(tmp_path):
    with writing(tmp_path, refuse) as writer:
        for done in (1, 2, 3, 4):
            writer.write(state_after(done), is_kept=done == 2)

    assert names(tmp_path) == ["kept/state-00000002.pt", "state-00000003.pt", "state-00000004.pt"]
    assert newest(tmp_path, 9) == 4 and newest(tmp_path, 2) == 2 and newest(tmp_path, 1) is None
    checkpoints.discard(tmp_path, 4)
    assert names(tmp_path) == ["kept/state-00000002.pt"]


def test_a_finished_training_without_kept_states_leaves_no_folder(tmp_path):
    save_state(tmp_path / "run", state_after(1))
    checkpoints.discard(tmp_path / "run", 1)

    assert not (tmp_path / "run").exists()


def test_states_of_a_longer_training_stay_while_a_shorter_one_writes(tmp_path):
    for done in (8, 9, 1, 2, 3):
        save_state(tmp_path, state_after(done))

    assert list(states(tmp_path)) == [9, 8, 3, 2]


def test_a_state_is_written_as_it_was_while_the_training_continues(tmp_path):
    state = state_after(1, size=100_000)
    with writing(tmp_path, refuse) as writer:
        writer.write(state)
        state.model["w"].zero_()

    assert read_state(states(tmp_path)[1], CPU).model["w"].unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: content[: len(content) // 2], "not a zip file"),
        (lambda content: b"", "not a zip file"),
        (lambda content: content.replace(torch.full((9,), 2.0).numpy().tobytes(), bytes(36)), "checksum mismatch"),
    ],
)
def test_the_older_state_replaces_a_damaged_one(tmp_path, capsys, damage, reason):
    save_state(tmp_path, state_after(1))
    save_state(tmp_path, state_after(2))
    path = states(tmp_path)[2]
    path.write_bytes(damage(path.read_bytes()))

    assert last(tmp_path, 9) == 1 and list(states(tmp_path)) == [2, 1], "looking removes nothing"
    assert newest(tmp_path, 9) == 1

    said = capsys.readouterr().out
    assert f"{path}: damaged checkpoint (" in said and reason in said
    assert "continuing from the older state-00000001.pt" in said
    assert list(states(tmp_path)) == [1]


def test_where_every_state_is_damaged_the_newest_is_named_and_all_stay(tmp_path):
    for done in (1, 2):
        save_state(tmp_path, state_after(done))
        states(tmp_path)[done].write_bytes(b"cut off")

    with pytest.raises(ValueError, match=r"state-00000002.pt: damaged checkpoint .* no older one is whole; delete it"):
        newest(tmp_path, 9)
    assert list(states(tmp_path)) == [2, 1]


def test_what_a_killed_writer_left_is_no_state_and_is_named_and_removed(tmp_path, capsys):
    save_state(tmp_path, state_after(1))
    half = tmp_path / ".4711.state-00000002.pt"
    half.write_bytes(b"half")

    assert newest(tmp_path, 9) == 1 and names(tmp_path) == ["state-00000001.pt"]
    assert f"{half}: removed; a process was killed while it wrote" in capsys.readouterr().out


def test_a_checkpoint_of_an_earlier_version_gets_one_clear_message(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"")

    with pytest.raises(ValueError, match=r"state.pt: a checkpoint of format 1, .* delete it to start this training"):
        newest(tmp_path, 9)


def test_a_full_disk_is_reported_once_per_state_and_leaves_the_older_one(tmp_path, small_files):
    said = []
    with writing(tmp_path, lambda *found: said.append(found)) as writer:
        writer.write(state_after(1))
        writer.write(state_after(2, size=100_000))
        assert not writer.wait()
        writer.write(state_after(3))
        assert writer.wait()

    ((done, reason),) = said
    assert done == 2 and "state-00000002.pt: File too large; free some space" in reason
    assert names(tmp_path) == ["state-00000001.pt", "state-00000003.pt"]
