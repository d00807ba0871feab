"""VGG16: its weights come from the released layout or an imported file, and others are refused."""

import pytest
import torch
from inception_file import skeleton

from mixar.scoring.networks import vgg16
from mixar.storage.files import file_sha256
from mixar.weights import save_weights


def test_released_and_imported_weights_give_one_network_with_the_hash_of_its_file(tmp_path, monkeypatch):
    skeleton(monkeypatch, "vgg16")
    torch.save({"weight": torch.arange(4.0)}, tmp_path / "released.pth")
    save_weights(tmp_path / "imported.safetensors", {"weight": torch.arange(4.0)}, {})

    first, second = (vgg16.load(tmp_path / name) for name in ("released.pth", "imported.safetensors"))

    assert first.name == second.name == "vgg16" and torch.equal(first.module.weight, second.module.weight)
    assert first.sha256 == file_sha256(tmp_path / "released.pth") != second.sha256


def test_weights_of_another_network_and_a_missing_file_are_named(tmp_path, monkeypatch):
    skeleton(monkeypatch, "vgg16")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "small.pth")

    with pytest.raises(ValueError, match=r"small.pth: not VGG16 weights \(.*; expected vgg16-397923af.pth"):
        vgg16.load(tmp_path / "small.pth")
    with pytest.raises(ValueError, match="gone.pth"):
        vgg16.load(tmp_path / "gone.pth")
