"""How feature networks are loaded and run: one pass over the images for all networks of a study.

Which networks there are is in catalogue.py, each of them in networks/. A network of your own is an nn.Module without
constructor arguments. It maps uint8 images [B, 3, H, W] to features [B, F] and logits [B, V]; as a further network, to
(features,). Its weights are a file of its state dict. Name it in the study: `scoring: {extractor: {network:
"my_module:MyNetwork", weights: FILE}}`; as a further network `scoring: {further: {"my_module:MyNetwork": FILE}}`, which
adds the metric fd_MyNetwork.

Nothing here downloads anything. Symbols: B images in a batch, n images, F features, V classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixar.assets.check import require, resolve
from mixar.process.failures import finite, naming
from mixar.scoring.catalogue import FURTHER, Network, network_of
from mixar.scoring.protocols import protocol_of
from mixar.study import choices, sections
from mixar.study.code_hashes import source_hash
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.weights import load_module, tensors_sha256

BATCH = 64  # images per forward pass; part of the numbers: the last bits of a product depend on it


@dataclass(frozen=True)
class Extractor:
    """A feature network with the name and hash that every score made with it carries."""

    name: str
    sha256: str  # of the weights; of your own network, of its file and source
    module: nn.Module  # uint8 [B, 3, H, W] -> (features, logits), or (features,) of a further network

    def to(self, device: torch.device | str) -> Extractor:
        return replace(self, module=self.module.to(device))


def load_extractor(
    settings: sections.Extractor,
    path: Path,
    device: torch.device | str = "cpu",
    resize: str | None = None,
    owner: str = "own",
) -> Extractor:
    """The study's feature network from a file, ready for `extract`.

    resize: how Inception resizes, as the protocol says; None: as TensorFlow did. owner: the study's name, in the
    name of a network that does not come with mixar. Raises ValueError for a missing, damaged or foreign file, naming
    what does not fit.
    """
    network = network_of(settings.network)
    options = {} if network.is_own else {"settings": settings, "resize": resize, "owner": owner}
    return _load(network, path, "scoring.extractor.network", options).to(device)


def load_further(name: str, path: Path, device: torch.device | str = "cpu") -> Extractor:
    """A network in addition to the protocol's. Raises ValueError for unfit files."""
    if ":" not in name and name not in FURTHER:
        raise ValueError(f"scoring.further: {name!r} is unknown; choose from {', '.join(FURTHER)}")
    return _load(network_of(name), path, "scoring.further", {}).to(device)


def _load(network: Network, path: Path, role: str, options: dict[str, Any]) -> Extractor:
    """options: what the loader of a built-in network takes after the path."""
    if not network.is_own:
        return choices.load_function(network.load, role)(Path(path), **options)
    built = choices.load_class(network.load, role, nn.Module)
    module = load_module(choices.construct(built, network.load, role), Path(path)).requires_grad_(False)
    parts = tensors_sha256(module.state_dict()) + source_hash(network.load)  # either may change the features
    sha256 = hashlib.sha256(parts.encode()).hexdigest()
    return Extractor(f"{built.__name__}-{sha256[:8]}", sha256, module)


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
    features, logits = found[0]
    return (features, logits), {name: layers[0] for name, layers in zip(further, found[1:], strict=True)}


def _finite_layers(network: Extractor, pixels: Tensor) -> tuple[Tensor, ...]:
    return tuple(finite(layer.float().cpu(), f"{network.name}: features") for layer in network.module(pixels))


# The networks of a study


@dataclass(frozen=True)
class Networks:
    """The network behind every score, the further ones by name, and the header of their feature files."""

    main: Extractor
    further: dict[str, Extractor]
    header: dict[str, str]  # extractor, sha256, protocol: feature files with another header are not mixed

    @property
    def further_sha256(self) -> dict[str, str]:
        return {name: network.sha256 for name, network in self.further.items()}

    def extract(self, batches: Iterable[Tensor]) -> tuple[tuple[Tensor, Tensor], dict[str, tuple[Tensor, str]]]:
        """Features and logits of the main network, and of each further one its features and the hash of its file."""
        outputs, others = extract_all(self.main, self.further, batches)
        return outputs, {name: (values, self.further[name].sha256) for name, values in others.items()}


def load_networks(study: Study, layout: Layout, source: str, device: torch.device) -> Networks:
    """The networks that measure images of a source (sample, continuous or discrete) under the study's protocol for it.

    Raises ValueError for files that are missing or unfit.
    """
    settings, own = study.scoring, None if source == "sample" else study.scoring.reconstruction_protocol(source)
    resize = protocol_of(study, source).resize
    main = load_extractor(settings.extractor, layout.extractor(), device, resize, study.study)
    files = {name: resolve(value) for name, value in settings.further.items()}
    further = {name: load_further(name, path, device) for name, path in files.items()}
    header = {"extractor": main.name, "sha256": main.sha256, "protocol": own or settings.protocol}
    return Networks(main, further, header)


def require_assets(study: Study, source: str) -> None:
    """Statistics are read at the very end, but a missing file must stop the study here, not after all features."""
    s = study.scoring
    require(protocol_of(study, source).statistics, *s.further.values(), *s.further_statistics.values())
