"""`sample`: paired noise, decoding of latents to pixels, independent shards, and errors."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_runs import toy_study, write_inputs

from mixar.data.images import read_images, unit_to_uint8, write_images
from mixar.data.shards import read_generated
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.scoring.protocols import PROTOCOLS
from mixar.stages.sample import sample
from mixar.study.digests import seed_of
from mixar.tokens import tokenizers
from mixar.tokens.latents import latent_decoder
from mixar.weights import load_module, read_weights, save_weights

SHARDS = (0, 1)
CPU = torch.device("cpu")


@pytest.fixture
def drawn(tmp_path):
    """A study whose runs have weights: `mar` has the same ones for both seeds, `mix` others."""
    study = toy_study(tmp_path)
    layout = write_inputs(study)
    for run, seed in (("mar", 0), ("mar", 1), ("mix", 0)):
        torch.manual_seed(5)
        model = MAR.from_study(study, run)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.2)
        save_weights(layout.weights(run, seed), model.state_dict(), {})
    return study, layout


def images_of(layout, run, seed, shard, sampler="default"):
    return read_images(layout.samples(run, seed, sampler, shard))


def test_every_evaluation_image_is_drawn_once_with_its_label(drawn):
    study, layout = drawn

    for shard in SHARDS:
        sample(study, layout, "mix", 0, "default", shard)

    parts = [images_of(layout, "mix", 0, shard) for shard in SHARDS]
    assert np.concatenate([index for index, _, _ in parts]).tolist() == list(range(6))
    for shard, (_, labels, images) in zip(SHARDS, parts, strict=True):
        assert labels.tolist() == read_generated([layout.generated_shard(shard)])[1].tolist()
        assert images.shape[1:] == (8, 8, 3) and images.dtype == np.uint8


def test_decoding_while_the_next_batch_is_drawn_gives_the_pixels_of_decoding_in_turn(drawn):
    study, layout = drawn
    threads = {}

    def note(module, *_):
        threads.setdefault(type(module).__name__, set()).add(threading.current_thread().name)

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    sample(study, layout, "mix", 0, "default", 0)
    hook.remove()

    assert threads["Block"] == {"MainThread"} and threads["Decoder"] == {"images_0"}
    model = load_module(MAR.from_study(study, "mix"), layout.weights("mix", 0))
    tokens, labels, index = read_generated([layout.generated_shard(0)])
    decode, size, images = latent_decoder(study, layout, CPU), study.evaluation.batch_size, []
    assert len(tokens) > size, "one batch would have no next one"
    for number, start in enumerate(range(0, len(tokens), size)):
        rng = torch.Generator().manual_seed(seed_of(study.evaluation.seed, "sample", 0, number))
        q, c = tokens[start : start + size], labels[start : start + size]
        with torch.inference_mode():
            images.append(unit_to_uint8(decode(sample_latents(model, q, c, study.samplers["default"], rng))))
    found = images_of(layout, "mix", 0, 0)
    assert found[0].tolist() == index.tolist() and np.array_equal(found[2], torch.cat(images).numpy())


def test_a_failure_while_decoding_ends_the_job_and_names_the_batch(drawn):
    study, layout = drawn
    path = layout.tokenizer("continuous")
    weights = read_weights(path)
    name = "decoder.conv_out.weight"
    save_weights(path, {**weights, name: torch.full_like(weights[name], 3e38)}, {})

    with pytest.raises(FloatingPointError, match="sample mix seed 0 default shard 0 batch 0: pixels of"):
        sample(study, layout, "mix", 0, "default", 0)


def test_a_new_shard_says_nothing_of_continuing(drawn, capsys):
    sample(*drawn, "mix", 0, "default", 0)

    said = capsys.readouterr().out
    assert "continues" not in said and "sample mix seed 0 default shard 0: 4/4 images, " in said


class CutError(Exception):
    """The error that ends an interrupted job."""


def cut(_path):
    raise CutError


def test_an_interrupted_job_draws_only_its_missing_batches(drawn):
    study, layout = drawn
    target = layout.samples("mix", 0, "default", 0)
    sample(study, layout, "mix", 0, "default", 0)
    index, labels, whole = images_of(layout, "mix", 0, 0)
    target.unlink()
    with pytest.raises(CutError):
        sample(study, layout, "mix", 0, "default", 0, cut)
    target.unlink()  # as Snakemake does
    first, second = sorted(layout.root.glob("checkpoints/sample-mix-seed0-default-00000-*/*"))
    write_images(first, index[:3], labels[:3], np.zeros_like(whole[:3]))  # black images, to be recognised below
    second.unlink()

    sample(study, layout, "mix", 0, "default", 0)

    found_index, _, found = images_of(layout, "mix", 0, 0)
    assert found_index.tolist() == index.tolist()
    assert not found[:3].any() and np.array_equal(found[3:], whole[3:])
    assert not first.exists()


def test_images_are_kept_while_their_inputs_are_unchanged(drawn):
    study, layout = drawn
    target, seen = layout.samples("mix", 0, "default", 0), []
    sample(study, layout, "mix", 0, "default", 0)
    inode = target.stat().st_ino

    sample(study, layout, "mix", 0, "default", 0, seen.append)
    kept = target.stat().st_ino
    save_weights(layout.statistics, {"mean": torch.zeros(8), "std": torch.ones(8)}, {})
    sample(study, layout, "mix", 0, "default", 0)

    assert kept == inode and seen == [target]
    assert target.stat().st_ino != inode, "other statistics, other images"


def test_all_runs_and_seeds_get_the_same_noise(drawn):
    study, layout = drawn

    sample(study, layout, "mar", 0, "default", 0)
    sample(study, layout, "mar", 1, "default", 0)
    sample(study, layout, "mix", 0, "default", 0)

    first, equal, other = (images_of(layout, *names, 0)[2] for names in (("mar", 0), ("mar", 1), ("mix", 0)))
    assert np.array_equal(first, equal) and not np.array_equal(first, other)


def test_a_shard_does_not_depend_on_which_others_were_drawn_before(drawn):
    study, layout = drawn
    for shard in SHARDS:
        sample(study, layout, "mix", 0, "default", shard)
    after = images_of(layout, "mix", 0, 1)[2]

    torch.manual_seed(99)
    sample(study, layout, "mix", 0, "default", 1)

    assert np.array_equal(after, images_of(layout, "mix", 0, 1)[2])


def test_each_batch_has_its_own_noise(drawn):
    study, layout = drawn
    sample(study, layout, "mar", 0, "default", 0)

    images = images_of(layout, "mar", 0, 0)[2]  # batches of 3 and 1, equal labels, and MAR ignores the tokens

    assert not np.array_equal(images[0], images[3])


def test_maskbits_images_are_the_decoded_tokens(drawn):
    study, layout = drawn
    tokens, _, _ = read_generated([layout.generated_shard(1)])
    model = tokenizers.load("discrete", study.discrete, layout.tokenizer("discrete"))

    sample(study, layout, "maskbit", 0, "default", 1)

    expected = (model.decode_tokens(tokens) * 255).round().byte().movedim(1, -1)
    assert np.array_equal(images_of(layout, "maskbit", 0, 1)[2], expected.detach().numpy())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("mer", 0, "default", 0), "'mer' is unknown; choose from mar, mix, ti, maskbit"),
        (("mix", 3, "default", 0), r"no seed 3; it has \[0\]"),
        (("mix", 0, "quick", 0), "'quick' is unknown; choose from default"),
        (("mix", 0, "default", 2), "shard 2 does not exist; the study has 2, from 0"),
        (("ti", 0, "default", 0), "no such weights file"),
    ],
)
def test_unknown_names_and_missing_weights_are_refused(drawn, names, message):
    study, layout = drawn

    with pytest.raises(ValueError, match=message):
        sample(study, layout, *names)


def test_statistics_of_another_tokenizer_are_refused(drawn):
    study, layout = drawn
    save_weights(layout.statistics, {"mean": torch.zeros(4), "std": torch.ones(4)}, {})

    with pytest.raises(ValueError, match=r"expected 'mean' of shape \[8\], found \[4\]"):
        sample(study, layout, "mix", 0, "default", 0)


def test_generated_tokens_of_another_grid_are_refused(drawn, tmp_path):
    _, layout = drawn
    larger = toy_study(tmp_path, data={"image_size": 16})

    with pytest.raises(ValueError, match="16 tokens per image, but the study's grid has 64"):
        sample(larger, layout, "maskbit", 0, "default", 0)


def test_pixels_are_rounded_as_the_protocol_says(drawn, monkeypatch):
    study, layout = drawn
    sample(study, layout, "mix", 0, "default", 0)
    nearest = images_of(layout, "mix", 0, 0)[2].astype(int)

    protocol = PROTOCOLS[study.scoring.protocol]
    monkeypatch.setitem(PROTOCOLS, study.scoring.protocol, replace(protocol, rounding="down"))
    layout.samples("mix", 0, "default", 0).unlink()
    sample(study, layout, "mix", 0, "default", 0)

    assert set(np.unique(nearest - images_of(layout, "mix", 0, 0)[2])) == {0, 1}
