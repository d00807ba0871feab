"""Guidance sweeps: draws of their own, a choice that is recorded, and final images drawn with it."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from toy_runs import write_networks
from toy_scored import house as house
from toy_scored import pictures as pictures

from mixar.data.images import read_images
from mixar.data.shards import read_generated
from mixar.model.mar import MAR
from mixar.scoring.files import read_features, write_features
from mixar.scoring.sweeps import chosen
from mixar.stages.features import extraction
from mixar.stages.generate import generate, generate_for_sweep
from mixar.stages.sample import sample, sample_sweep
from mixar.stages.score import score_samples, score_sweep
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.study.load import parse_study
from mixar.weights import save_weights

IMAGES, SCALES = 30, [1.5, 2.5, 4.0]  # two shards of at most 20 images


def rows_of(path):
    return pq.read_table(path).to_pylist()


def with_sweep(study, **sweep):
    """The same study, whose runs mar and dc_mix have a sweep."""
    content = study.model_dump(mode="json")
    for run in ("mar", "dc_mix"):
        content["runs"][run]["sweep"] = {"cfg": SCALES, "num_images": IMAGES, **sweep}
    return parse_study(content)


@pytest.fixture
def swept(house):
    """The study with sweeps and all networks that it draws with; those of its runs are untrained."""
    study = with_sweep(house[0])
    layout = Layout(study)
    write_networks(study, layout)
    for run, seed in (("mar", 0), ("dc_mix", 0), ("dc_mix", 1)):
        torch.manual_seed(5)
        model = MAR.from_study(study, run)
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.3)
        save_weights(layout.weights(run, seed), model.state_dict(), {})
    for shard in (0, 1):
        generate_for_sweep(study, layout, IMAGES, shard)
    for shard in range(study.evaluation.num_shards):
        generate(study, layout, shard)
    return study, layout


def swept_out(study, layout, run="dc_mix"):
    for shard in (0, 1):
        sample_sweep(study, layout, run, "default", shard)
    score_sweep(study, layout, run, "default")
    return json.loads(layout.chosen_cfg(run, "default").read_text())


def test_the_smallest_distance_chooses_the_scale_and_every_scale_has_a_row(swept):
    study, layout = swept

    choice = swept_out(study, layout)
    rows = rows_of(layout.sweep_scores("dc_mix", "default"))

    assert [row["cfg"] for row in rows] == SCALES and {row["metric"] for row in rows} == {"fd"}
    assert {(row["source"], row["n"], row["seed"]) for row in rows} == {("sweep", IMAGES, 0)}
    best = min(rows, key=lambda row: row["value"])
    assert (choice["cfg"], choice["value"]) == (best["cfg"], best["value"])
    assert best["cfg"] in choice["not_worse"]
    assert len({row["value"] for row in rows}) == 3 and all(row["low"] < row["value"] < row["high"] for row in rows)


def test_a_sweep_shares_no_token_and_no_noise_with_the_images_that_are_scored(swept):
    study, layout = swept
    ours, labels, _ = read_generated([layout.generated_for_sweep(IMAGES, s) for s in (0, 1)])
    theirs, _, _ = read_generated([layout.generated_shard(s) for s in (0, 1)])
    assert np.bincount(labels).tolist() == [10, 10, 10]  # whole, not the first of the evaluation's
    assert not torch.equal(ours[:12], theirs[:12])

    # with the same tokens, the noise alone differs
    layout.generated_shard(0).write_bytes(layout.generated_for_sweep(IMAGES, 0).read_bytes())
    choice = swept_out(study, layout, "mar")
    sample(study, layout, "mar", 0, "default", 0, extraction(study, layout))
    swept_features = read_features([layout.sweep_features("mar", "default", 0)], choice["cfg"])
    drawn = read_features([layout.features(layout.samples("mar", 0, "default", 0))])
    assert swept_features.features.index.tolist() == drawn.features.index.tolist()
    assert not torch.allclose(swept_features.features.features[0], drawn.features.features[0], atol=1e-4)


def test_scales_of_a_sweep_share_their_noise(swept):
    study, layout = swept
    content = study.model_dump(mode="json")
    content["runs"]["mar"]["sweep"]["cfg"] = [2.0, 2.0 + 1e-7]  # float32 does not tell them apart by much
    study = parse_study(content)

    sample_sweep(study, layout, "mar", "default", 0)
    first, second = (
        read_features([layout.sweep_features("mar", "default", 0)], cfg) for cfg in study.runs["mar"].sweep.cfg
    )

    assert torch.allclose(first.features.features, second.features.features, atol=1e-3)


def test_the_scored_images_equal_those_of_a_study_with_the_chosen_scale_and_record_it(swept):
    study, layout = swept
    scale = swept_out(study, layout)["cfg"]
    content = study.model_dump(mode="json")
    content["samplers"]["default"]["cfg"] = scale
    content["runs"]["dc_mix"]["sweep"] = None
    fixed = parse_study(content)

    for shard in range(study.evaluation.num_shards):
        sample(study, layout, "dc_mix", 0, "default", shard, extraction(study, layout))
    path = layout.samples("dc_mix", 0, "default", 0)
    images, drawn_at = read_images(path)[2], path.stat().st_ino
    score_samples(study, layout, "dc_mix", 0, "default")
    sample(fixed, layout, "dc_mix", 0, "default", 0)

    assert path.stat().st_ino == drawn_at  # the same file
    path.unlink()
    sample(fixed, layout, "dc_mix", 0, "default", 0)
    assert np.array_equal(read_images(path)[2], images)
    assert {row["cfg"] for row in rows_of(layout.scores("sample", "dc_mix", 0, "default"))} == {scale}
    assert chosen(study, layout, "dc_mix", "default").cfg == scale


def test_all_seeds_of_a_run_use_the_scale_of_its_first(swept):
    study, layout = swept
    swept_out(study, layout)

    sample(study, layout, "dc_mix", 1, "default", 0)  # needs no sweep of its own

    assert layout.samples("dc_mix", 1, "default", 0).is_file()


def test_an_interrupted_sweep_draws_only_what_is_missing(swept):
    study, layout = swept
    target = layout.sweep_features("mar", "default", 0)
    sample_sweep(study, layout, "mar", "default", 0)
    whole = {cfg: read_features([target], cfg).features.features for cfg in SCALES}
    assert not list(layout.root.glob("checkpoints/sweep-*"))
    target.unlink()
    target.mkdir()  # so that the job dies at its end
    with pytest.raises(OSError):
        sample_sweep(study, layout, "mar", "default", 0)
    target.rmdir()
    first, second, third = sorted(layout.root.glob("checkpoints/sweep-mar-default-00000-*/*.parquet"))
    kept = read_features([third])
    none = torch.zeros_like(kept.features.features)
    outputs = (none, kept.features.logits)
    write_features(first, kept.features.index, kept.features.labels, outputs, kept.header, cfg=SCALES[0])
    second.unlink()

    sample_sweep(study, layout, "mar", "default", 0)

    found = {cfg: read_features([target], cfg).features.features for cfg in SCALES}
    assert not found[SCALES[0]].any()  # the black ones, kept as they were
    assert all(torch.equal(found[cfg], whole[cfg]) for cfg in SCALES[1:])


def test_images_are_not_drawn_before_there_is_a_choice_of_these_settings(swept):
    study, layout = swept
    with pytest.raises(ValueError, match=r"default.json: no scale is chosen yet; run `score --sweep --run dc_mix"):
        sample(study, layout, "dc_mix", 0, "default", 0)

    swept_out(study, layout)
    wider = with_sweep(study, cfg=[*SCALES, 6.0])
    with pytest.raises(ValueError, match="chosen under other settings; run `score --sweep"):
        sample(wider, layout, "dc_mix", 0, "default", 0)
    layout.chosen_cfg("dc_mix", "default").write_text("{")
    with pytest.raises(ValueError, match="default.json: damaged"):
        sample(study, layout, "dc_mix", 0, "default", 0)


@pytest.mark.parametrize(
    ("run", "sampler", "said"),
    [
        ("maskbit", "default", "run 'maskbit' decodes given tokens and has no guidance scale"),
        ("dc_sa", "default", "run 'dc_sa' has no sweep of sampler 'default'; the study has: mar default, dc_mix@1"),
        ("nothing", "default", "run 'nothing' is unknown"),
        ("mar", "other", "sampler 'other' is unknown"),
    ],
)
def test_what_has_no_sweep_is_refused(house, run, sampler, said):
    study = with_sweep(house[0])

    for stage in (lambda *a: sample_sweep(*a, 0), score_sweep):
        with pytest.raises(ValueError, match=said):
            stage(study, house[1], run, sampler)


def test_tokens_for_sweeps_that_no_run_has_are_refused(house):
    with pytest.raises(ValueError, match="no run has a sweep of 99 images; the study's have 30"):
        generate_for_sweep(with_sweep(house[0]), house[1], 99, 0)
    with pytest.raises(ValueError, match="shard 2 does not exist; the study has 2"):
        generate_for_sweep(with_sweep(house[0]), house[1], IMAGES, 2)


def test_a_sweep_changes_the_digest_of_its_own_images_alone(house):
    study = house[0]
    plain, swept = Digests(study), Digests(with_sweep(study))

    assert plain.sample("dc_mix", 0, "default") != swept.sample("dc_mix", 0, "default")
    assert plain.sample("dc_sa", 0, "default") == swept.sample("dc_sa", 0, "default")
    for stage in ("generate", "score", "features"):
        assert getattr(plain, stage)() == getattr(swept, stage)()
    assert plain.train("dc_mix", 0) == swept.train("dc_mix", 0) and plain.measure("dc_sa") == swept.measure("dc_sa")
    other = with_sweep(
        study.model_copy(update={"samplers": {"default": study.samplers["default"].model_copy(update={"cfg": 9.0})}})
    )
    assert Digests(other).sample("dc_mix", 0, "default") == swept.sample("dc_mix", 0, "default")  # cfg has no effect


def test_a_measurement_depends_on_the_sweep_until_there_is_a_scale_and_then_on_the_scale_alone(house):
    study, digests = with_sweep(house[0]), Digests(with_sweep(house[0]))
    plain = Digests(house[0]).measure("dc_mix")
    same = {name: study.samplers[name] for name in study.runs["dc_mix"].samplers}
    other = {name: sampler.model_copy(update={"cfg": 1.0}) for name, sampler in same.items()}

    assert digests.measure("dc_mix") not in (plain, Digests(with_sweep(study, num_images=20)).measure("dc_mix"))
    assert digests.measure("dc_mix", same) == plain != digests.measure("dc_mix", other)
