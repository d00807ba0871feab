"""DINOv2's ViT-L/14: the released layout, positions and the range of images."""

import pytest
import timm
import torch
from inception_file import images

from mixar.scoring.extractors import load_further
from mixar.scoring.networks.dinov2 import DINOv2, resample_positions
from mixar.storage.files import file_sha256
from mixar.weights import save_weights


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
