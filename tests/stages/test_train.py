"""`train`: resuming equals not stopping, continued runs, paired comparisons, and errors before any training."""

from __future__ import annotations

import re
import resource
import shlex
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from toy_runs import MIX, NUM_HELD_OUT, NUM_IMAGES, toy_study, write_inputs
from toy_strategies import Fused, Sized, Spoilt
from two_processes import burnt, exit_codes, train_as
from verbs import mixar

from mixar.data.shards import open_shard, write_shard
from mixar.model.mar import MAR
from mixar.reporting.results import LOSS_COLUMNS
from mixar.stages.train import train
from mixar.study.layout import Layout
from mixar.weights import load_module, read_metadata, save_weights

EACH_STEP = {"device": "cpu", "checkpoint_minutes": 1e-9}


def fused_study(root: Path):
    runs = {"fused": {"label": "Fused", "model": "s", "guidance": {"strategy": "toy_strategies:Fused"}, "ti_mix": {}}}
    hardware = {**EACH_STEP, "results": str(root)}
    return toy_study(root, runs=runs, hardware=hardware)


def weights(layout: Layout, run: str, seed: int = 0) -> dict[str, torch.Tensor]:
    return load_file(layout.weights(run, seed))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def uninterrupted(tmp_path):
    study = fused_study(tmp_path / "whole")
    layout = write_inputs(study)
    train(study, layout, "fused", 0)
    return layout


@pytest.fixture(autouse=True)
def no_fuse():
    yield
    Fused.fuse = None


def test_a_run_leaves_averaged_weights_with_provenance_and_a_loss_curve(tmp_path, capsys):
    study = toy_study(tmp_path)
    layout = write_inputs(study)

    train(study, layout, "ti", 0)

    assert "continues" not in capsys.readouterr().out
    recorded, curve = read_metadata(layout.weights("ti", 0)), pq.read_table(layout.losses("ti", 0)).to_pandas()
    assert recorded["run"] == "ti" and recorded["steps"] == 4 and recorded["seed"] == 0
    assert tuple(curve.columns) == LOSS_COLUMNS
    assert curve["step"].tolist() == [1, 2, 3, 4] and curve["guidance_rate"].tolist() == [1.0, 0.75, 0.5, 0.25]
    assert not list(layout.root.glob("checkpoints/*/*")), "the state of a finished run is removed"


def test_a_strategy_with_tied_weights_is_trained_saved_and_continued(tmp_path):
    runs = {"twice": {"model": "s", "guidance": {"strategy": "toy_strategies:Twice"}}}
    runs["more"] = {**runs["twice"], "parent": "twice"}
    study = toy_study(tmp_path, runs=runs)
    layout = write_inputs(study)

    for run in runs:
        train(study, layout, run, 0)
        saved = weights(layout, run)
        assert torch.equal(saved["guidance.embed.weight"], saved["guidance.again.weight"])
        model = load_module(MAR.from_study(study, run), layout.weights(run, 0))
        assert model.guidance.embed.weight is model.guidance.again.weight


@pytest.mark.slow
def test_compiled_blocks_train_with_the_same_losses_but_for_rounding(tmp_path, capsys):
    def study_in(name: str):
        sized = {"model": "s", "guidance": {"strategy": "toy_strategies:Sized"}, "ti_mix": {}}
        return toy_study(tmp_path / name, training={"mask_group": 4}, runs={"ti": sized})

    plain, compiled = study_in("plain"), study_in("compiled")
    compiled = compiled.model_copy(update={"hardware": compiled.hardware.model_copy(update={"compile": True})})
    layouts = [write_inputs(study) for study in (plain, compiled)]

    for study, layout in zip((plain, compiled), layouts, strict=True):
        train(study, layout, "ti", 0)

    expected, found = (pq.read_table(layout.losses("ti", 0))["loss"].to_pylist() for layout in layouts)
    assert "torch.compile failed" not in capsys.readouterr().out
    assert Sized.sizes == {4}, "also the trial before the training takes a group at a time"
    assert found == pytest.approx(expected, rel=1e-3)
    assert weights(layouts[1], "ti").keys() == weights(layouts[0], "ti").keys()


def test_training_resumed_after_an_exception_equals_training_without_one(uninterrupted, tmp_path):
    study = fused_study(tmp_path / "broken")
    layout = write_inputs(study)

    def stop():
        raise RuntimeError("power cut")

    Fused.fuse, Fused.end = 3, stop
    with pytest.raises(RuntimeError, match="power cut"):
        train(study, layout, "fused", 0)
    assert list(layout.root.glob("checkpoints/*/state-*.pt")) and not layout.weights("fused", 0).exists()
    train(study, layout, "fused", 0)

    assert same(weights(layout, "fused"), weights(uninterrupted, "fused"))
    curves = [pq.read_table(at.losses("fused", 0)).drop_columns("seconds") for at in (layout, uninterrupted)]
    assert curves[0].equals(curves[1])


def test_training_resumed_after_sigkill_equals_training_without_one(uninterrupted, tmp_path, capsys):
    study = fused_study(tmp_path / "killed")
    layout = write_inputs(study)

    assert exit_codes(burnt, [(study,)]) == [-signal.SIGKILL]
    assert not layout.weights("fused", 0).exists()
    train(study, layout, "fused", 0)

    assert same(weights(layout, "fused"), weights(uninterrupted, "fused"))
    # 1: the kill came while the second checkpoint was written
    assert re.search("continues after [12]/4 steps", capsys.readouterr().out)


@pytest.fixture
def filling():
    """A function after which files of more than so many bytes meet the same kind of error as a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_costs_states_and_not_the_training(uninterrupted, filling, tmp_path, capsys):
    study = fused_study(tmp_path / "full")
    layout = write_inputs(study)

    Fused.fuse, Fused.end = 3, lambda: filling(2 * uninterrupted.weights("fused", 0).stat().st_size)
    train(study, layout, "fused", 0)

    said = r"the checkpoint after 4 steps could not be written \(.*state-00000004.pt: File too large; free some space\)"
    assert re.search(said + r"\. The training continues, and the one before remains", capsys.readouterr().out)
    assert same(weights(layout, "fused"), weights(uninterrupted, "fused"))


def test_two_processes_train_one_run_together(tmp_path):
    study = toy_study(tmp_path)
    layout = write_inputs(study)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]

    codes = exit_codes(train_as, [(rank, port, study) for rank in range(2)])

    assert codes == [0, 0]
    assert read_metadata(layout.weights("mix", 0))["processes"] == 2


def test_a_training_that_stays_diverged_names_a_command_that_continues_it(tmp_path, monkeypatch):
    runs = {"spoilt": {"model": "s", "guidance": {"strategy": "toy_strategies:Spoilt"}}}
    study = toy_study(tmp_path, runs=runs, hardware={**EACH_STEP, "results": str(tmp_path)})
    layout = write_inputs(study)
    file = tmp_path / "my study.json"
    file.write_text(study.model_dump_json(), encoding="utf-8")
    monkeypatch.setattr(Spoilt, "passes", 0)
    monkeypatch.setattr(Spoilt, "first", 3)
    monkeypatch.setattr("sys.argv", ["mixar", "train", "--study", str(file), "--run", "spoilt"])
    with pytest.raises(FloatingPointError) as stopped:
        train(study, layout, "spoilt", 0)

    program, *words = shlex.split(re.search("continue from it: (.*)", str(stopped.value))[1])
    done = mixar(*words, "--later")

    assert program == "mixar" and done.returncode == 0, done.stderr
    assert "training.learning_rate=0.05 from epoch 1 (step 2), recorded" in done.stdout


def test_ti_mix_at_rate_one_equals_training_without_it(tmp_path):
    always = {"schedule": "constant"}
    run = {"model": "s", "guidance": {"strategy": "dc_mix"}, "ti_mix": always}
    study = toy_study(tmp_path, runs={"same": run})
    layout = write_inputs(study)

    for run in ("mix", "same", "ti"):
        train(study, layout, run, 0)

    assert same(weights(layout, "same"), weights(layout, "mix"))
    assert not same(weights(layout, "ti"), weights(layout, "mix"))


def test_seeds_differ_and_equal_seeds_agree(tmp_path):
    study = toy_study(tmp_path)
    layout = write_inputs(study)
    train(study, layout, "mar", 0)
    first = weights(layout, "mar", 0)

    train(study, layout, "mar", 0)
    train(study, layout, "mar", 1)

    assert same(first, weights(layout, "mar", 0)) and not same(first, weights(layout, "mar", 1))


def test_a_continued_run_begins_with_its_parents_weights(tmp_path):
    still = {"learning_rate": 1e-30, "weight_decay": 0.0}
    child = {"model": "s", "guidance": {"strategy": "dc_mix"}, "training": still}
    file = tmp_path / "from_{seed}.safetensors"
    runs = {"child": {**child, "parent": "mix"}, "copy": {**child, "start": str(file)}}
    study = toy_study(tmp_path, runs=runs, training={"ema_decay": 0.0})  # averages are the weights
    layout = write_inputs(study)
    train(study, layout, "mix", 0)
    save_weights(tmp_path / "from_0.safetensors", weights(layout, "mix"), {})

    train(study, layout, "child", 0)
    train(study, layout, "copy", 0)

    for run in ("child", "copy"):
        for name, tensor in weights(layout, "mix").items():
            torch.testing.assert_close(weights(layout, run)[name], tensor, rtol=1e-6, atol=1e-7)


def test_the_average_of_a_continued_run_counts_the_steps_before_it(tmp_path, capsys):
    child = {"model": "s", "guidance": MIX, "training": {"ema_decay": 0.9999}}
    file = tmp_path / "elsewhere.safetensors"
    runs = {"child": {**child, "parent": "mix"}, "grandchild": {**child, "parent": "child"}}
    study = toy_study(tmp_path, runs={**runs, "foreign": {**child, "start": str(file)}})
    layout = write_inputs(study)
    train(study, layout, "mix", 0)
    save_weights(file, weights(layout, "mix"), {})

    for run in ("child", "grandchild", "foreign"):
        train(study, layout, run, 0)

    recorded = [read_metadata(layout.weights(run, 0))["steps_before"] for run in ("mix", *runs, "foreign")]
    assert recorded == [0, 4, 8, None]
    kept = {"child": 5 * 6 * 7 * 8 / (14 * 15 * 16 * 17), "grandchild": 9 * 10 * 11 * 12 / (18 * 19 * 20 * 21)}
    said = capsys.readouterr().out
    for run, share in {**kept, "foreign": 0.9996}.items():
        assert re.search(f"train {run} seed 0: ema_decay 0.9999 is slow for 4 steps.* keep {share:.0%} of those", said)


def test_runs_continued_from_one_parent_see_equal_batches_and_other_ones_than_it(tmp_path):
    child = {"model": "s", "guidance": {"strategy": "dc_mix"}, "parent": "mix"}
    again = {"model": "s", "guidance": {"strategy": "dc_mix"}}
    always = {"ti_mix": {"schedule": "constant"}}
    study = toy_study(tmp_path, runs={"plain": child, "mixed": {**child, **always}, "again": again})
    layout = write_inputs(study)

    train(study, layout, "mix", 0)
    shutil.rmtree(layout.root / "checkpoints")  # the parent's moments, which a file does not hold
    for run in ("plain", "mixed"):
        train(study, layout, run, 0)
    restart = toy_study(tmp_path, runs={"again": {**again, "start": str(layout.weights("mix", 0))}})
    train(restart, layout, "again", 0)

    assert same(weights(layout, "plain"), weights(layout, "mixed"))
    assert same(weights(layout, "plain"), weights(layout, "again"))


def test_held_out_images_are_never_trained_on(tmp_path):
    study = toy_study(tmp_path)
    layout = write_inputs(study)
    arrays, metadata = open_shard(layout.token_shard(0))
    arrays = {k: np.array(a) for k, a in arrays.items()}
    for key in ("latents", "latents_flip"):
        arrays[key][:NUM_HELD_OUT] = 6e4  # close to the largest float16: one such image would show in any weight
    write_shard(layout.token_shard(0), arrays, metadata)

    train(study, layout, "mix", 0)
    spoiled = weights(layout, "mix")
    for key in ("latents", "latents_flip"):
        arrays[key][:NUM_HELD_OUT] = 0
    write_shard(layout.token_shard(0), arrays, metadata)
    train(study, layout, "mix", 0)

    assert same(spoiled, weights(layout, "mix"))


CHILD = {"model": "s", "guidance": {"strategy": "dc_mix"}, "parent": "mix"}
LOST = {"model": "s", "start": "/nowhere/seed{seed}.safetensors"}


@pytest.mark.parametrize(
    ("run", "seed", "changes", "inputs", "message"),
    [
        ("mer", 0, {}, {}, "'mer' is unknown; choose from mar, mix, ti"),
        ("mix", 7, {}, {}, r"no seed 7; it has \[0\]"),
        ("child", 0, {"runs": {"child": CHILD}}, {}, "runs.child.parent: .* train run 'mix' with seed 0 first"),
        ("lost", 0, {"runs": {"lost": LOST}}, {}, "runs.lost.start: /nowhere/seed0.safetensors"),
        ("mix", 0, {"training": {"batch_size": 21}}, {}, "21 exceeds the 20 training images"),
        ("mix", 0, {}, {"channels": 4}, "hold 4 latent channels, the study has 8"),
        ("mix", 0, {}, {"num_tokens": 9}, "hold 9 tokens an image, the study has 16"),
        ("mix", 0, {"data": {"num_classes": 2}}, {}, "class 2 is outside the study's 2 classes"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(tmp_path, run, seed, changes, inputs, message):
    assert NUM_IMAGES - NUM_HELD_OUT == 20
    study = toy_study(tmp_path, **changes)
    layout = write_inputs(study, **inputs)

    with pytest.raises(ValueError, match=message):
        train(study, layout, run, seed)

    assert not (layout.root / "checkpoints").exists()


def test_weights_of_another_network_are_refused_with_what_differs(tmp_path):
    start = tmp_path / "mar.safetensors"
    study = toy_study(tmp_path, runs={"wrong": {**LOST, "guidance": {"strategy": "dc_mix"}, "start": str(start)}})
    layout = write_inputs(study)
    train(study, layout, "mar", 0)
    start.write_bytes(layout.weights("mar", 0).read_bytes())

    with pytest.raises(ValueError, match=r"missing: guidance.embed.bias(.|\n)*surplus: guidance.mask_token"):
        train(study, layout, "wrong", 0)
