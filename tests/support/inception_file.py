"""Random Inception weights in the layout of the released file: same names, shapes and size, other numbers.

Small stand-ins for torch-fidelity's networks, too.
"""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_fidelity import FeatureExtractorInceptionV3

from mixar.scoring.networks import inception, vgg16
from mixar.scoring.networks.inception import INCEPTION_LAYERS, INCEPTION_NAME
from mixar.study.sections import Extractor

INCEPTION = Extractor(network="inception-v3", weights="x")
COUNT = 5  # images: Inception takes a second for each


@pytest.fixture(scope="module")
def random_file(tmp_path_factory):
    """A file of random Inception weights."""
    return write_random_inception(tmp_path_factory.mktemp("inception") / "random.pth")


def images(count: int = COUNT, size: int = 32, seed: int = 0) -> torch.Tensor:
    """uint8 [n, size, size, 3]."""
    rng = np.random.default_rng(seed)
    smooth = rng.uniform(0, 255, (count, 1, 1, 3)) + rng.normal(0, 40, (count, size, size, 3))
    return torch.from_numpy(smooth.clip(0, 255).astype(np.uint8))


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


class Blank(FeatureExtractorInceptionV3):
    """The network as it is built, before any file is loaded."""

    def load_state_dict(self, *_args, **_options):
        return None


def blank_inception(build: type[FeatureExtractorInceptionV3] | None = None) -> FeatureExtractorInceptionV3:
    """The network as a class of ours, or torch-fidelity's own, builds it, with the weights of no file."""

    class Network(Blank, build or FeatureExtractorInceptionV3):  # type: ignore[misc]
        pass

    buffer = io.BytesIO()
    torch.save({}, buffer)
    buffer.seek(0)
    return Network(INCEPTION_NAME, list(INCEPTION_LAYERS), feature_extractor_weights_path=buffer)


def write_random_inception(path: Path, seed: int = 0) -> Path:
    """Write 95.6 MB of weights whose features differ from image to image: convolutions keep the signal's size."""
    torch.manual_seed(seed)
    network = blank_inception()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return path
