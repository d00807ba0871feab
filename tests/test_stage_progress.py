"""Progress lines: how far, how fast, how long still, and what earlier attempts said."""

from mixar.stages import progress
from mixar.stages.progress import Progress, duration


def test_resumed_work_prints_what_was_said_before_and_where_it_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    history = tmp_path / "progress.log"
    Progress("train [mar]", history=history)(3, 10, "loss 1.0")
    capsys.readouterr()

    Progress("train [mar]", history=history)(4, 10)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("train [mar]: goes on after 2/10 steps")
    assert lines[1].startswith("train [mar]: 3/10 steps, loss 1.0")
    assert lines[2] == "train [mar]: goes on after 3/10 steps"
    assert history.read_text().splitlines() == lines


def test_fresh_work_ends_with_a_line_that_says_how_long_it_took(capsys):
    announce = Progress("tokenize", "images")
    for done in (0, 32, 64):
        announce(done, 64)

    assert capsys.readouterr().out.count("\n") == 1  # nothing in between: that was less than a few seconds ago


def test_durations_are_told_in_the_unit_that_suits_them():
    assert [duration(s) for s in (42, 120, 9000, 400_000)] == ["42 s", "2.0 min", "2.5 h", "4.6 days"]
