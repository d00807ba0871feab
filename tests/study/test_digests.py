"""What a digest depends on: each setting changes the digests of the stages that it concerns, and of no others."""

import os
import subprocess
import sys

import pytest
from study_changes import put

from mixar.study.digests import Digests, seed_of
from mixar.study.load import parse_study


def digests(content):
    d = Digests(parse_study(content))
    return {
        "tokenize": d.tokenize(),
        "generate": d.generate(),
        "mar": d.train("mar", 0),
        "dc_mix": d.train("dc_mix", 0),
        "dc_mix_long": d.train("dc_mix_long", 0),
        "dc_mix_timix": d.train("dc_mix_timix", 0),
        "sample mar": d.sample("mar", 0, "default"),
        "score": d.score(),
        "score reconstruct": d.score_reconstruction(),
        "reconstruct": d.reconstruct("continuous"),
        "measure mar": d.measure("mar"),
    }


TRAININGS = {"mar", "dc_mix", "dc_mix_long", "dc_mix_timix"}
IMAGES = {"sample mar", "reconstruct", "measure mar"}
BATCH = 16  # images of a training step of the smoke study


@pytest.mark.parametrize(
    ("change", "concerned"),
    [
        (put("hardware", {"device": "cuda", "gpus": 4, "card": "h200", "micro_batch": 2, "compile": True}), set()),
        (put("runs", "mar", "label", "Plain"), set()),
        (put("samplers", "default", "cfg", 1.5), {"sample mar", "measure mar"}),
        # dc_mix_timix continues a milestone, which a longer parent leaves as it is
        (put("training", "epochs", 3), TRAININGS - {"dc_mix_timix"} | {"sample mar"}),
        (put("runs", "mar", "training", {"epochs": 3}), {"mar", "sample mar"}),
        # one group, which has one rate: nothing changes
        (put("runs", "mar", "training", {"mask_group": BATCH, "equal_mask_rates": True}), set()),
        (put("runs", "mar", "training", {"equal_mask_rates": True}), set()),
        (put("runs", "mar", "training", {"mask_group": 1}), {"mar", "sample mar"}),
        (put("runs", "dc_mix", "training", {"epochs": 3, "milestones": [1, 2]}), {"dc_mix", "dc_mix_long"}),
        (put("runs", "dc_mix_timix", "ti_mix", {"end": 0.5}), {"dc_mix_timix"}),
        (put("generator", "depth", 2), {"generate", "dc_mix_timix", "sample mar", "measure mar"}),
        (put("continuous", "latent_channels", 8), TRAININGS | {"tokenize", "generate"} | IMAGES),
        (put("scoring", "kid_subsets", 5), {"score"}),
        (
            put("scoring", "reconstructions", "vavae-val-rfid"),
            {"score", "reconstruct", "score reconstruct"},
        ),  # another crop and rounding
        (put("scoring", "protocol", "adm256-gfid"), {"score", "reconstruct", "score reconstruct", "sample mar"}),
        (put("scoring", "jackknife_groups", 4), {"score", "score reconstruct"}),
        (put("evaluation", "batch_size", 9), {"score", "generate", "sample mar", "measure mar"}),
    ],
)
def test_a_changed_setting_concerns_exactly_the_stages_that_depend_on_it(smoke, change, concerned):
    before = digests(smoke)

    change(smoke)
    after = digests(smoke)

    assert {name for name in before if before[name] != after[name]} == concerned


def test_digests_do_not_depend_on_the_process(smoke, root):
    code = (
        "import yaml; from mixar.study.digests import Digests;"
        "from mixar.study.digests import seed_of; from mixar.study.load import load_study;"
        "print(Digests(load_study('config/smoke.yaml')).train('dc_mix_timix', 0), seed_of('a', 1))"
    )

    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert outputs == {f"{Digests(parse_study(smoke)).train('dc_mix_timix', 0)} {seed_of('a', 1)}\n"}


def test_seeds_differ_wherever_a_part_differs():
    seeds = {seed_of(*parts) for parts in [(0,), (1,), (0, 0), ("0",), (0, "a"), (0, "b"), ("a", 0)]}

    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_an_own_tokenizer_is_part_of_what_identifies_the_study(smoke):
    smoke["continuous"] |= {"network": "my_tokenizer:Mine", "options": {"depth": 2}, "channels": 5}
    study = parse_study(smoke)
    smoke["continuous"]["options"]["depth"] = 3

    assert parse_study(study.model_dump(mode="json")) == study
    assert Digests(parse_study(smoke)).tokenize() != Digests(study).tokenize()


@pytest.mark.parametrize("key", ["training", "runs"])
def test_what_is_only_watched_changes_no_digest(smoke, key):
    before = Digests(parse_study(smoke))
    watched = {"held_out_images": 8, "expected": {1: [0.5, 1.5], "2": [0.25, 1]}}
    if key == "training":
        smoke["training"] |= watched
    else:
        smoke["runs"]["mar"]["training"] = watched
    study = parse_study(smoke)

    after = Digests(study)
    assert study.training_of("mar").expected == {1: (0.5, 1.5), 2: (0.25, 1.0)}
    assert after.train("mar", 0) == before.train("mar", 0)
    assert after.measure("mar") == before.measure("mar")
    assert after.sample("mar", 0, "default") == before.sample("mar", 0, "default")
