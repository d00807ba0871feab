"""Released feature networks: which files are taken, what their names promise, and how each prepares an image."""

import numpy as np
import pytest
import torch
import torch_fidelity
from inception_file import COUNT, INCEPTION, images, skeleton
from inception_file import random_file as random_file
from torch.utils.data import Dataset
from toy_networks import ColoursWithLogits

from mixar.scoring import extractors
from mixar.scoring.catalogue import METRICS
from mixar.scoring.extractors import extract, extract_all, load_extractor, load_further
from mixar.scoring.files import read_features, write_features
from mixar.scoring.values import value_of
from mixar.study.sections import Extractor, Scoring
from mixar.weights import save_weights


class Items(Dataset):
    """What torch-fidelity takes: one uint8 tensor [3, H, W] an item."""

    def __init__(self, pixels):
        self.pixels = pixels.movedim(-1, 1).contiguous()

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        return self.pixels[i]


def test_features_of_inception_merged_from_five_files_equal_one_direct_call_bit_for_bit(random_file, tmp_path):
    drawn, real, batch = images(), images(seed=1), 1  # the last bits of a convolution depend on the size of its batch
    scoring = Scoring(protocol="adm256-gfid", extractor=INCEPTION, kid_subsets=5, kid_subset_size=4, is_splits=2,
                      jackknife_groups=2)  # fmt: skip
    extractor = load_extractor(INCEPTION, random_file)
    whole = [extract(extractor, part.split(batch)) for part in (drawn, real)]
    shards = np.array_split(np.random.default_rng(0).permutation(COUNT), 5)
    for number, rows in enumerate(shards):
        outputs = tuple(layer[torch.from_numpy(rows)] for layer in whole[0])
        write_features(tmp_path / f"{number}.parquet", rows, rows % 3, outputs, {})
    write_features(tmp_path / "real.parquet", np.arange(COUNT), np.zeros(COUNT), whole[1], {})

    merged = read_features([tmp_path / f"{i}.parquet" for i in (3, 0, 4, 2, 1)]).features
    reference = read_features([tmp_path / "real.parquet"]).features
    found = {
        name: value_of(METRICS[name], merged, reference, scoring) for name in ("fd", "is", "kid", "precision", "recall")
    }

    direct = torch_fidelity.calculate_metrics(
        input1=Items(drawn), input2=Items(real), isc=True, fid=True, kid=True, prc=True, batch_size=batch,
        feature_extractor="inception-v3-compat", feature_extractor_weights_path=str(random_file), isc_splits=2,
        kid_subsets=5, kid_subset_size=4, cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    keys = {"fd": "frechet_inception_distance", "is": "inception_score_mean", "kid": "kernel_inception_distance_mean"}
    assert found == {name: direct[keys.get(name, name)] for name in found}
    assert found["fd"] > 1 and found["is"] > 1 and found["kid"] != 0


def test_further_networks_run_in_the_same_pass_and_unknown_ones_are_refused(tmp_path, monkeypatch):
    skeleton(monkeypatch, "vgg16")
    torch.save({"weight": torch.ones(4)}, tmp_path / "vgg.pth")
    vgg = load_further("vgg16", tmp_path / "vgg.pth")
    main = extractors.Extractor("main", "0", Pair())

    (pool, logits), further = extract_all(main, {"vgg16": vgg}, images().split(4))

    assert torch.equal(further["vgg16"], pool) and logits.shape == (COUNT, 1)
    with pytest.raises(ValueError, match="'vgg19' is unknown; choose from dinov2-vitl14, vgg16"):
        load_further("vgg19", tmp_path / "vgg.pth")


def test_a_class_of_the_studys_own_is_a_network_with_the_weights_of_its_file(tmp_path):
    own, wide = ColoursWithLogits(), torch.nn.Linear(3, 2)
    own.scale.data.fill_(2)
    save_weights(tmp_path / "own.safetensors", own.state_dict(), {})
    save_weights(tmp_path / "wide.safetensors", wide.state_dict(), {})
    settings = Extractor(network="toy_networks:ColoursWithLogits", weights="x")

    main = load_extractor(settings, tmp_path / "own.safetensors")
    further = {settings.network: load_further(settings.network, tmp_path / "own.safetensors")}
    (features, logits), beside = extract_all(main, further, images().split(2))

    with torch.no_grad():
        expected = own(images().movedim(-1, 1))
    assert torch.allclose(features, expected[0]) and torch.allclose(logits, expected[1])
    assert torch.equal(beside[settings.network], features)
    assert main.name == f"ColoursWithLogits-{main.sha256[:8]}"
    with pytest.raises(ValueError, match="does not fit ColoursWithLogits"):
        load_extractor(settings, tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match="scoring.extractor.network 'toy_networks:colours': expected 'module:Class'"):
        load_extractor(settings.model_copy(update={"network": "toy_networks:colours"}), tmp_path / "own.safetensors")


class Pair(torch.nn.Module):
    """Mean colours and one logit."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixels):
        mean = pixels.float().mean(dim=(2, 3)) * self.weight
        return mean, mean[:, :1]
