"""VGG16, whose features improved precision and recall were published with."""

from __future__ import annotations

from pathlib import Path

from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

from mixar.process.failures import is_shortage
from mixar.scoring.extractors import Extractor
from mixar.storage.files import file_sha256
from mixar.weights import as_file, read_weights


def load(path: Path) -> Extractor:
    """torch-fidelity's VGG16, features after the second hidden layer [B, 4096].

    Raises ValueError for a missing, damaged or unfit file.
    """
    try:
        weights = as_file(read_weights(path), path)
        network = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=weights)
        return Extractor("vgg16", file_sha256(path), network)
    except RuntimeError as error:
        if is_shortage(error):
            raise
        raise ValueError(
            f"{path}: not VGG16 weights ({str(error).splitlines()[0]}); expected vgg16-397923af.pth"
        ) from None
