"""Feature networks behind every score: a small one trained on fine classes, and how any of them is run.

Symbols: B images in a batch, F features, V fine classes. Inception and other released networks lie in released.py;
what is done with features, in metrics.py; which network a study must use, in protocols.py. Nothing here downloads
anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from mixar.failures import finite, naming
from mixar.scoring.released import FURTHER, INCEPTION_NAME, INCEPTION_SHA256, INCEPTIONS, load_inception
from mixar.study.sections import Extractor as Settings
from mixar.study.sections import ExtractorTraining
from mixar.weights import load_module, read_weights, tensors_sha256, unwrapped

GROUPS = 8  # of every GroupNorm
SHIFT_PIXELS = 2
BRIGHTNESS = 0.1  # augmentation: pixel values times 1 ± this
# The network that comes with mixar, and its name; every other is named after the study that uses it.
EMOJI_NETWORK_SHA256 = "ca3aeee175ecb38af179423fe24dfa99c8bb70b00104d0413bcc89a1c90ac898"  # of its tensors
EMOJI_NETWORK = "emoji-subgroups"


class SubgroupCNN(nn.Module):
    """Classifies images into fine classes; the pooled last stage is the feature vector, F = 4 * channels.

    Three stages of `channels`, 2 and 4 times as many maps, each halving the image but the first. Input float
    [B, 3, H, W] in [0, 1]; returns features [B, F] and logits [B, V].
    Raises ValueError unless channels is a multiple of 8 and image_size of 4.
    """

    def __init__(self, channels: int, num_classes: int, image_size: int):
        super().__init__()
        if channels % GROUPS or image_size % 4:
            raise ValueError(
                f"scoring.extractor.channels: {channels} must be a multiple of {GROUPS}, and the image size "
                f"{image_size} one of 4"
            )
        self.channels = channels
        self.register_buffer("image_size", torch.tensor(image_size))  # a weights file alone says what it takes
        widths = (channels, 2 * channels, 4 * channels)
        self.stages = nn.ModuleList(
            _Stage(before, after, stride)
            for before, after, stride in zip((3, *widths[:2]), widths, (1, 2, 2), strict=True)
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        h = images * 2 - 1
        for stage in self.stages:
            h = stage(h)
        features = h.mean(dim=(2, 3))
        return features, self.head(features)


class _Stage(nn.Module):
    """A convolution that changes width and resolution, then a residual one.

    The trunk has no norm: it would take away colour and contrast, which the scores must see.
    """

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.enter = nn.Conv2d(before, after, 3, stride, 1)
        self.inner = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.inner_norm = nn.GroupNorm(GROUPS, after)

    def forward(self, h: Tensor) -> Tensor:
        h = F.relu(self.enter(h))
        return F.relu(h + self.inner_norm(self.inner(h)))


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Mirrored, shifted by up to 2 pixels over white, and made a little brighter or darker; [B, 3, H, W] in [0, 1]."""
    count, _, height, width = images.shape

    def uniform(*shape):
        return torch.rand(shape, generator=rng, device=images.device)

    images = torch.where(uniform(count, 1, 1, 1) < 0.5, images.flip(3), images)
    padded = F.pad(images, (SHIFT_PIXELS,) * 4, value=1.0)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [B, 3, shifts down, shifts right, H, W]
    down, right = (uniform(2, count) * (2 * SHIFT_PIXELS + 1)).long()
    shifted = windows[torch.arange(count, device=images.device), :, down, right]
    gain = 1 + BRIGHTNESS * (2 * uniform(count, 1, 1, 1) - 1)
    return (shifted * gain).clamp(0, 1)


def training_loss(
    model: nn.Module, images: Tensor, fine_labels: Tensor, settings: ExtractorTraining, rng: torch.Generator
) -> Tensor:
    """Cross-entropy of the fine labels on augmented images, a scalar with gradient.

    images: uint8 [B, H, W, 3]. fine_labels: int64 [B] below V.
    """
    assert images.dtype == torch.uint8 and images.shape[-1] == 3, (images.dtype, images.shape)
    unit = images.movedim(-1, 1).to(torch.float32) / 255
    _, logits = model(augment(unit, rng))
    return F.cross_entropy(logits, fine_labels, label_smoothing=settings.label_smoothing)


# Files


def build_network(settings: Settings, num_classes: int, image_size: int) -> SubgroupCNN:
    """An untrained network of the study's size. Raises ValueError for sizes it cannot have."""
    return SubgroupCNN(settings.channels, num_classes, image_size)


def load_network(settings: Settings, path: Path) -> nn.Module:
    """The study's feature network with the weights of a file, float32, in evaluation mode.

    Raises ValueError for a missing, damaged or foreign file, naming what does not fit; never downloads.
    """
    return NETWORKS[settings.network](settings, Path(path))


def _load_subgroup_cnn(settings: Settings, path: Path) -> SubgroupCNN:
    sizes = ("head.weight", "image_size")
    tensors = unwrapped(read_weights(path), sizes)
    if any(key not in tensors for key in sizes):
        raise ValueError(f"{path}: no feature network of this project: {' or '.join(sizes)} is missing")
    model = build_network(settings, len(tensors["head.weight"]), int(tensors["image_size"]))
    try:
        return load_module(model, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


NETWORKS = {
    "subgroup-cnn": _load_subgroup_cnn,
    "inception-v3": lambda _settings, path: load_inception(path)[0],
}


# Extractors


class SubgroupExtractor(FeatureExtractorBase):
    """SubgroupCNN as torch-fidelity sees it: uint8 [B, 3, H, W] in, layers `pool` and `logits` out."""

    def __init__(self, name: str, features_list: list[str], network: SubgroupCNN):
        super().__init__(name, list(features_list))
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        size = int(self.network.image_size)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(
                f"{self.name} takes uint8 images of {size} x {size} pixels, found {images.dtype} {list(images.shape)}"
            )
        features, logits = self.network(images.to(torch.float32) / 255)
        layers = {"pool": features, "logits": logits}
        return tuple(layers[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "pool", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "pool"

    @staticmethod
    def can_be_compiled() -> bool:
        return False


@dataclass(frozen=True)
class Extractor:
    """A feature network with the name and hash that every score made with it carries."""

    name: str
    sha256: str  # of the weights
    module: FeatureExtractorBase  # uint8 [B, 3, H, W] -> (features, logits)


def register_network(network: SubgroupCNN, owner: str) -> str:
    """Make a network known to torch-fidelity; returns its name, which ends in the hash of its weights.

    owner: the study that uses it; the network that comes with mixar keeps its own name.
    """
    sha256 = tensors_sha256(network.state_dict())
    name = f"{EMOJI_NETWORK if sha256 == EMOJI_NETWORK_SHA256 else owner}-c{network.channels}-{sha256[:8]}"

    class Registered(SubgroupExtractor):
        def __init__(self, name, features_list, **_):
            super().__init__(name, features_list, network)

    if name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(name, Registered)
    return name


def load_extractor(
    settings: Settings,
    path: Path,
    device: torch.device | str = "cpu",
    resize: str | None = None,
    owner: str = "own",
) -> Extractor:
    """The study's feature network from a file, ready for `extract`. Raises ValueError as `load_network` does.

    resize: how Inception resizes, a key of released.INCEPTIONS; null: as TensorFlow did. owner: the study, after which
    a network of its own is named.
    """
    if settings.network == "inception-v3":
        resize = resize or "tensorflow-1"
        network, sha256 = load_inception(path, INCEPTIONS[resize])
        name = INCEPTION_NAME if resize == "tensorflow-1" else f"{settings.network}-{resize}"
        name = name if sha256 == INCEPTION_SHA256 else f"{name}-{sha256[:8]}"
        return Extractor(name, sha256, network.to(device))
    network = load_network(settings, path)
    name = register_network(network, owner)
    module = SubgroupExtractor(name, ["pool", "logits"], network).to(device).requires_grad_(False)
    return Extractor(name, tensors_sha256(network.state_dict()), module)


def load_further(name: str, path: Path, device: torch.device | str = "cpu") -> Extractor:
    """One of the networks beside the protocol's own (a key of released.FURTHER). Raises ValueError for unfit files."""
    if name not in FURTHER:
        raise ValueError(f"scoring.further: {name!r} is unknown; choose from {', '.join(FURTHER)}")
    network, sha256 = FURTHER[name](Path(path))
    return Extractor(name, sha256, network.to(device))


def extract(extractor: Extractor, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Features [n, F] and logits [n, V], float32 on the CPU, of uint8 batches [B, H, W, 3], in order.

    Raises ValueError for no images and another image size than the network's, and FloatingPointError naming the batch
    where features are not finite.
    """
    return extract_all(extractor, {}, batches)[0]


@torch.inference_mode()
def extract_all(
    extractor: Extractor, further: Mapping[str, Extractor], batches: Iterable[Tensor]
) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
    """What `extract` returns, and by name the features [n, F] of further networks, in one pass over the images."""
    networks = [extractor, *further.values()]
    device = next(extractor.module.parameters()).device
    outputs = []
    for number, images in enumerate(batches):
        pixels = images.movedim(-1, 1).contiguous().to(device)
        with naming(f"batch {number}"):
            outputs.append([_finite_layers(network, pixels) for network in networks])
    if not outputs:
        raise ValueError(f"{extractor.name}: no images to extract features from")
    found = [tuple(torch.cat(layer) for layer in zip(*parts, strict=True)) for parts in zip(*outputs, strict=True)]
    return found[0], {name: layers[0] for name, layers in zip(further, found[1:], strict=True)}


def _finite_layers(network: Extractor, pixels: Tensor) -> tuple[Tensor, ...]:
    return tuple(finite(layer.float().cpu(), f"{network.name}: features") for layer in network.module(pixels))
