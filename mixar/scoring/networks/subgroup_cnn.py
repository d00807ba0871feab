"""A small feature network that a study trains on fine classes, such as the demo's on the emoji's subgroups.

Where the images have several designers it learns to tell these apart as well, so that it sees shape and style.
Symbols: B images in a batch, F features, V fine classes, D designers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixar.scoring.catalogue import SHIPPED
from mixar.scoring.extractors import Extractor
from mixar.study import sections
from mixar.study.sections import ExtractorTraining
from mixar.weights import load_module, read_weights, tensors_sha256, unwrapped

GROUPS = 8  # of every GroupNorm
SHIFT_PIXELS = 2
BRIGHTNESS = 0.1  # augmentation: pixel values times 1 ± this


class SubgroupCNN(nn.Module):
    """Classifies images into fine classes; the pooled last stage is the feature vector, F = 4 * channels.

    Three stages of `channels`, 2 and 4 times as many maps, each halving the image but the first. Input float
    [B, 3, H, W] in [0, 1]; returns features [B, F], logits [B, V], and with num_designers > 0 logits [B, D].
    Raises ValueError unless channels is a multiple of 8 and image_size of 4.
    """

    image_size: Tensor

    def __init__(self, channels: int, num_classes: int, image_size: int, num_designers: int = 0):
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
        self.designer_head = nn.Linear(widths[-1], num_designers) if num_designers else None

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        h = images * 2 - 1
        for stage in self.stages:
            h = stage(h)
        features = h.mean(dim=(2, 3))
        heads = [self.head] if self.designer_head is None else [self.head, self.designer_head]
        return features, *(head(features) for head in heads)


class PixelSubgroupCNN(SubgroupCNN):
    """The same network for uint8 images [B, 3, H, W]; returns features and the logits of fine classes alone.

    Raises ValueError for images of another size or type.
    """

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        size = int(self.image_size)
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(
                f"the feature network takes uint8 images of {size} x {size} pixels, found {images.dtype} "
                f"{list(images.shape)}"
            )
        features, logits, *_ = super().forward(images.to(torch.float32) / 255)
        return features, logits


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
    model: nn.Module, images: Tensor, labels: Sequence[Tensor], settings: ExtractorTraining, rng: torch.Generator
) -> Tensor:
    """Cross-entropy on augmented images, summed over the network's heads; a scalar with gradient.

    images: uint8 [B, H, W, 3]. labels: int64 [B] for each head, fine labels below V and designers below D.
    """
    assert images.dtype == torch.uint8 and images.shape[-1] == 3, (images.dtype, images.shape)
    unit = images.movedim(-1, 1).to(torch.float32) / 255
    _, *logits = model(augment(unit, rng))
    losses = [
        F.cross_entropy(each, wanted, label_smoothing=settings.label_smoothing)
        for each, wanted in zip(logits, labels, strict=True)
    ]
    return torch.stack(losses).sum()


# Files


def build_network(
    settings: sections.Extractor, num_classes: int, image_size: int, num_designers: int = 0
) -> SubgroupCNN:
    """An untrained network of the study's size. Raises ValueError for sizes it cannot have."""
    return SubgroupCNN(settings.channels, num_classes, image_size, num_designers)


def load(path: Path, settings: sections.Extractor, resize: str | None = None, owner: str = "own") -> Extractor:
    """The network with the weights of a file; its name ends in the hash of its tensors.

    owner: the study that uses it; a network that comes with mixar keeps its own name.
    Raises ValueError for a missing, damaged or foreign file, naming what does not fit.
    """
    network = _read(settings, path)
    sha256 = tensors_sha256(network.state_dict())
    name = f"{SHIPPED.get(sha256, owner)}-c{network.channels}-{sha256[:8]}"
    return Extractor(name, sha256, network.requires_grad_(False))


def _read(settings: sections.Extractor, path: Path) -> PixelSubgroupCNN:
    sizes = ("head.weight", "image_size")
    tensors = unwrapped(read_weights(path), sizes)
    if any(key not in tensors for key in sizes):
        raise ValueError(f"{path}: not a feature network of mixar: {' or '.join(sizes)} is missing")
    num_designers = len(tensors.get("designer_head.weight", ()))
    model = PixelSubgroupCNN(settings.channels, len(tensors["head.weight"]), int(tensors["image_size"]), num_designers)
    try:
        return load_module(model, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
