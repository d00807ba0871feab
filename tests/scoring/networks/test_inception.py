"""Inception: only the released file bears its name, the two resizes, and the spatial layer."""

import pytest
import torch
from inception_file import INCEPTION, images, skeleton
from inception_file import random_file as random_file

from mixar.scoring.extractors import extract, load_extractor, load_further
from mixar.scoring.networks import inception
from mixar.storage.files import file_sha256
from mixar.weights import save_weights, tensors_sha256


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
