"""Random Inception weights in the layout of the released file: same names, shapes and size, other numbers."""

import io
from pathlib import Path

import torch
from torch_fidelity import FeatureExtractorInceptionV3

from mixar.scoring.networks.inception import INCEPTION_LAYERS, INCEPTION_NAME


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
