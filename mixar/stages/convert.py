"""`convert`: released weight files into ours, and a MAR of ours back into its released layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mixar import released
from mixar.released import Loaded, some
from mixar.storage.files import file_sha256, replaced
from mixar.weights import SHOWN, save_weights


def convert(
    kind: str,
    source: Path,
    target: Path,
    entry: str | None = None,
    preset: str | None = None,
    dims: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Loaded:
    """Write a released file's network to `target` (safetensors, our names), with where it came from.

    force: replace a target that is there. Raises ValueError as `load`, before anything is written.
    """
    _check_target(target, ".safetensors", force)
    loaded = released.load_released(kind, source, entry, preset, dims)
    metadata = {
        "kind": kind,
        "preset": loaded.preset,
        "settings": loaded.dims,
        "source": Path(source).name,
        "sha256": file_sha256(source),
        "entry": loaded.state.entry,
        "left_out": loaded.state.left_out[:SHOWN],
    }
    save_weights(target, loaded.network.state_dict(), metadata)
    return loaded


def to_released(
    source: Path,
    target: Path,
    preset: str | None = None,
    dims: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Loaded:
    """Write a MAR of ours as MAR's own code reads it: a PyTorch file with `model` and `model_ema`, both these weights.

    force: as for `convert`.
    Raises ValueError as `load`, and for guided networks: MAR's code has no place for their parameters.
    """
    _check_target(target, (".pth", ".pt"), force)
    tensors = released.read_state("mar", source).tensors
    if guided := [key for key in tensors if key.startswith("guidance.") and key != "guidance.mask_token"]:
        raise ValueError(f"{source}: a guided network, but MAR's own code has no parameters such as {some(guided)}")
    loaded = released.load_released("mar", source, preset=preset, dims=dims)
    names = {ours: released for released, ours in released.KINDS["mar"].renamed}
    state = {names.get(key, key): value for key, value in loaded.network.state_dict().items()}
    with replaced(target) as temporary:
        torch.save({"model": state, "model_ema": state}, temporary)
    return loaded


def _check_target(target: Path, endings: str | tuple[str, ...], force: bool) -> None:
    if not str(target).endswith(endings):
        wanted = endings if isinstance(endings, str) else " or ".join(endings)
        raise ValueError(f"{target}: the file to write must end in {wanted}")
    if Path(target).exists() and not force:
        raise ValueError(f"{target}: exists already; --force replaces it")
