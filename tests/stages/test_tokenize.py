"""`tokenize`: shards of normalised latents and of tokens, for every image and its mirror image."""

import pytest
import torch
from toy_runs import toy_study
from toy_tokens import EMOJI, prepared

from mixar.data.images import images_to_unit, load_images
from mixar.data.manifest import read_manifest
from mixar.data.shards import TokenStore, open_shard
from mixar.stages.tokenize import tokenize
from mixar.study.layout import Layout
from mixar.tokens import tokenizers


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory):
    study, layout = prepared(tmp_path_factory.mktemp("tokens"))
    for shard in range(2):
        tokenize(study, layout, shard)
    return study, layout, TokenStore(layout.token_shards())


def images_of(study, layout, split=None):
    return images_to_unit(load_images(read_manifest(layout.manifest, split), study.data.image_size))


def test_shards_cover_every_row_of_the_manifest_once_and_in_order(tokenized):
    _, layout, store = tokenized
    manifest = read_manifest(layout.manifest)

    assert store.index.tolist() == list(range(30))
    assert store.labels.tolist() == manifest["label"].to_pylist()
    assert store.held_out.tolist() == [split == "held_out" for split in manifest["split"].to_pylist()]
    assert [len(open_shard(p)[0]["labels"]) for p in layout.token_shards()] == [15, 15]


@pytest.mark.parametrize("mirrored", [False, True])
def test_stored_latents_are_the_normalised_posterior_in_row_major_order(tokenized, mirrored):
    study, layout, store = tokenized
    images = images_of(study, layout)
    model = tokenizers.load("continuous", study.continuous, layout.tokenizer("continuous"))
    with torch.no_grad():
        mean, _ = model.encode((images.flip(-1) if mirrored else images) * 2 - 1)

    x = store.batch(range(30), [mirrored] * 30)["x"]

    channels = torch.arange(study.continuous.latent_channels)
    z = (x * (0.5 + channels) + 0.1 * channels).transpose(1, 2).unflatten(2, (study.grid, study.grid))
    assert torch.allclose(z, mean, atol=2e-2, rtol=2e-3)


def test_stored_tokens_are_the_tokenizers_tokens_of_image_and_mirror_image(tokenized):
    study, layout, store = tokenized
    images = images_of(study, layout)
    model = tokenizers.load("discrete", study.discrete, layout.tokenizer("discrete"))

    for mirrored, view in ((False, images), (True, images.flip(-1))):
        with torch.no_grad():
            expected = model.tokens(view)
        found = store.batch(range(30), [mirrored] * 30)["q"]
        assert (found == expected).float().mean() > 0.99  # another batch size may round a value across zero


def test_tokenizing_again_gives_the_same_bytes(tokenized):
    study, layout, _ = tokenized
    before = layout.token_shard(1).read_bytes()

    tokenize(study, layout, 1)

    assert layout.token_shard(1).read_bytes() == before


def test_a_shard_records_what_it_was_made_with(tokenized):
    study, layout, store = tokenized

    assert store.metadata["num_shards"] == 2
    assert store.metadata["statistics"]["mean"] == pytest.approx([0.1 * i for i in range(8)])
    assert set(store.metadata["tokenizers"]) == {"continuous", "discrete"}


def test_wrong_names_and_numbers_are_refused_before_any_network_is_read(tokenized, tmp_path):
    study, layout, _ = tokenized
    with pytest.raises(ValueError, match="shard 2 is none of the study's 2"):
        tokenize(study, layout, 2)
    many = toy_study(tmp_path, data={**EMOJI, "num_shards": 31})
    with pytest.raises(ValueError, match="31 shards for 30 images"):
        tokenize(many, layout, 0)
    with pytest.raises(ValueError, match="no manifest yet; run `ingest`"):
        tokenize(many, Layout(many), 0)
