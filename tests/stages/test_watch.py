"""`watch`: the state of every training from its files alone, on any machine, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from rich.console import Console
from toy_runs import toy_study

from mixar.stages.watch import JOBS, shown, trainings, watch
from mixar.storage import locks
from mixar.study.layout import Layout
from mixar.training.metrics import FILE, Header, MetricsFile

STARTED = {"event": "started", "step": 0, "text": "", "host": "node7", "steps": 100, "batch_size": 8, "processes": 1}
ROW = {"step": 40, "epoch": 0.8, "loss": 0.5, "images_per_second": 16.0, "mfu": 0.41}


@pytest.fixture
def layout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Layout(toy_study(tmp_path / "results"))


def written(layout, *lines, run="mix", seed=0):
    file = MetricsFile(layout.watch(run, seed), Header("toy", run, seed, "0"))
    for line in lines:
        file.append(line)
    return file.path


def aged(path, seconds):
    """Set the times of all rows back by so many seconds."""
    head, *lines = path.read_text().splitlines()
    older = [json.dumps(line | {"time": time.time() - seconds}) for line in map(json.loads, lines)]
    path.write_text("\n".join([head, *older]) + "\n")


def found(layout, run="mix", seed=0):
    (one,) = [t for t in trainings(layout.study, layout) if (t.run, t.seed) == (run, seed)]
    return one


def page(layout):
    console = Console(width=1000, highlight=False)  # no path is broken
    with console.capture() as capture:
        console.print(shown(layout.study, layout))
    return capture.get()


def test_a_training_without_files_waits(layout):
    assert [t.state for t in trainings(layout.study, layout)] == ["waiting"] * 4


def test_a_training_that_writes_has_rates_and_the_time_that_is_left(layout):
    written(layout, STARTED, ROW, {"step": 40, "epoch": 0.8, "held_out_loss": 0.625})

    training = found(layout)

    assert training.state == "training" and training.seconds_left == 60 * 8 / 16
    line = next(line for line in page(layout).splitlines() if line.split()[:1] == ["mix"])
    assert " ".join(line.split()) == "mix 0 training 0.80/2 0.5000 0.6250 16.0 41% 30 s node7 0"


def test_a_training_that_has_been_silent_for_long_has_stopped_unless_its_checkpoints_are_held(layout):
    aged(written(layout, STARTED, ROW), 3600)
    folder = layout.checkpoints("train", "mix-seed0", "0-0")

    assert found(layout).state == "stopped"
    with locks.lease(folder, folder / "made"):
        training = found(layout)
        assert training.state == "training" and "process " in training.notes[0]
    assert found(layout).state == "stopped"
    assert "mix seed 0: killed, or ended by an error after step 40: its log is in logs/train/" in page(layout)


def test_a_training_asked_to_end_shows_as_stopped_at_once_and_one_with_weights_as_finished(layout):
    written(layout, STARTED, ROW, {"event": "stopped", "step": 40, "text": "told to end after 40/100 steps"})

    assert found(layout).state == "stopped"
    assert "mix seed 0: last event: stopped, told to end after 40/100 steps" in page(layout)
    layout.weights("mix", 0).parent.mkdir(parents=True)
    layout.weights("mix", 0).touch()
    assert found(layout).state == "finished"


def test_a_training_that_ended_at_a_milestone_waits_for_its_next_job(layout):
    written(layout, STARTED, ROW, {"event": "milestone", "step": 40, "text": ""})

    assert found(layout).state == "waiting"


def test_alarms_and_skipped_steps_are_named(layout):
    written(layout, STARTED, ROW | {"skipped": 2}, {"event": "alarm", "step": 40, "text": "loss 0.5 is above"})

    said = page(layout)

    assert "training ALARM" in said and "mix seed 0: ALARM: loss 0.5 is above" in said and "2 steps skipped" in said


def test_a_job_of_this_study_in_the_cluster_queue_is_shown_with_its_number(layout):
    JOBS.mkdir(parents=True)
    for number, root in (("7", layout.root), ("8", "/elsewhere/results/toy")):
        parts = {"k": {"files": {f"{root}/tokenize/shard-00000.safetensors": [0, ""]}}}
        run = "mix" if number == "7" else "ti"
        (JOBS / f"{number}.json").write_text(json.dumps({"name": f"train {run} 0", "job": number, "parts": parts}))
    (JOBS / "half.json").write_text('{"name": ')

    assert (found(layout).state, found(layout).job) == ("queued", "job 7")
    assert found(layout, "ti").state == "waiting"


def test_a_metrics_file_that_cannot_be_read_spoils_no_other_line(layout):
    layout.watch("mix", 0).mkdir(parents=True)
    (layout.watch("mix", 0) / FILE).write_text("something else")
    written(layout, STARTED, ROW, run="ti")

    said = page(layout)

    assert found(layout, "ti").state == "training" and "mix seed 0: " in said and "move it away or delete it" in said


def test_looking_changes_no_file(layout):
    written(layout, STARTED, ROW)
    before = {path: path.stat().st_mtime_ns for path in layout.root.rglob("*")}

    watch(layout.study, layout, is_once=True, seconds=1)

    assert {path: path.stat().st_mtime_ns for path in layout.root.rglob("*")} == before


def test_watching_starts_without_torch_and_ends_where_there_is_no_terminal(layout, tmp_path):
    file = tmp_path / "study.json"
    file.write_text(layout.study.model_dump_json())
    code = f"""import sys
from mixar.__main__ import app
try:
    app(["watch", {str(file)!r}])
finally:
    assert "torch" not in sys.modules and "pandas" not in sys.modules
"""

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert result.returncode == 0, result.stderr
    assert "4 waiting" in result.stdout
