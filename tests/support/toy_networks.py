"""Tiny feature networks, which a study names as toy_networks:Colours, or which replace a built-in one."""

import torch

from mixar.scoring.extractors import Extractor
from mixar.scoring.networks import subgroup_cnn
from mixar.storage.files import file_sha256


class Colours(torch.nn.Module):
    """Mean and deviation of each colour: six features."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixels):
        unit = pixels.float().flatten(2) / 255 * self.scale
        return (torch.cat([unit.mean(2), unit.std(2)], dim=1),)


resizes: list[str | None] = []  # with which `noting_resize` was asked to load, in order


def noting_resize(path, settings, resize=None, owner="own"):
    """Load the small feature network, and note how images should be resized for it."""
    resizes.append(resize)
    return subgroup_cnn.load(path, settings, resize, owner)


def colours(path):
    """Load `Colours` in place of a further network; only the hash of its file matters."""
    return Extractor("colours", file_sha256(path), Colours())


class ColoursWithLogits(Colours):
    """The same with logits of twelve classes."""

    def forward(self, pixels):
        (features,) = super().forward(pixels)
        return features, torch.cat([features, -features], dim=1)
