"""A training from its first attempt to its published result: the lease, and advice."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from toy_runs import toy_study

from mixar.study.sections import Training
from mixar.training.checkpoints import states
from mixar.training.distributed import Context
from mixar.training.job import MADE, WAITING, held, micro_batch, run_to_end

ALONE = Context(rank=0, world_size=1, device=torch.device("cpu"))


def test_memory_advice_names_the_images_that_a_group_allows():
    study = toy_study(Path("unused"), training={"mask_group": 4})

    assert "(now null: 4)" in micro_batch("hardware", study.training_of("mix"))


def test_memory_advice_names_the_key_and_imported_weights_have_none():
    study = toy_study(Path("unused"))

    said = micro_batch("hardware.runs.mix", study.training_of("mix").model_copy(update={"micro_batch": 2}))

    assert said.startswith("Lower hardware.runs.mix.micro_batch") and said.endswith("(now 2)")
    assert micro_batch("hardware", None) == "Its weights do not fit"


def test_a_training_holds_its_folder_and_learns_whether_its_output_is_new(tmp_path):
    output, folder, said = tmp_path / "weights", tmp_path / "checkpoints", []

    with held(output, folder, ALONE, said.append) as is_finished:
        assert not is_finished and (folder / "lease").exists()
        output.write_text("made meanwhile")

    assert said == []
    with held(output, folder, ALONE, said.append) as is_finished:
        assert not is_finished  # it was made before this wait began


def test_other_processes_wait_for_the_first_one_and_hear_what_it_found(tmp_path):
    class Second(Context):
        answers = [WAITING, WAITING, MADE]

        def told(self, value):
            return self.answers.pop(0)

    second = Second(rank=1, world_size=2, device=torch.device("cpu"))

    with held(tmp_path / "weights", tmp_path / "checkpoints", second) as is_finished:
        assert is_finished and not second.answers

    assert not (tmp_path / "checkpoints").exists()  # only the first one locks


def test_a_training_publishes_once_and_leaves_no_checkpoint_in_flight(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    published = []

    def publish(result, record):
        published.append((result.steps, record["steps"], record["processes"], record["skipped_steps"]))
        (tmp_path / "weights").write_text("done")

    torch.manual_seed(0)
    run_to_end(
        nn.Linear(2, 2),
        lambda model, rows, rng, progress: {"loss": model(torch.ones(len(rows), 2)).square().mean()},
        Training(epochs=1, batch_size=2, learning_rate=0.1, precision="bfloat16"),
        name="toy",
        num_items=6,
        seed=0,
        folder=tmp_path / "checkpoints",
        output=tmp_path / "weights",
        context=ALONE,
        checkpoint_minutes=1e-9,
        publish=publish,
    )

    assert published == [(3, 3, 1, 0)]
    assert "toy: precision: bfloat16 is many times slower" in capsys.readouterr().out
    assert states(tmp_path / "checkpoints") == {}
