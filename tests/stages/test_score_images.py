"""`score-images`: images of any program become a row of Table 1; the unfit are refused before the first feature."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from toy_brought import forward_passes as forward_passes
from toy_brought import house as house
from toy_brought import pictures as pictures
from toy_brought import rows, scored, values
from toy_images import COUNT, SIZE, folder, pixels
from toy_scored import SMOKE_ID

from mixar.__main__ import app
from mixar.data.images import write_images
from mixar.data.manifest import SPLITS, ingest_manifest
from mixar.reporting.results import make_rows, read_rows, write_rows
from mixar.reporting.summary import summarise
from mixar.reporting.tables import quality_table
from mixar.scoring.networks.subgroup_cnn import build_network
from mixar.stages.features import reference_features
from mixar.stages.score_images import _claim
from mixar.storage.files import write_table
from mixar.weights import save_weights

# The three kinds of files


def test_folder_array_and_parquet_of_one_set_of_images_give_the_same_scores(house, tmp_path):
    _, layout = house
    images = pixels()
    np.savez(tmp_path / "plain.npz", images)
    np.savez_compressed(tmp_path / "packed.npz", arr_0=images)
    write_images(tmp_path / "drawn.parquet", range(COUNT), [0] * COUNT, images)
    paths = [folder(tmp_path / "drawn", images), tmp_path / "plain.npz", tmp_path / "packed.npz"]

    names = [scored(house, path, f"set {i}") for i, path in enumerate([*paths, tmp_path / "drawn.parquet"])]

    found = [values(layout, name) for name in names]
    assert found[1] == found[0] and found[2] == found[0]
    # these images have labels, which spread the jackknife's groups over the classes: the values stay
    assert {m: v[0] for m, v in found[3].items()} == {m: v[0] for m, v in found[0].items()}


# The row


def test_the_row_says_whose_images_under_which_protocol_and_reference(house, tmp_path):
    study, layout = house

    name = scored(house, folder(tmp_path / "a", pixels()), "Another Generator, v2", study.scoring.protocol)

    found = rows(layout, name)
    assert name == "own_another_generator_v2"
    assert [r["metric"] for r in found] == ["fd", "is", "kid", "precision", "recall", "fd_held_out"]
    for row in found:
        assert (row["run"], row["label"], row["n"]) == (name, "Another Generator, v2", COUNT)
        assert row["protocol"].startswith(SMOKE_ID[:-1]) and row["low"] <= row["value"] <= row["high"]
        assert {"extractor", "reference", "images"} <= set(json.loads(row["hashes"]))


def study_rows(house, label_of):
    """Rows as the study's run 'mar' would have them: the brought row's own hashes under the run's name."""
    study, layout = house
    made = rows(layout, label_of)
    found = [{k: r[k] for k in ("metric", "value", "low", "high", "n")} for r in made]
    write_rows(
        layout.scores("sample", "mar", 0, "default"),
        make_rows(study, "mar", source="sample", seed=0, sampler="default", values=found,
                  protocol=SMOKE_ID, hashes=json.loads(made[0]["hashes"])),
    )  # fmt: skip


def test_brought_images_appear_in_table_1_and_another_n_is_marked(house, tmp_path):
    study, layout = house
    study_rows(house, scored(house, folder(tmp_path / "a", pixels()), "Like ours"))
    scored(house, folder(tmp_path / "b", pixels(20, seed=2)), "Fewer")

    table = quality_table(summarise(study, read_rows(layout.root)))

    labels = [row[0] for row in table.cells]
    assert "Like ours" in labels and "Fewer†" in labels and "MAR" in labels
    fewer = table.cells[labels.index("Fewer†")]
    assert fewer[table.columns.index("n")] == "20"
    assert any(note.startswith("†") for note in table.notes)
    assert any("Fewer, Like ours" in note for note in table.notes)
    assert list(table.frame["label"])[-2:] == ["Fewer", "Like ours"]


def test_the_working_folder_gives_its_own_name(house, tmp_path, monkeypatch):
    monkeypatch.chdir(folder(tmp_path / "my images", pixels()))

    assert scored(house, ".") == "own_my_images"


# Once more


def test_a_second_call_continues_where_the_first_stopped(house, tmp_path, forward_passes):
    study, layout = house
    path = folder(tmp_path / "a", pixels())
    name = scored(house, path, "Mine", shard_size=8)
    first, kept = values(layout, name), layout.own_features(name, 0).stat().st_mtime_ns
    layout.own_features(name, 1).write_bytes(b"half of a shard")
    layout.own_features(name, 2).unlink()
    forward_passes.clear()

    scored(house, path, "Mine", shard_size=8)

    assert len(forward_passes) == 2 and layout.own_features(name, 0).stat().st_mtime_ns == kept
    assert values(layout, name) == first


def test_shards_of_images_that_stayed_are_kept_when_others_are_appended_or_removed(house, tmp_path, forward_passes):
    _, layout = house
    fewer, more = folder(tmp_path / "a", pixels(20)), folder(tmp_path / "b", pixels())
    scored(house, fewer, "Mine", shard_size=8)
    forward_passes.clear()

    name = scored(house, more, "Mine", replace=True, shard_size=8)
    appended, passes = values(layout, name), len(forward_passes)
    again = scored(house, more, "Again", shard_size=8)
    scored(house, folder(tmp_path / "c", pixels()[:16]), "Mine", replace=True, shard_size=8)

    assert passes == 1, "the third shard alone, which had four images"
    assert values(layout, again) == appended
    assert not layout.own_features(name, 2).exists() and layout.own_features(name, 1).exists()


def test_the_same_name_with_other_images_is_refused_or_replaces_on_request(house, tmp_path):
    _, layout = house
    name = scored(house, folder(tmp_path / "a", pixels()), "Mine")
    before = values(layout, name)
    other = folder(tmp_path / "b", pixels(seed=9))

    with pytest.raises(ValueError, match="holds 24 other images.*--replace"):
        scored(house, other, "mine")
    assert values(layout, name) == before
    scored(house, other, "Mine", replace=True)

    assert values(layout, name) != before


@pytest.mark.parametrize("content", ['{"images": "a', "[]", "{}"])
def test_a_damaged_note_of_the_images_is_named_and_replaced_on_request(house, tmp_path, content):
    layout, record = house[1], {"images": "abc", "n": 24, "path": "here"}
    file = layout.own_images("own_mine")
    _claim(layout, "own_mine", record, replace=False)
    whole = file.read_text()
    file.write_text(content)

    with pytest.raises(ValueError, match=r"own_mine: .*/images.json is damaged .*another --label, or .*--replace"):
        _claim(layout, "own_mine", record, replace=False)
    _claim(layout, "own_mine", record, replace=True)

    assert file.read_text() == whole


def test_features_of_a_deleted_row_are_never_used_for_other_images(house, tmp_path):
    _, layout = house
    name = scored(house, folder(tmp_path / "a", pixels()), "Mine")
    before = values(layout, name)
    shutil.rmtree(layout.own_images(name).parent)

    scored(house, folder(tmp_path / "b", pixels(seed=9)), "Mine")

    assert values(layout, name) != before


def test_a_new_feature_network_makes_all_features_again(house, tmp_path):
    study, layout = house
    path = folder(tmp_path / "a", pixels())
    before = values(layout, scored(house, path, "Mine"))
    torch.manual_seed(1)
    network = build_network(study.scoring.extractor, num_classes=6, image_size=SIZE)
    save_weights(layout.extractor(), network.state_dict(), {})

    with pytest.raises(ValueError, match=r"train.parquet: made with .* run `features --reference` again"):
        scored(house, path, "Mine")
    for split in SPLITS:
        reference_features(study, layout, split)

    assert values(layout, scored(house, path, "Mine")) != before


def test_references_of_another_split_of_the_images_are_refused(house, tmp_path):
    study, layout = house
    study = study.model_copy(update={"data": study.data.model_copy(update={"held_out_rate": 0.2})})
    write_table(layout.manifest, ingest_manifest(study.data))

    with pytest.raises(ValueError, match="not the features of the study's current train images"):
        scored((study, layout), folder(tmp_path / "a", pixels()))


# The command


def test_the_command_scores_a_path_and_finds_the_study_of_a_protocol(house, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    study, layout = house
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json")))
    path = folder(tmp_path / "drawn images", pixels())

    def call(*arguments):
        return CliRunner().invoke(app, ["score-images", *map(str, arguments)])

    result = call(path, "--study", file, "--protocol", "emoji-gfd")

    assert result.exit_code == 0, result.output
    assert "drawn images" in result.output and layout.scores("own", "own_drawn_images").is_file()
    for arguments, said in (
        ([path], "give --study, or --protocol with one of adm256-gfid"),
        ([path, "--protocol", "val256-rfid"], "found val256-rfid"),
    ):
        assert said in str(call(*arguments).exception)
