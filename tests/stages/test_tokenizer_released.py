"""Stages that take released files: tokenizers, generator, latent statistics, and runs with finished weights."""

import pytest
import torch
from released_files import released_state, write_released
from toy_runs import toy_study, write_inputs

from mixar.reporting.results import read_losses, run_settings
from mixar.stages.check import problems
from mixar.stages.generator import generator
from mixar.stages.tokenizer import tokenizer
from mixar.stages.train import train
from mixar.study.errors import SpecError
from mixar.study.layout import Layout
from mixar.weights import read_metadata, read_weights

VAE = {"channels": 32, "multipliers": (1, 1), "num_res_blocks": 1, "latent_channels": 8, "attention_levels": ()}
MASKBIT = {"channels": 32, "multipliers": (1, 1), "num_res_blocks": 1, "bits": 4}
GENERATOR = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 16, "splits": 2, "bits": 4, "num_tokens": 16}
MAR = {"width": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "buffer_size": 2, "head_depth": 1}
MAR |= {"head_width": 16, "num_tokens": 16, "channels": 8, "num_classes": 3}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_tokenizers_and_generator_are_imported_from_released_files(tmp_path):
    files = {kind: str(tmp_path / f"{kind}.pt") for kind in ("vavae", "maskbit-tokenizer", "maskbit-generator")}
    dims = {"vavae": VAE, "maskbit-tokenizer": MASKBIT, "maskbit-generator": {**GENERATOR, "num_classes": 3}}
    states = {kind: released_state(kind, dims=dims[kind]) for kind in files}
    for kind, file in files.items():
        write_released(file, kind, states[kind])
    torch.save({"mean": torch.zeros(1, 8, 1, 1), "std": torch.ones(1, 8, 1, 1)}, tmp_path / "latents_stats.pt")
    study = toy_study(
        tmp_path,
        continuous={"weights": files["vavae"], "statistics": str(tmp_path / "latents_stats.pt")},
        discrete={"weights": files["maskbit-tokenizer"]},
        generator={"weights": files["maskbit-generator"]},
    )
    layout = Layout(study)

    tokenizer(study, layout, "continuous")
    tokenizer(study, layout, "discrete")
    generator(study, layout)

    assert_same(read_weights(layout.tokenizer("continuous")), states["vavae"])
    assert_same(read_weights(layout.tokenizer("discrete")), states["maskbit-tokenizer"])
    renamed = {key.replace("token_emb.", "input_proj."): value for key, value in states["maskbit-generator"].items()}
    assert_same(read_weights(layout.generator), renamed)
    assert_same(read_weights(layout.statistics), {"mean": torch.zeros(8), "std": torch.ones(8)})
    assert len(read_metadata(layout.tokenizer("discrete"))["sha256"]) == 64


def test_mars_own_tokenizer_is_imported_with_its_one_factor(tmp_path):
    sizes = {**VAE, "attention_levels": (1,), "decoder_attention": False}
    state = write_released(tmp_path / "kl16.ckpt", "kl16", released_state("kl16", dims=sizes))
    settings = {**sizes, "weights": str(tmp_path / "kl16.ckpt"), "scale": 0.2325, "train": None}
    study = toy_study(tmp_path, continuous=settings)
    layout = Layout(study)  # no manifest is there: no image is read

    assert problems(study) == []
    tokenizer(study, layout, "continuous")

    assert_same(read_weights(layout.tokenizer("continuous")), state)
    assert_same(read_weights(layout.statistics), {"mean": torch.zeros(8), "std": torch.full((8,), 1 / 0.2325)})


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ({"mean": torch.zeros(1, 32, 1, 1), "std": torch.ones(1, 32, 1, 1)}, "expected mean and std of 8 channels"),
        ({"mean": torch.zeros(8)}, "expected mean and std of 8 channels, found {'mean': "),
        ({"mean": torch.zeros(8), "std": torch.zeros(8)}, "above zero in every channel"),
        ({"mean": torch.zeros(8) / 0, "std": torch.ones(8)}, "the mean must be finite"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(found, message, tmp_path):
    torch.save(found, tmp_path / "stats.pt")
    write_released(tmp_path / "v.pt", "vavae", released_state("vavae", dims=VAE))
    study = toy_study(
        tmp_path, continuous={"weights": str(tmp_path / "v.pt"), "statistics": str(tmp_path / "stats.pt")}
    )

    with pytest.raises(ValueError, match=message):
        tokenizer(study, Layout(study), "continuous")


def with_weights(tmp_path, **settings):
    path = tmp_path / "checkpoint-last.pth"
    run = {"label": "MAR-B", "model": "s", "weights": str(path), "start_epochs": 800, **settings}
    return toy_study(tmp_path, runs={"released": run}), path


def test_a_run_with_finished_weights_is_imported_and_not_trained(tmp_path):
    study, path = with_weights(tmp_path)
    state = write_released(path, "mar", released_state("mar", dims=MAR))
    layout = Layout(study)  # no token shards are there: nothing is trained

    train(study, layout, "released", 0)

    expected = {"guidance.mask_token" if key == "mask_token" else key: value for key, value in state.items()}
    assert_same(read_weights(layout.weights("released", 0)), expected)
    assert len(read_losses(layout.losses("released", 0))) == 0
    assert read_metadata(layout.weights("released", 0))["source"] == str(path)
    settings = run_settings(study, "released")
    assert (settings["epochs"], settings["epochs_total"]) == (0, 800)


def test_training_may_start_from_a_released_file(tmp_path):
    path = tmp_path / "checkpoint-last.pth"
    study = toy_study(tmp_path, runs={"more": {"label": "MAR, continued", "model": "s", "start": str(path)}})
    write_released(path, "mar", released_state("mar", dims=MAR))
    layout = write_inputs(study)

    train(study, layout, "more", 0)

    assert len(read_losses(layout.losses("more", 0))) > 0


def test_finished_weights_that_are_missing_or_do_not_fit_are_named(tmp_path):
    study, path = with_weights(tmp_path)
    with pytest.raises(ValueError, match=r"runs\.released\.weights: .*no such file"):
        train(study, Layout(study), "released", 0)

    write_released(path, "mar", released_state("mar", dims={**MAR, "width": 32}))
    with pytest.raises(ValueError, match=r"does not fit MAR \(41 differences\)\n .*shape"):
        train(study, Layout(study), "released", 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": "a.pth"}, "`start` and `weights` each say where weights come from; keep one"),
        ({"training": {"epochs": 3}}, "nothing is trained, so `ti_mix` and `training` have no meaning"),
    ],
)
def test_finished_weights_exclude_training_settings(settings, message, tmp_path):
    with pytest.raises(SpecError, match=message):
        with_weights(tmp_path, **settings)


@pytest.mark.parametrize("section", ["continuous", "discrete", "generator"])
def test_check_refuses_sizes_that_no_network_can_have(tmp_path, section):
    key = "width" if section == "generator" else "channels"
    study = toy_study(tmp_path, **{section: {key: 10**9 - 10**9 % 64}})
    widest = study.model_copy(update={"data": study.data.model_copy(update={"num_classes": 10**9})})

    found = problems(widest)

    assert found[0].startswith(f"{section}: no network can have these sizes (")


def test_check_builds_a_feature_network_of_any_size_without_its_memory(tmp_path):
    study = toy_study(tmp_path)
    many = study.data.model_copy(update={"num_classes": 10**9})
    extractor = study.scoring.extractor.model_copy(update={"channels": 10**9 - 10**9 % 64})
    wide = study.scoring.model_copy(update={"extractor": extractor})

    found = problems(study.model_copy(update={"data": many, "scoring": wide}))

    assert any(line.startswith("scoring.extractor: no network can have these sizes (") for line in found)
