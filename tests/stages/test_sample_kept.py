"""`sample` with evaluation.keep_images: scores of images of which only the first are kept."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from toy_runs import write_networks
from toy_scored import house as house
from toy_scored import pictures as pictures

from mixar.data.images import read_images
from mixar.model.mar import MAR
from mixar.stages.export import export
from mixar.stages.features import extraction, image_features
from mixar.stages.generate import generate
from mixar.stages.sample import sample
from mixar.stages.score import score_samples
from mixar.study.digests import Digests
from mixar.study.errors import SpecError
from mixar.study.layout import Layout
from mixar.study.load import parse_study
from mixar.weights import save_weights

NAMES = "dc_mix", 0, "default"


def keeping(study, keep, **changes):
    """The same study, with so many images of each file; batches do not divide a forward pass of the features."""
    content = study.model_dump(mode="json")
    content["evaluation"] |= {"keep_images": keep, "batch_size": 7}
    content["report"] |= {"grid": [2, 3]}
    for section, change in changes.items():
        content[section] |= change
    return parse_study(content)


@pytest.fixture
def drawable(house):
    """A study that keeps all images, its networks and its tokens."""
    study = keeping(house[0], "all")
    layout = Layout(study)
    write_networks(study, layout)
    torch.manual_seed(5)
    save_weights(layout.weights("dc_mix", 0), MAR.from_study(study, "dc_mix").state_dict(), {})
    for shard in range(study.evaluation.num_shards):
        generate(study, layout, shard)
    return study, layout


def scored(study, layout):
    """Draw and score; returns the features of all images, and the rows without the time they were made."""
    then, shards = extraction(study, layout), range(study.evaluation.num_shards)
    for shard in shards:
        sample(study, layout, *NAMES, shard, then)
    score_samples(study, layout, *NAMES)
    features = [pq.read_table(layout.features(layout.samples(*NAMES, shard))) for shard in shards]
    rows = pq.read_table(layout.scores("sample", *NAMES)).drop_columns("created")
    return features, rows


def test_features_and_scores_are_those_of_kept_images_bit_for_bit(drawable):
    study, layout = drawable
    features, rows = scored(study, layout)
    whole = [read_images(layout.samples(*NAMES, shard)) for shard in range(study.evaluation.num_shards)]

    again, same = scored(keeping(study, 8), layout)

    assert all(one.equals(other) for one, other in zip(features, again, strict=True)) and rows.equals(same)
    for shard, parts in enumerate(whole):
        kept = read_images(layout.samples(*NAMES, shard))
        assert len(kept[0]) == 8
        assert all(np.array_equal(few, part[:8]) for few, part in zip(kept, parts, strict=True))
    assert not list(layout.root.glob("checkpoints/sample-*"))


def test_a_job_that_was_cut_draws_only_what_is_missing_and_keeps_what_was_drawn_until_there_are_features(drawable):
    study = keeping(drawable[0], 8)
    layout, calls = drawable[1], []

    def cut(*_):
        raise KeyboardInterrupt

    def note(_, drawn):
        calls.append(len(drawn[0]))

    with pytest.raises(KeyboardInterrupt):
        sample(study, layout, *NAMES, 0, cut)
    parts = sorted(layout.root.glob("checkpoints/sample-*/*.safetensors"))
    times = [part.stat().st_mtime_ns for part in parts]
    parts[1].unlink()
    sample(study, layout, *NAMES, 0, note)

    assert len(times) > 2 and calls == [study.evaluation.shard_size]


def test_what_needs_all_images_is_refused_with_the_key(drawable, tmp_path):
    study, layout = keeping(drawable[0], 8), drawable[1]

    with pytest.raises(ValueError, match="evaluation.keep_images: 8, .*; give --with-features"):
        sample(study, layout, *NAMES, 0)
    sample(study, layout, *NAMES, 0, extraction(study, layout))
    with pytest.raises(ValueError, match="holds the first 8 of its images .evaluation.keep_images.; .* run `sample"):
        image_features(study, layout, layout.samples(*NAMES, 0))
    with pytest.raises(ValueError, match="evaluation.keep_images: 8, but export needs all"):
        export(study, layout, *NAMES, tmp_path / "images.npz")


def test_no_digest_but_that_of_the_files_of_images_depends_on_how_many_are_kept(drawable):
    study = drawable[0]
    whole, few = Digests(study), Digests(keeping(study, 8))

    for stage in ("generate", "score", "features"):
        assert getattr(whole, stage)() == getattr(few, stage)()
    assert whole.measure("mar") == few.measure("mar")
    for names in (NAMES, ("maskbit", 0, "default")):
        assert whole.sample(*names) != few.sample(*names) != Digests(keeping(study, 9)).sample(*names)


@pytest.mark.parametrize(
    ("keep", "changes", "said"),
    [
        (5, {}, "evaluation.keep_images: 5 of each file, but figure 2 shows 16 images of 2 files; keep 8 or more"),
        (8, {"report": {"grid": [2, 9]}}, "8 of each file, but figure 6 shows 18 images of 2 files; keep 9 or more"),
        (8, {"scoring": {"copies": True}}, "evaluation.keep_images: 8, but scoring.copies compares the pixels of all"),
    ],
)
def test_a_sheet_that_needs_more_images_is_refused_before_any_job(drawable, keep, changes, said):
    with pytest.raises(SpecError, match=said):
        keeping(drawable[0], keep, **changes)
