"""Released feature networks: which files are taken, what their names promise, and how each prepares an image."""

import numpy as np
import pytest
import timm
import torch
import torch_fidelity
from inception_file import write_random_inception
from torch.utils.data import Dataset
from toy_networks import ColoursWithLogits

from mixar.scoring import extractors
from mixar.scoring.catalogue import METRICS
from mixar.scoring.extractors import extract, extract_all, load_extractor, load_further
from mixar.scoring.files import read_features, write_features
from mixar.scoring.networks import inception, vgg16
from mixar.scoring.networks.dinov2 import DINOv2, resample_positions
from mixar.scoring.values import value_of
from mixar.storage.files import file_sha256
from mixar.study.sections import Extractor, Scoring
from mixar.weights import save_weights, tensors_sha256

INCEPTION = Extractor(network="inception-v3", weights="x")
COUNT = 5  # images: Inception takes a second for each


@pytest.fixture(scope="module")
def random_file(tmp_path_factory):
    return write_random_inception(tmp_path_factory.mktemp("inception") / "random.pth")


def images(count: int = COUNT, size: int = 32, seed: int = 0) -> torch.Tensor:
    """uint8 [n, size, size, 3]."""
    rng = np.random.default_rng(seed)
    smooth = rng.uniform(0, 255, (count, 1, 1, 3)) + rng.normal(0, 40, (count, size, size, 3))
    return torch.from_numpy(smooth.clip(0, 255).astype(np.uint8))


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


def test_only_the_released_file_bears_its_name(random_file, tmp_path):
    for name in inception.INCEPTION_FILES:
        imposter = tmp_path / name
        imposter.symlink_to(random_file)
        with pytest.raises(ValueError, match=f"{name}: .* a file of this name must be .* 95628359 bytes, sha256 6726"):
            load_extractor(INCEPTION, imposter)

    other = load_extractor(INCEPTION, random_file)

    assert other.sha256 == file_sha256(random_file)
    assert other.name == f"inception-v3-compat-{other.sha256[:8]}"  # so its distance is not called FID


def test_missing_and_unfit_inception_weights_are_refused_with_what_would_do(tmp_path):
    (tmp_path / "foreign.pth").write_bytes(b"no weights")
    save_weights(tmp_path / "unknown.safetensors", {"a": torch.zeros(2)}, {})

    for name in ("missing.pth", "foreign.pth", "unknown.safetensors"):
        with pytest.raises(ValueError, match=f"{name}.*95628359 bytes, sha256 6726825d"):
            load_extractor(INCEPTION, tmp_path / name)


def skeleton(monkeypatch, place: str) -> None:
    """Replace torch-fidelity's network, which is slow to build, by one of four numbers with the same constructor."""

    class Small(torch.nn.Module):
        def __init__(self, name, layers, feature_extractor_weights_path):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(4))
            self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=True))

        def forward(self, pixels):
            return (pixels.float().mean(dim=(2, 3)) * self.weight[:3],)

    if place == "inception":
        monkeypatch.setitem(inception.INCEPTIONS, "tensorflow-1", Small)
    else:
        monkeypatch.setattr(vgg16, "FeatureExtractorVGG16", Small)


def test_verified_weights_load_from_the_released_file_and_from_the_imported_one(tmp_path, monkeypatch):
    skeleton(monkeypatch, "inception")
    torch.save({"weight": torch.arange(4.0)}, tmp_path / "released.pth")
    sha256 = file_sha256(tmp_path / "released.pth")
    hashes = {"sha256": sha256, "tensors_sha256": tensors_sha256({"weight": torch.arange(4.0)})}
    save_weights(tmp_path / "imported.safetensors", {"weight": torch.arange(4.0)}, hashes)
    save_weights(tmp_path / "changed.safetensors", {"weight": torch.arange(4.0) + 1}, hashes)
    save_weights(tmp_path / "old.safetensors", {"weight": torch.arange(4.0)}, {"sha256": sha256})
    monkeypatch.setattr(inception, "INCEPTION_SHA256", sha256)

    first, second = (load_extractor(INCEPTION, tmp_path / name) for name in ("released.pth", "imported.safetensors"))

    assert first.name == second.name == "inception-v3-compat" and first.sha256 == second.sha256 == sha256
    assert torch.equal(first.module.weight, second.module.weight)
    for name in ("changed", "old"):  # what the file says of itself is not believed
        with pytest.raises(
            ValueError, match=f"{name}.safetensors.*its weights do not match the source.*import them again"
        ):
            load_extractor(INCEPTION, tmp_path / f"{name}.safetensors")


def test_the_two_resizes_of_inception_give_other_features_and_other_names(random_file):
    noise = images(1, size=64)

    usual = load_extractor(INCEPTION, random_file)
    half = load_extractor(INCEPTION, random_file, resize="half-pixel")

    a, b = (extract(e, [noise])[0] for e in (usual, half))
    assert a.shape == b.shape == (1, 2048)
    assert (a - b).abs().max() > 1e-3 * a.abs().max()
    assert half.name.startswith("inception-v3-half-pixel-")


def test_where_nothing_is_resized_the_two_networks_differ_by_the_range_alone(random_file):
    exact = images(1, size=inception.INCEPTION_SIZE).movedim(-1, 1)

    a, b = inception.tensorflow_resize(exact), inception.half_pixel_resize(exact)

    assert (a - (exact.float() - 128) / 128).abs().max() == 0
    assert (b - (exact.float() / 127.5 - 1)).abs().max() < 1e-6


def test_spatial_features_are_seven_channels_of_a_middle_layer(random_file):
    network = load_further("inception-spatial", random_file).module
    seen = []
    network.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _inputs, output: seen.append(output))

    (found,) = network(images(1).movedim(-1, 1))

    assert found.shape == (1, 17 * 17 * 7)
    assert torch.equal(found.view(17, 17, 7)[3, 5], seen[0][0, :7, 3, 5])  # channels last, as ADM flattens them


# DINOv2 and VGG16


def test_dinov2_takes_the_released_layout_and_gives_the_class_token(tmp_path, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *_args, **options: _small(**options))
    torch.manual_seed(0)
    full = _small(img_size=518, num_classes=0)
    torch.save({**full.state_dict(), "mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2.pth")

    loaded = load_further("dinov2-vitl14", tmp_path / "dinov2.pth")
    network, sha256 = loaded.module, loaded.sha256
    (found,) = network(images(2, size=40).movedim(-1, 1))

    assert sha256 == file_sha256(tmp_path / "dinov2.pth")
    assert found.shape == (2, 384) and isinstance(network, DINOv2)
    assert network.trunk.pos_embed.shape == (1, 1 + 16 * 16, 384)
    with pytest.raises(ValueError, match="pos_embed is missing"):
        save_weights(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {})
        load_further("dinov2-vitl14", tmp_path / "other.safetensors")


_create = timm.create_model


def _small(*_args, **options):
    return _create("vit_small_patch14_dinov2", **{**options, "depth": 1, "pretrained": False})


def test_positions_are_resampled_as_dinov2_does_it_and_kept_where_they_fit():
    ramp = torch.arange(37.0).view(37, 1, 1).expand(37, 37, 2).reshape(1, -1, 2)  # the row of each patch
    positions = torch.cat([torch.full((1, 1, 2), 9.0), ramp], dim=1)

    found = resample_positions(positions, 16)

    rows = found[0, 1:].view(16, 16, 2)[2:-2, 5, 0]
    expected, plain = ((torch.arange(16) + 0.5)[2:-2] * 37 / side - 0.5 for side in (16.1, 16))
    assert found.shape == (1, 257, 2) and torch.equal(found[:, 0], positions[:, 0])
    assert (rows - expected).abs().max() < 0.08 < (rows - plain).abs().max()  # a tenth of a patch too large
    assert torch.equal(resample_positions(positions, 37), positions)


def test_dinov2_sees_images_in_imagenets_range():
    seen = []
    network = DINOv2(torch.nn.Identity())
    white = torch.full((1, 3, 40, 40), 255, dtype=torch.uint8)

    (seen,) = network(white)

    assert seen.shape == (1, 3, 224, 224)
    assert seen.amax(dim=(0, 2, 3)).tolist() == pytest.approx([(1 - 0.485) / 0.229, (1 - 0.456) / 0.224,
                                                              (1 - 0.406) / 0.225], rel=1e-5)  # fmt: skip


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
