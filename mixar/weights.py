"""Weights on disk: reading safetensors and PyTorch files without running code from them, strict loading, atomic saving.

A PyTorch file (.pt, .pth, .bin, .ckpt) is a pickle. It is read with `weights_only=True`: tensors, numbers, text and
containers, and the argument namespace that MAR's files carry. A file that needs anything else is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mixar.assets.check import resolve
from mixar.process.failures import is_shortage
from mixar.storage.files import file_sha256, json_mapping, replaced

ALLOWED_CLASSES: list[Any] = [
    argparse.Namespace
]  # attributes alone, no behaviour: the command line behind a checkpoint of MAR
Network = TypeVar("Network", bound=nn.Module)
_WRAPPERS = re.compile(r"(module|model)\.")  # DistributedDataParallel and DataParallel; Lightning and many scripts
SHOWN = 20  # names shown of a long list


def read_file(path: Path, values: bool = True) -> dict[str, Any]:
    """The content of a weights file: tensors by name, or for PyTorch files whatever mapping was saved.

    The first bytes decide the kind of file. values: read the whole archive once to compare its checksums; without,
    names and shapes of a large file are there at once. Raises ValueError for a missing, damaged or foreign file, and
    for one that would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file")
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] != b"{":  # of a safetensors header, after its length in eight bytes
        if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":  # a zip archive or a pickle
            return _read_pytorch(path, values)
        raise ValueError(f"{path}: neither a safetensors nor a PyTorch file; copy or make it again")
    try:
        with safe_open(str(path), framework="pt") as f:
            return {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:  # a damaged header may raise anything
        if is_shortage(error):
            raise
        raise ValueError(f"{path}: damaged or no safetensors file ({error}); copy or make it again") from None


def _read_pytorch(path: Path, values: bool) -> dict[str, Any]:
    if path.suffix == ".safetensors":  # torch goes by this name, too
        raise ValueError(f"{path}: a PyTorch file under the name of a safetensors file; rename it to .pth")
    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive and values:
            _compare_checksums(path)
        with torch.serialization.safe_globals(ALLOWED_CLASSES):
            # Memory-mapped: tensors that nobody asks for are never read. This passes over the archive's checksums.
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except UnpicklingError as error:
        raise ValueError(f"{path}: {_refusal(str(error))}") from None
    except Exception as error:  # damaged bytes lead torch's reader to errors of every class
        if is_shortage(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: damaged or no PyTorch file ({reason}); copy or make it again") from None
    if not isinstance(found, Mapping):
        raise ValueError(f"{path}: holds a {type(found).__name__}, expected a mapping of names to tensors")
    _check_plain(found, path)
    return dict(found)


def _check_plain(found: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError naming a tensor that has no array of values, also inside further mappings."""
    for key, value in found.items():
        if isinstance(value, Mapping):
            _check_plain(value, path)
        elif isinstance(value, Tensor) and (value.is_meta or value.is_quantized or value.layout != torch.strided):
            kind = "meta" if value.is_meta else "quantized" if value.is_quantized else "sparse"
            raise ValueError(f"{path}: {key} is a {kind} tensor; save it with all its values, dense and as floats")


def _compare_checksums(path: Path) -> None:
    """Raise zipfile.BadZipFile, or what its readers raise, unless every part of the archive has its CRC-32."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"checksum mismatch in {damaged}")


def _refusal(error: str) -> str:
    """Why weights_only refused a file, without torch's advice to switch it off."""
    named = re.search(r"GLOBAL (\S+)", error) or re.search(r"(\S+\.\S+) \S*which is not", error)
    what = (
        f"it names {named[1]}"
        if named
        else f"its pickle holds more than plain data ({error.splitlines()[-1].strip()[:120]})"
    )
    return (
        f"refused: {what}, and unpickling that could run code. Only tensors, numbers, text, containers and "
        "argparse.Namespace are read. Save the state dict alone, best as safetensors, on a machine that trusts the file"
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a file that holds nothing else, floating ones as float32. Raises ValueError as `read_file` does."""
    found = read_file(path)
    if others := [name for name, value in found.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{path}: expected tensors alone, found also {', '.join(map(str, others[:SHOWN]))}")
    return as_float32(found)


def as_float32(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, floating ones as float32."""
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def unwrapped(state: Mapping[str, Any], wanted: Collection[str]) -> dict[str, Any]:
    """The same entries without what wrappers of a network put before its names, as in `module._orig_mod.pos_embed`.

    wanted: names of the network, of which one must appear without the wrappers; else they are its own, and stay.
    """
    # torch.compile marks compiled parts as well as the whole network
    names = {str(key): re.sub(r"(^|(?<=\.))_orig_mod\.", "", str(key)) for key in state}
    if len(set(names.values())) < len(names):
        names = {name: name for name in names}
    prefix = "" if any(name in wanted for name in names.values()) else _wrapper(names.values(), wanted)
    return {names[str(key)].removeprefix(prefix): value for key, value in state.items()}


def _wrapper(names: Iterable[str], wanted: Collection[str]) -> str:
    """What precedes the wanted name in the first name that has one behind words of _WRAPPERS; else nothing."""
    for name in names:
        end = 0
        while word := _WRAPPERS.match(name, end):
            end = word.end()
            if name[end:] in wanted:
                return name[:end]
    return ""


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values: the same for every file that holds these weights."""
    content = hashlib.sha256()
    for key, value in sorted(tensors.items()):
        content.update(f"{key} {list(value.shape)} ".encode())
        content.update(value.detach().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()


def read_metadata(path: Path) -> dict:
    """What `save_weights` recorded beside the tensors; empty for files from elsewhere. Raises ValueError if damaged."""
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(str(path), framework="pt") as f:
            return json_mapping((f.metadata() or {}).get("mixar", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: damaged or no safetensors file ({error}); copy or make it again") from None


def load_module(module: Network, weights: Path | Mapping[str, Tensor], problems: Sequence[str] = ()) -> Network:
    """`module` with the weights of a file or mapping, in evaluation mode. A module on the meta device becomes real.

    problems: what else is wrong with these weights. Raises ValueError listing it, and every missing or surplus key,
    wrong shape and non-finite tensor.
    """
    tensors = as_float32(weights) if isinstance(weights, Mapping) else read_weights(weights)
    found = _named_as(module, tensors)
    if problems := [*problems, *differences(found, module)]:
        where = "" if isinstance(weights, Mapping) else f"{weights}: "
        raise ValueError(f"{where}{misfit(module, problems)}")
    wanted = module.state_dict()
    found = {key: value.to(wanted[key].dtype) for key, value in found.items()}
    for first, *others in _ties(module):
        value = dict(module.named_parameters(remove_duplicate=False)).get(first)
        tied = found[first] if value is None else nn.Parameter(found[first], value.requires_grad)
        found |= dict.fromkeys([first, *others], tied)  # one object, which stays one where it is assigned
    module.load_state_dict(found, assign=any(value.is_meta for value in wanted.values()))
    return module.eval()


def _ties(module: nn.Module) -> list[list[str]]:
    """The names of each tensor that a network has under several."""
    names: dict[int, list[str]] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    return [several for several in names.values() if len(several) > 1]


def _named_as(module: nn.Module, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of the network. Of a tensor with several names, one is enough."""
    found = unwrapped(found, module.state_dict())
    for names in _ties(module):
        for there in [name for name in names if name in found][:1]:
            found = dict.fromkeys(names, found[there]) | found
    return found


def misfit(module: nn.Module, problems: Sequence[str]) -> str:
    """All differences as one message; one line for those that blocks of a network share."""
    alike: dict[tuple[str, str], dict[str, None]] = {}  # (text before, text after) a block's number -> numbers
    for problem in problems:
        block = re.search(r"(?<=\.)\d+(?=\.)", problem)
        start, end = block.span() if block else (len(problem), len(problem))
        alike.setdefault((problem[:start], problem[end:]), {})[problem[start:end]] = None
    lines = [f"{before}{_numbers(found)}{after}" for (before, after), found in alike.items()]
    count = "1 difference" if len(problems) == 1 else f"{len(problems)} differences"
    return "\n  ".join([f"does not fit {type(module).__name__} ({count})", *lines])


def _numbers(found: Iterable[str]) -> str:
    """One number as it is, several in braces."""
    found = list(found)
    return found[0] if len(found) == 1 else "{" + ",".join(sorted(found, key=int)) + "}"


def differences(found: Mapping[str, Tensor], module: nn.Module, values: bool = True) -> list[str]:
    """Reasons why tensors cannot be loaded strictly, a line each, sorted; empty if they fit.

    values: look at the values too: a tensor with values that are not finite is a difference.
    """
    wanted, found = module.state_dict(), _named_as(module, found)
    problems = [f"missing: {k}" for k in wanted.keys() - found.keys()]
    problems += [f"surplus: {k}" for k in found.keys() - wanted.keys()]
    for key in found.keys() & wanted.keys():
        if found[key].shape != wanted[key].shape:
            problems.append(f"{key}: shape {list(found[key].shape)}, expected {list(wanted[key].shape)}")
        elif found[key].is_floating_point() != wanted[key].is_floating_point():
            problems.append(f"{key}: {found[key].dtype}, expected {wanted[key].dtype}")
        elif values and found[key].is_floating_point() and not found[key].isfinite().all():
            problems.append(f"{key}: holds values that are not finite")
    for first, *others in _ties(module) if values else ():
        unlike = [key for key in others if first in found and not torch.equal(found[key], found[first])]
        problems += [f"{key}: differs from {first}, and the network has one tensor for both" for key in unlike]
    return sorted(problems)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError naming the first tensor that holds values that are not finite, and the file's path."""
    for key, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{path}: {key} ({value.dtype}) holds values that are not finite; train or copy it again")


def as_file(tensors: Mapping[str, Tensor], path: Path) -> io.BytesIO:
    """The tensors as a file in memory, for a library that unpickles whatever file it is given.

    Raises ValueError naming `path` for values that are not finite.
    """
    check_finite(tensors, path)
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    buffer.seek(0)
    return buffer


def import_weights(source: str, load: Callable[[Path], nn.Module], target: Path) -> None:
    """Write weights from elsewhere at `target` as float32, with the hashes of what they were.

    source: a path or `asset:NAME`. load(path) checks them strictly: the network that it gives is what is written.
    """
    path = resolve(source)
    tensors = load(path).state_dict()
    hashes = {"sha256": file_sha256(path), "tensors_sha256": tensors_sha256(tensors)}
    save_weights(target, tensors, {**read_metadata(path), "source": source, **hashes})


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: dict, dtype: torch.dtype | None = None) -> None:
    """Write tensors with metadata, atomically; `dtype` stores floating tensors in that type.

    A tensor under several names is written under each, whole: safetensors knows no shared memory.
    Raises ValueError naming a tensor that is not finite, or not in that type.
    """
    cast, storages = {}, set()
    for name, value in tensors.items():
        value = value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        storage = value.untyped_storage().data_ptr()
        cast[name] = value.clone() if storage in storages else value
        storages.add(storage)
    check_finite(cast, path)
    with replaced(path) as temporary:
        save_file(cast, str(temporary), metadata={"mixar": json.dumps(metadata)})
        temporary.chmod(0o644)  # safetensors makes files private; results are shared
