"""The metrics file: append-only, whole lines, one training; and losses against the curve that the study expects."""

from __future__ import annotations

import pytest

from mixar.training.metrics import FILE, Header, MetricsFile, alarm, check_owner, loss_at, read_metrics

HEADER = Header("toy", "mix", 0, "0123")


def written(folder, lines, header=HEADER):
    file = MetricsFile(folder, header)
    for line in lines:
        file.append(line)
    return folder / FILE


def row(step, **numbers):
    return {"step": step, "epoch": step / 10, "loss": 1 / step, **numbers}


def test_a_reader_gets_what_was_written(tmp_path):
    lines = [{"event": "started", "step": 0, "text": ""}, row(1, mfu=None), {"step": 1, "held_out_loss": 2.0}, row(2)]

    found = read_metrics(written(tmp_path / "a", lines))

    assert found.header == HEADER
    assert [r["loss"] for r in found.rows] == [1.0, 0.5] and found.rows[0]["mfu"] is None
    assert [h["held_out_loss"] for h in found.held_out] == [2.0]
    assert all(line["time"] > 0 for line in [*found.rows, *found.held_out, *found.events])


def test_what_is_not_finite_becomes_null(tmp_path):
    path = written(tmp_path / "a", [row(1, grad_norm=float("inf"))])

    assert read_metrics(path).rows[0]["grad_norm"] is None
    assert "Infinity" not in path.read_text()


def test_a_resumed_attempt_drops_the_rows_beyond_its_checkpoint_and_the_file_only_grows(tmp_path):
    alarmed = {"event": "alarm", "step": 5, "text": "high"}
    path = written(tmp_path / "a", [*map(row, range(1, 6)), {"step": 5, "held_out_loss": 1.0}, alarmed])
    before = path.read_bytes()

    written(tmp_path / "a", [{"event": "resumed", "step": 3, "text": ""}, row(4, loss=7.0)])

    found = read_metrics(path)
    assert path.read_bytes().startswith(before)
    assert [r["step"] for r in found.rows] == [1, 2, 3, 4] and found.rows[-1]["loss"] == 7.0
    assert not found.held_out and not found.alarms


def test_attempts_after_the_first_are_restarts_even_from_the_first_step(tmp_path):
    started, resumed = ({"event": kind, "step": 0, "text": "", "host": kind} for kind in ("started", "resumed"))

    assert read_metrics(written(tmp_path / "a", [started])).restarts == 0
    found = read_metrics(written(tmp_path / "a", [resumed, row(1), started]))
    assert found.restarts == 2 and not found.rows
    assert found.attempt["host"] == "started"


def test_continuing_from_a_milestone_is_no_restart(tmp_path):
    kinds = "started", "milestone", "resumed", "finished"

    path = written(tmp_path / "a", [{"event": kind, "step": 0, "text": ""} for kind in kinds])

    assert read_metrics(path).restarts == 0


def test_a_line_that_a_killed_process_cut_off_spoils_no_other(tmp_path):
    path = written(tmp_path / "a", [row(1), row(2)])
    path.write_bytes(path.read_bytes()[:-9])

    assert [r["step"] for r in read_metrics(path).rows] == [1]
    written(tmp_path / "a", [row(2)])
    assert [r["step"] for r in read_metrics(path).rows] == [1, 2]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (Header("else", "mix", 0, "0123"), "study 'else'"),
        (Header("toy", "mar", 0, "0123"), "run 'mar'"),
        (Header("toy", "mix", 1, "0123"), "seed 1"),
    ],
)
def test_the_metrics_of_another_training_are_refused_and_kept(tmp_path, other, named):
    path = written(tmp_path / "a", [row(1)], other)

    for refuse in (lambda: check_owner(tmp_path / "a", HEADER), lambda: MetricsFile(tmp_path / "a", HEADER)):
        with pytest.raises(ValueError, match=f"metrics.jsonl: metrics of .*{named}.*run 'mix'.* move the file away"):
            refuse()
    assert len(read_metrics(path).rows) == 1


@pytest.mark.parametrize("content", [b"", b"step,loss\n1,2\n", b'{"format": "mixar metrics, version 0"}\n', b"\xff\n"])
def test_a_file_that_is_no_metrics_file_is_refused(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)

    with pytest.raises(ValueError, match=r"metrics\.jsonl: expected 'mixar metrics, version 1', found a file that"):
        check_owner(tmp_path, HEADER)


def test_the_metrics_of_other_settings_move_aside_with_all_that_is_beside_them(tmp_path):
    for trajectory in ("1", "2", "3"):
        written(tmp_path / "mix", [row(1)], Header("toy", "mix", 0, trajectory))
        (tmp_path / "mix" / "sheet").write_text(trajectory)
    written(tmp_path / "mix", [], Header("toy", "mix", 0, "1"))

    kept = {path.name: (path / "sheet").read_text() for path in (tmp_path / "earlier").iterdir()}
    assert kept == {"mix-1": "1", "mix-2": "2", "mix-3": "3"}
    assert not read_metrics(tmp_path / "mix" / FILE).rows


def test_the_loss_at_the_end_of_an_epoch_is_the_mean_over_its_last_tenth():
    rows = [{"epoch": n / 20, "loss": float(n)} for n in range(1, 50)]

    assert loss_at(rows, 1) == 19  # of rows 18, 19, 20
    assert loss_at(rows, 3) is None
    assert loss_at([{"epoch": 0.5, "loss": 1.0}, {"epoch": 1.5, "loss": 2.0}, {"epoch": 2.5, "loss": 3.0}], 1) == 2
    assert loss_at([{"epoch": 1.0, "loss": None}], 1) is None


def test_a_loss_is_alarming_outside_its_band_alone():
    assert alarm(0.4, 5, (0.4, 0.6)) is None and alarm(0.6, 5, (0.4, 0.6)) is None
    assert alarm(0.61, 5, (0.4, 0.6)) == "loss 0.61 at the end of epoch 5 is above the expected 0.4 to 0.6"
    assert "below" in (alarm(0.39, 5, (0.4, 0.6)) or "")
