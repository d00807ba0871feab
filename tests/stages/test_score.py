"""`score`: shards against one direct call of the library, rows, references, protocols, and all that is refused."""

import json
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch_fidelity
from torch.utils.data import Dataset
from toy_scored import BATCH, NUM_IMAGES, SHARD, SIZE, SMOKE_ID, draw, drawings, features, new_network, rows_of
from toy_scored import house as house
from toy_scored import pictures as pictures

from mixar.data.images import load_images, write_images
from mixar.data.manifest import SPLITS, read_manifest
from mixar.data.selection import reference_rows
from mixar.reporting.numbers import number
from mixar.reporting.results import read_rows
from mixar.reporting.summary import summarise
from mixar.reporting.tables import quality_table
from mixar.reporting.writers import to_text
from mixar.scoring.catalogue import METRICS, Metric
from mixar.scoring.extractors import load_extractor
from mixar.scoring.protocols import PROTOCOLS, distance_name, is_fid, protocol_of
from mixar.scoring.reference import reference_of
from mixar.scoring.statistics import load_statistics
from mixar.stages.features import image_features, reference_features
from mixar.stages.score import score_reconstructions, score_samples

SAMPLE_METRICS = ["fd", "is", "kid", "precision", "recall", "fd_held_out"]


def scored(study, layout, images, run="mar"):
    draw(layout, images, run)
    features(study, layout, run)
    score_samples(study, layout, run, 0, "default")
    return rows_of(layout.scores("sample", run, 0, "default"))


class Images(Dataset):
    """What torch-fidelity takes: one uint8 tensor [3, H, W] an item."""

    def __init__(self, images):
        self.images = torch.as_tensor(images).movedim(-1, 1).contiguous()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


def registered(extractor) -> str:
    """The name under which torch-fidelity itself can now run the network."""

    class Registered(torch_fidelity.FeatureExtractorBase):
        def __init__(self, name, features_list, **_):
            super().__init__(name, features_list)
            self.network = extractor.module

        def forward(self, pixels):
            layers = dict(zip(("pool", "logits"), self.network(pixels), strict=True))
            return tuple(layers[layer] for layer in self.features_list)

        @staticmethod
        def get_provided_features_list():
            return "pool", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits" if metric == "isc" else "pool"

        @staticmethod
        def can_be_compiled():
            return False

    torch_fidelity.register_feature_extractor(extractor.name, Registered)
    return extractor.name


def test_five_random_shards_equal_one_direct_call_of_the_library_bit_for_bit(house):
    study, layout = house
    study = study.model_copy(update={"evaluation": study.evaluation.model_copy(update={"shard_size": BATCH})})
    images, s = drawings(NUM_IMAGES, 1), study.scoring
    # the last bits of a matrix product depend on the size of its batch
    reference_features(study, layout, "train", batch_size=BATCH)
    parts = np.random.default_rng(3).permutation(NUM_IMAGES).reshape(5, BATCH)
    assert study.evaluation.num_shards == 5

    for shard in (3, 0, 4, 2, 1):
        rows = parts[shard]
        write_images(layout.samples("mar", 0, "default", shard), rows, rows % 3, images[rows])
        image_features(study, layout, layout.samples("mar", 0, "default", shard))
    score_samples(study, layout, "mar", 0, "default")

    train = load_images(read_manifest(layout.manifest, "train"), SIZE)
    direct = torch_fidelity.calculate_metrics(
        input1=Images(images), input2=Images(train), isc=True, fid=True, kid=True, prc=True,
        feature_extractor=registered(load_extractor(s.extractor, layout.extractor())), batch_size=BATCH,
        isc_splits=s.is_splits, kid_subsets=s.kid_subsets, kid_subset_size=s.kid_subset_size,
        prc_neighborhood=s.neighbours, cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    keys = {"fd": "frechet_inception_distance", "is": "inception_score_mean", "kid": "kernel_inception_distance_mean"}
    for metric, row in rows_of(layout.scores("sample", "mar", 0, "default")).items():
        if metric != "fd_held_out":
            assert row["value"] == direct[keys.get(metric, metric)], metric


def test_rows_carry_n_protocol_interval_and_the_hashes_of_network_and_references(house):
    study, layout = house

    rows = scored(study, layout, drawings(NUM_IMAGES, 1))

    extractor = load_extractor(study.scoring.extractor, layout.extractor(), owner="smoke")
    assert list(rows) == SAMPLE_METRICS
    for metric, row in rows.items():
        reference = ", reference=held_out]" if metric == "fd_held_out" else "]"
        assert (row["run"], row["seed"], row["sampler"], row["source"]) == ("mar", 0, "default", "sample")
        assert (row["n"], row["protocol"]) == (NUM_IMAGES, SMOKE_ID.replace("]", reference))
        assert row["low"] <= row["value"] <= row["high"]
        hashes = json.loads(row["hashes"])
        assert (hashes["extractor"], hashes["extractor_name"]) == (extractor.sha256, extractor.name)
        assert hashes["reference"] != hashes["reference_held_out"]


def test_copied_training_images_are_counted_and_found_again(house):
    study, layout = house
    study = study.model_copy(update={"scoring": study.scoring.model_copy(update={"copies": True})})
    rows = read_manifest(layout.manifest, "train").sort_by("index")
    copied = NUM_IMAGES // 2
    images = np.concatenate([load_images(rows, SIZE).numpy()[:copied], drawings(NUM_IMAGES - copied, 1)])

    found = scored(study, layout, images)

    for space in ("features", "pixels"):  # a few of the others are close to a training image, too
        assert copied / NUM_IMAGES <= found[f"copies_{space}"]["value"] < copied / NUM_IMAGES + 0.2
    assert list(found) == [*SAMPLE_METRICS, "copies_features", "copies_pixels"]
    near = pq.read_table(layout.nearest("mar", 0, "default")).to_pandas()
    for space in ("features", "pixels"):
        assert near[f"nearest_{space}"].tolist()[:copied] == rows["index"].to_pylist()[:copied]
    table = quality_table(summarise(study, read_rows(layout.root)))
    assert "Copies ↓" in table.columns and "Copies (pixels) ↓" in table.columns


@pytest.mark.parametrize("place", ["study", "catalogue"])
def test_a_metric_that_is_only_a_function_has_a_row_with_an_interval(house, monkeypatch, place):
    study, layout = house
    where = "toy_metrics:mean_shift"
    added = {"metrics": ("fd", where if place == "study" else "mean_shift")}
    study = study.model_copy(update={"scoring": study.scoring.model_copy(update=added)})
    if place == "catalogue":
        monkeypatch.setitem(METRICS, "mean_shift", Metric("mean_shift", function=where))

    rows = scored(study, layout, drawings(NUM_IMAGES, 1))

    row = rows["mean_shift"]
    assert row["low"] < row["value"] < row["high"]
    assert len(row["replicates"]) == study.scoring.jackknife_groups
    table = quality_table(summarise(study, read_rows(layout.root)))
    assert table.columns[table.columns.index("Recall ↑") + 1] == "mean_shift"
    mar = next(cells for cells in table.cells if cells[0] == "MAR")
    assert mar[table.columns.index("mean_shift")] == number(row["value"])
    assert ("mean_shift" in to_text(table)) is (place == "study")  # summary.txt


def test_a_column_never_mixes_two_versions_of_a_metric(house, monkeypatch, tmp_path):
    study, layout = house
    source = tmp_path / "versioned_metric.py"
    monkeypatch.syspath_prepend(tmp_path)
    added = {"metrics": ("fd", "versioned_metric:mine")}
    study = study.model_copy(update={"scoring": study.scoring.model_copy(update=added)})
    ids = []
    for run, value in (("mar", 1.0), ("dc_mix", 20.0)):
        source.write_text(f"def mine(sample, reference, scoring):\n    return {value}\n")
        sys.modules.pop("versioned_metric", None)
        ids.append(scored(study, layout, drawings(NUM_IMAGES, 1), run)["mine"]["protocol"])

    assert all(", code=" in found for found in ids) and ids[0] != ids[1]
    with pytest.raises(ValueError, match="column mine: a column cannot mix protocols"):
        quality_table(summarise(study, read_rows(layout.root)))


def test_a_metric_that_changes_the_features_falsifies_no_other(house):
    study, layout = house
    added = {"metrics": ("fd", "toy_metrics:in_place")}
    study = study.model_copy(update={"scoring": study.scoring.model_copy(update=added)})

    with pytest.raises(ValueError, match="scoring.metrics: toy_metrics:in_place changes the features that it is given"):
        scored(study, layout, drawings(NUM_IMAGES, 1))


def test_scoring_again_writes_the_same_numbers(house):
    study, layout = house
    first = scored(study, layout, drawings(NUM_IMAGES, 1))

    score_samples(study, layout, "mar", 0, "default")

    again = rows_of(layout.scores("sample", "mar", 0, "default"))
    assert [(r["value"], r["low"], r["high"]) for r in again.values()] == [
        (r["value"], r["low"], r["high"]) for r in first.values()
    ]


def test_more_noise_means_a_larger_distance(house):
    study, layout = house
    images, noise = drawings(NUM_IMAGES, 1), np.random.default_rng(2).standard_normal((NUM_IMAGES, SIZE, SIZE, 3))

    found = [
        scored(study, layout, (images + level * noise).round().clip(0, 255).astype(np.uint8))["fd"]["value"]
        for level in (0, 20, 60, 150)
    ]

    assert found == sorted(found) and found[-1] > 3 * found[0]


def test_repeating_training_images_shows_in_the_held_out_distance(house):
    study, layout = house
    train, held_out = (load_images(read_manifest(layout.manifest, split), SIZE).numpy() for split in SPLITS)

    copied = scored(study, layout, np.resize(train, (NUM_IMAGES, SIZE, SIZE, 3)))
    fresh = scored(study, layout, np.resize(held_out, (NUM_IMAGES, SIZE, SIZE, 3)), run="maskbit")

    assert copied["fd"]["value"] < copied["fd_held_out"]["value"]
    assert fresh["fd_held_out"]["value"] < copied["fd_held_out"]["value"]
    assert fresh["fd"]["label"] == "MaskBit's own images"


def reconstruct(study, layout, level, shards=(0, 1)):
    rows = read_manifest(layout.manifest, "held_out")
    images, index = load_images(rows, SIZE).numpy().astype(int), rows["index"].to_numpy()
    for shard in shards:
        part = slice(shard * len(index) // 2, (shard + 1) * len(index) // 2)
        made = (images[part] - level).clip(0, 255).astype(np.uint8)
        path = layout.reconstruction("continuous", shard)
        write_images(path, index[part], rows["label"].to_numpy()[part], made, {"psnr": index[part] + 20.0})
        image_features(study, layout, path)
    return index


def test_reconstructions_are_scored_against_their_own_originals(house):
    study, layout = house

    index = reconstruct(study, layout, level=0)
    score_reconstructions(study, layout, "continuous")
    rows = rows_of(layout.scores("reconstruct", "continuous"))

    assert list(rows) == ["rfd", "psnr"]
    assert rows["rfd"]["value"] == pytest.approx(0, abs=1e-6) and rows["rfd"]["protocol"] == "emoji-rfd"
    assert rows["psnr"]["value"] == pytest.approx(index.mean() + 20) and rows["psnr"]["unit"] == "dB"
    assert rows["psnr"]["n"] == len(index) and rows["psnr"]["seed"] is None
    reconstruct(study, layout, level=40)
    score_reconstructions(study, layout, "continuous")
    assert rows_of(layout.scores("reconstruct", "continuous"))["rfd"]["value"] > 1e-5


def test_missing_surplus_and_repeated_images_are_refused(house):
    study, layout = house
    images = drawings(NUM_IMAGES, 1)
    draw(layout, images)
    features(study, layout, shards=(0, 1))
    with pytest.raises(ValueError, match="shard-00002.parquet: no such features"):
        score_samples(study, layout, "mar", 0, "default")

    write_images(layout.samples("mar", 0, "default", 2), np.arange(SHARD), np.zeros(SHARD), images[:SHARD])
    features(study, layout, shards=(2,))
    with pytest.raises(ValueError, match="index 0 occurs twice"):
        score_samples(study, layout, "mar", 0, "default")

    write_images(layout.samples("mar", 0, "default", 2), np.arange(SHARD) + 50, np.zeros(SHARD), images[:SHARD])
    features(study, layout, shards=(2,))
    with pytest.raises(ValueError, match=r"10 of 60 images are missing \(first \[40, 41, 42\]\), and 10 do not belong"):
        score_samples(study, layout, "mar", 0, "default")


def test_features_of_another_network_are_refused(house):
    study, layout = house
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout, shards=(0, 1))
    new_network(study, layout, seed=1)
    features(study, layout, shards=(2,))
    with pytest.raises(ValueError, match="shard-00002.parquet: made with"):
        score_samples(study, layout, "mar", 0, "default")

    features(study, layout)
    with pytest.raises(ValueError, match="the train reference was made with"):
        score_samples(study, layout, "mar", 0, "default")


def test_damaged_and_foreign_feature_files_are_named(house):
    study, layout = house
    draw(layout, drawings(NUM_IMAGES, 1))
    features(study, layout)
    path = layout.features(layout.samples("mar", 0, "default", 1))
    whole = path.read_bytes()

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="shard-00001.parquet: not a complete Parquet file"):
        score_samples(study, layout, "mar", 0, "default")
    path.write_bytes(layout.samples("mar", 0, "default", 1).read_bytes())
    with pytest.raises(ValueError, match="shard-00001.parquet: expected 'mixar features.*; delete it and run "):
        score_samples(study, layout, "mar", 0, "default")


@pytest.mark.parametrize(
    ("score", "names", "message"),
    [
        (score_samples, ("mor", 0, "default"), "run 'mor' is unknown"),
        (score_samples, ("mar", 7, "default"), "no seed 7"),
        (score_samples, ("mar", 0, "slow"), "sampler 'slow' is unknown"),
        (score_reconstructions, ("both",), "kind 'both' is unknown"),
    ],
)
def test_unknown_names_are_refused(house, score, names, message):
    with pytest.raises(ValueError, match=message):
        score(*house, *names)


def test_a_protocol_must_exist_and_fit_the_network(house):
    study, _ = house

    for name, message in (("emoji-fid", "'emoji-fid' is unknown"), ("adm256-gfid", "'inception-v3'")):
        scoring = study.scoring.model_copy(update={"protocol": name})
        with pytest.raises(ValueError, match=message):
            protocol_of(study.model_copy(update={"scoring": scoring}), "sample")


@pytest.mark.parametrize(
    ("protocol", "extractor", "name"),
    [
        ("adm256-gfid", "inception-v3-compat", "FID"),
        ("val256-rfid", "inception-v3-compat", "FID"),
        *((f"adm256-gfid[{differs}]", "inception-v3-compat", "FD-inception-v3-compat")
          for differs in ("n=1000", "labels=uneven", "format=JPEG", "is_splits=5", "image_size=64", "num_classes=10",
                          "extractor=0123abcd", "reference=held_out", "network=inception-spatial:0123abcd, n=1000")),
        ("adm256-gfid[data=0123abcd]", "inception-v3-compat", "FD-mine"),
        ("own-gfd[data=0123abcd, extractor=4567cdef]", "inception-v3-compat", "FD-mine"),
        ("emoji-gfd", "emoji-subgroups-c32-1a2b3c4d", "FD-emoji-subgroups-c32"),
        ("own-gfd[data=0123abcd, extractor=4567cdef]", "mine-c8-4567cdef", "FD-mine-c8"),
    ],
)  # fmt: skip
def test_only_inception_under_a_protocols_bare_id_gives_a_distance_called_fid(protocol, extractor, name):
    assert distance_name(protocol, extractor, "mine") == name


def test_the_brackets_of_a_further_network_do_not_spoil_the_name():
    assert is_fid("adm256-gfid[network=inception-spatial:0123abcd, statistics=4567cdef]")


def test_every_protocol_of_samples_has_one_of_reconstructions():
    assert all(p.reconstruction in PROTOCOLS for p in PROTOCOLS.values() if p.source == "sample")


def test_a_protocol_may_take_part_of_the_training_images_always_the_same(house, monkeypatch):
    study, layout = house
    monkeypatch.setitem(PROTOCOLS, "emoji-gfd", replace(PROTOCOLS["emoji-gfd"], reference_images=10))

    drawn = [reference_rows(layout.manifest, *reference_of(study, "train")) for _ in range(2)]
    chosen = [rows["index"].to_pylist() for rows in drawn]

    assert chosen[0] == chosen[1] == sorted(set(chosen[0])) and len(chosen[0]) == 10
    assert set(chosen[0]) <= set(read_manifest(layout.manifest, "train")["index"].to_pylist())


def test_statistics_files_are_checked(tmp_path):
    mu, sigma = np.zeros(2048, np.float32), np.eye(2048, dtype=np.float32)
    np.savez(tmp_path / "good.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "short.npz", mu=mu[:10], sigma=sigma[:10, :10])
    np.savez(tmp_path / "lopsided.npz", mu=mu, sigma=np.triu(np.ones_like(sigma)))
    np.savez(tmp_path / "nan.npz", mu=mu * np.nan, sigma=sigma)
    np.savez(tmp_path / "other.npz", mean=mu)

    found = load_statistics(tmp_path / "good.npz")

    assert found["mu"].dtype == np.float64 and np.array_equal(found["sigma"], np.eye(2048))
    for name, message in (
        ("short", "2048 Inception features"),
        ("lopsided", "not symmetric"),
        ("nan", "not finite"),
        ("other", "arrays mu and sigma"),
        ("missing", "arrays mu and sigma"),
    ):
        with pytest.raises(ValueError, match=message):
            load_statistics(tmp_path / f"{name}.npz")
