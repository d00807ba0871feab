"""Released weight files of MAR, MaskBit and LightningDiT: their key layouts, and how they become ours.

Our networks keep the released parameter names, so little is renamed. What else a file carries is named in `KINDS` and
left out; any other missing or surplus key, wrong shape or value that is not finite is an error that lists it.
Works on files and on mappings with the released names. Files are read without running code (mixar.weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from mixar.model.guidance import Unguided
from mixar.model.mar import MAR
from mixar.study import sections
from mixar.study.presets import PRESETS
from mixar.tokens.generator import BitTransformer
from mixar.tokens.maskbit import MaskBit
from mixar.tokens.vavae import VaVae
from mixar.weights import as_float32, differences, load_module, read_file, unwrapped

IMAGENET = {"num_tokens": 256, "num_classes": 1000}


def _build_mar(channels: int, num_tokens: int, num_classes: int, **size: Any) -> nn.Module:
    model = sections.Model(**size)
    return MAR(model, Unguided(model.decoder_width or model.width, num_tokens, 0), num_tokens, channels, num_classes)


def _build_generator(bits: int, num_tokens: int, num_classes: int, **size: Any) -> nn.Module:
    return BitTransformer(sections.Generator(**size), bits, num_tokens, num_classes)


@dataclass(frozen=True)
class Kind:
    """One family of released files."""

    build: Callable[..., nn.Module]
    presets: dict[str, dict[str, Any]]  # what `build` takes, by name; the first is the default
    signature: str  # a key that this family alone has
    entries: tuple[str, ...] = ()  # where files hold the state dict, the first by default; a file may also be one
    ignored: tuple[str, ...] = ()  # other top-level entries of such files
    left_out: tuple[str, ...] = ()  # beginnings of keys in the state dict that are not needed here
    renamed: tuple[tuple[str, str], ...] = ()  # beginnings of keys: released, ours


def _sizes(section: str, names: tuple[str, ...], **more: Any) -> dict[str, dict[str, Any]]:
    """Presets of a section without the keys that are no sizes, and with those that the section lacks."""
    no_size = ("weights", "statistics", "scale", "sampler")
    return {name: {k: v for k, v in PRESETS[section][name].items() if k not in no_size} | more for name in names}


_MASKBITS = ("maskbit-14bit", *(name for name in PRESETS["MaskBit"] if name != "maskbit-14bit"))
_LIGHTNING = (
    *("epoch", "global_step", "pytorch-lightning_version", "loops", "callbacks"),
    *("optimizer_states", "lr_schedulers", "hparams_name", "hyper_parameters", "optimizer", "scaler", "args"),
)
# The files also hold the training losses (perceptual network and discriminator) and, for VA-VAE, the frozen DINOv2 and
# the projection onto it.
_VAE_LEFT_OUT = ("loss.", "foundation_model.", "linear_proj.")


def _build_vae(**dims: Any) -> nn.Module:
    return VaVae(sections.VaVae(**dims))


KINDS = {
    "mar": Kind(
        _build_mar,
        _sizes("Model", ("mar-b", "mar-l", "mar-h"), channels=16, **IMAGENET),
        signature="diffloss.net.input_proj.weight",
        entries=("model_ema", "model"),
        ignored=("optimizer", "epoch", "scaler", "args"),
        renamed=(("mask_token", "guidance.mask_token"),),
    ),
    "maskbit-tokenizer": Kind(
        lambda **dims: MaskBit(sections.MaskBit(**dims)), _sizes("MaskBit", _MASKBITS), signature="quantize.codebook"
    ),
    "maskbit-generator": Kind(
        _build_generator,
        {n: {**_sizes("Generator", (n,), **IMAGENET)[n], "bits": PRESETS["MaskBit"][n]["bits"]} for n in _MASKBITS},
        signature="bits_to_indices",
        renamed=(("token_emb.", "input_proj."),),
    ),
    "vavae": Kind(
        _build_vae,
        _sizes("VaVae", ("vavae-f16d32",)),
        signature="quant_conv.weight",
        entries=("state_dict",),
        ignored=_LIGHTNING,
        left_out=_VAE_LEFT_OUT,
    ),
    "kl16": Kind(
        _build_vae,
        _sizes("VaVae", ("kl16",)),
        signature="quant_conv.weight",
        entries=("model", "state_dict"),
        ignored=_LIGHTNING,
        left_out=_VAE_LEFT_OUT,
    ),
}


def tokenizer_kind(settings: sections.Autoencoder) -> str:
    """The kind of released file that fits a tokenizer's section. MAR's KL-16 is the VAE without decoder attention."""
    if isinstance(settings, sections.VaVae):
        return "vavae" if settings.decoder_attention else "kl16"
    return "maskbit-tokenizer"


class State(NamedTuple):
    """The tensors of one network under our names, and what is worth recording about where they come from."""

    tensors: dict[str, Tensor]  # floating ones as float32
    entry: str | None  # the part of the file that held them
    left_out: list[str]  # everything else that the file held and that is known not to be needed
    problems: list[str]  # what has no place in such a file, a line each


class Loaded(NamedTuple):
    """A network with released weights, in evaluation mode."""

    network: nn.Module
    preset: str | None  # None for sizes that are no preset's
    dims: dict[str, Any]
    state: State


def load(kind: str, weights: Path | str | Mapping[str, Any], **dims: Any) -> nn.Module:
    """The network of a released file, strictly loaded, float32, in evaluation mode.

    kind: a key of KINDS. weights: a file, or a mapping with the released names. dims: sizes that differ from the
    preset's, named as in the study's section; also num_tokens, num_classes, channels (mar) and bits (generator).
    Raises ValueError for unknown kinds and dims and foreign files, and listing everything that does not fit.
    """
    return load_released(kind, weights, dims=dims).network


def load_released(
    kind: str,
    weights: Path | str | Mapping[str, Any],
    entry: str | None = None,
    preset: str | None = None,
    dims: Mapping[str, Any] | None = None,
) -> Loaded:
    """As `load`, with what it found out. Without a preset, the one that fits the weights best is taken.

    entry: the part of the file that holds the state dict, where there are several (mar: model_ema or model).
    """
    k, where = _kind(kind), _name(weights)
    state = read_state(kind, weights, entry)
    preset, network = _closest(k, kind, state.tensors, preset, dict(dims or {}))
    fill(network, state, f"{where}, as {preset}" + (f" with {_settings(dims)}" if dims else ""))
    sizes = {**k.presets[preset], **(dims or {})}
    return Loaded(network, preset if sizes == k.presets[preset] else None, sizes, state)


def load_into(network: nn.Module, kind: str, weights: Path | str) -> nn.Module:
    """`network` with the weights of a released or of our own file, strictly loaded. Raises ValueError as `load`."""
    return fill(network, read_state(kind, weights), str(weights))


def built(build: Callable[[], nn.Module], kind: str, weights: Path) -> nn.Module:
    """The network that `build` makes, with these weights as `load_into` takes them."""
    with torch.device("meta"):  # no time for an initialisation that the file replaces
        network = build()
    return load_into(network, kind, weights)


def fill(network: nn.Module, state: State, where: str) -> nn.Module:
    """`network` with these tensors, strictly loaded, in evaluation mode. Raises ValueError that begins with `where`."""
    try:
        load_module(network, state.tensors, state.problems)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    for name, buffer in network.named_buffers():
        if name.endswith("bits_to_indices") and not torch.equal(buffer.long(), 2 ** torch.arange(len(buffer))):
            raise ValueError(f"{where}: {name} is {buffer.tolist()}, expected powers of two, the lowest bit first")
    if isinstance(network, MaskBit):
        codes = network.quantize.codebook
        if not torch.equal(codes, network.quantize.bits_of(torch.arange(len(codes)))):
            raise ValueError(f"{where}: quantize.codebook is not the table of all bits, the lowest bit first")
    return network


def read_state(
    kind: str, weights: Path | str | Mapping[str, Any], entry: str | None = None, values: bool = True
) -> State:
    """The tensors of one network, from a file or a mapping. values: as `read_file` takes it.

    Raises ValueError for a file of another kind, and an entry that is not there.
    """
    k, where = _kind(kind), _name(weights)
    content = dict(weights) if isinstance(weights, Mapping) else read_file(Path(weights), values)
    entry = _entry(k, kind, content, entry, where)
    state = unwrapped(content if entry is None else content[entry], {k.signature})
    if k.signature not in state:
        raise ValueError(f"{where}: {_what_else(content, kind)}")
    others = [] if entry is None else [name for name in content if name != entry]
    foreign = [name for name in others if name not in k.entries + k.ignored]
    problems = [f"{name}: unexpected top-level key next to {entry!r} in a {kind} file" for name in foreign]
    left_out = [name for name in others if name not in foreign]
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _our_name(k, str(key))
        if str(key).startswith(k.left_out):
            left_out.append(key)
        elif not isinstance(value, Tensor):
            problems.append(f"{key}: is a {type(value).__name__}, expected a tensor")
        elif name in tensors:
            problems.append(f"{key}: a second copy of {name}, under another name")
        else:
            tensors[name] = value
    return State(as_float32(tensors), entry, left_out, problems)


def _entry(k: Kind, kind: str, content: Mapping[str, Any], wanted: str | None, where: str) -> str | None:
    """The entry of a file that holds the state dict; None where the file itself is one."""
    if wanted is not None and wanted not in k.entries:
        raise ValueError(f"entry {wanted!r}: {kind} files have {' or '.join(k.entries) or 'none to choose from'}")
    there = [name for name in k.entries if isinstance(content.get(name), Mapping)]
    if wanted is not None and wanted not in there:
        raise ValueError(f"{where}: has no entry {wanted!r}; it holds {some(content)}")
    return wanted or next(iter(there), None)


def _closest(
    k: Kind, kind: str, tensors: Mapping[str, Tensor], preset: str | None, dims: dict[str, Any]
) -> tuple[str, nn.Module]:
    """The preset whose network fits the tensors best, or the given one, and that network on the meta device."""
    if preset is not None and preset not in k.presets:
        raise ValueError(f"preset {preset!r}: unknown for {kind}; choose from {', '.join(k.presets)}")
    names = list(k.presets) if preset is None else [preset]
    networks = {name: _build(k, kind, {**k.presets[name], **dims}) for name in names}
    misfits = {name: len(differences(tensors, network, values=False)) for name, network in networks.items()}
    best = min(names, key=lambda name: misfits[name])
    return best, networks[best]


def _build(k: Kind, kind: str, dims: dict[str, Any]) -> nn.Module:
    for key in ("num_tokens", "num_classes", "channels", "bits"):
        if key in dims and not (type(dims[key]) is int and dims[key] >= 1):
            raise ValueError(f"{kind} with {key}={dims[key]}: expected a whole number from 1")
    try:
        with torch.device("meta"):  # neither time nor random numbers for an initialisation that is replaced
            return k.build(**dims)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{kind} with {_settings(dims)}: {found}") from None
    except (TypeError, ValueError, AssertionError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{kind} with {_settings(dims)}: {error}") from None


def _settings(dims: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in dims.items())


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise ValueError(f"kind {name!r} is unknown; choose from {', '.join(KINDS)}")
    return KINDS[name]


def _our_name(k: Kind, key: str) -> str:
    for released, ours in k.renamed:
        if key.startswith(released):
            return ours + key.removeprefix(released)
    return key


def _what_else(content: Mapping[str, Any], kind: str) -> str:
    """Why a file is none of this kind, and of which it seems to be."""
    parts = [content, *(value for value in content.values() if isinstance(value, Mapping))]
    others = [name for name, k in KINDS.items() if any(k.signature in unwrapped(part, {k.signature}) for part in parts)]
    seems = f"it looks like {' or '.join(others)}" if others else f"it holds {some(content)}"
    return f"not a {kind} file: {KINDS[kind].signature} is missing; {seems}"


def some(names: Iterable[Any]) -> str:
    """The first names in words, and how many more there are."""
    names = [str(name) for name in names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "nothing"


def _name(weights: Path | str | Mapping[str, Any]) -> str:
    return "weights" if isinstance(weights, Mapping) else str(weights)
