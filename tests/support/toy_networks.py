"""Feature networks of a few numbers, as a study's own, "toy_networks:Colours", and behind the name of a built-in."""

import torch

from mixar.files import file_sha256
from mixar.scoring.extractors import Extractor


class Colours(torch.nn.Module):
    """Mean and deviation of each colour: six features."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, pixels):
        unit = pixels.float().flatten(2) / 255 * self.scale
        return (torch.cat([unit.mean(2), unit.std(2)], dim=1),)


def colours(path):
    """`Colours` as the loader of a further network, whatever its file holds."""
    return Extractor("colours", file_sha256(path), Colours())


class ColoursWithLogits(Colours):
    """The same as a study's own feature network: twelve classes tell the brightest of the features."""

    def forward(self, pixels):
        (features,) = super().forward(pixels)
        return features, torch.cat([features, -features], dim=1)
