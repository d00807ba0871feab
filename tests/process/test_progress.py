"""Progress lines: how far, how fast, how long still, and what earlier attempts said."""

import pytest

from mixar.process.progress import Progress, duration


class Clock:
    """A clock that the test moves."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def test_resumed_work_prints_what_was_said_before_and_where_it_continues(tmp_path, clock, capsys):
    history = tmp_path / "progress.log"
    first = Progress("train [mar]", history=history, clock=clock)
    first(0, 10)
    clock.seconds += 6
    first(3, 10, "loss 1.0")
    capsys.readouterr()

    second = Progress("train [mar]", history=history, clock=clock)
    second(3, 10)
    clock.seconds += 10
    second(5, 10)

    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "train [mar]: 3/10 steps, loss 1.0, 0.50 steps/s, 14 s left",
        "train [mar]: continues after 3/10 steps",
        "train [mar]: 5/10 steps, 0.20 steps/s, 25 s left",
    ]
    assert history.read_text().splitlines() == lines


def test_fresh_work_counts_from_its_first_item(clock, capsys):
    announce = Progress("sample", "images", clock=clock)
    clock.seconds += 100  # loading networks is no part of the rate
    for done in (0, 128, 256, 512):
        announce(done, 512)
        clock.seconds += 10

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sample: 128/512 images, 12.80 images/s, 30 s left"
    assert lines[-1] == "sample: 512/512 images, 17.07 images/s, took 30 s"


def test_a_history_that_cannot_be_written_ends_no_work(tmp_path, clock, capsys):
    history = tmp_path / "progress.log"
    announce = Progress("train", history=history, clock=clock)
    history.symlink_to("/dev/full")

    for done in (0, 1):
        announce(done, 1)

    assert capsys.readouterr().out.startswith("train: 1/1 steps")


def test_quick_work_is_one_line_that_says_how_long_it_took(clock, capsys):
    announce = Progress("tokenize", "images", clock=clock)
    for done in (0, 32, 64):
        announce(done, 64)
        clock.seconds += 1

    assert capsys.readouterr().out == "tokenize: 64/64 images, 32.00 images/s, took 2 s\n"


def test_work_that_is_repeated_or_done_already_is_not_timed(clock, capsys):
    for calls in ([(64, 64)], [(10, 64), (10, 64), (0, 64)]):
        announce = Progress("fetch", "MiB", clock=clock)
        for done, total in calls:
            announce(done, total)
            clock.seconds += 10

    assert capsys.readouterr().out == "fetch: continues after 10/64 MiB\n"


def test_durations_have_the_unit_that_suits_them():
    assert [duration(s) for s in (42, 120, 9000, 400_000)] == ["42 s", "2.0 min", "2.5 h", "4.6 days"]
