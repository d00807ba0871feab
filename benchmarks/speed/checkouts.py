"""Code of other projects, imported from a checkout, without packages that a comparison does not use."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor


@contextmanager
def checkout(path: Path, marker: str, absent: Iterable[str], device: torch.device) -> Iterator[None]:
    """The modules of a checkout can be imported inside; on a CPU `.cuda()` does nothing.

    marker: a file that such a checkout has. absent: packages that it imports and the comparison does not use; a module
    that lets everything be imported from it replaces each that is not installed.
    Raises SystemExit where the path holds no checkout.
    """
    if not (path / marker).is_file():
        raise SystemExit(f"{path}: no checkout of this project ({marker} is missing)")
    stubs = {name: Absent(name) for name in absent if importlib.util.find_spec(name.partition(".")[0]) is None}
    sys.modules.update(stubs)
    try:
        with patch.object(sys, "path", [str(path.resolve()), *sys.path]), without_cuda(device):
            yield
    finally:
        # another checkout may have modules of the same names; what else was imported stays
        for name, module in list(sys.modules.items()):
            if name in stubs or str(getattr(module, "__file__", "")).startswith(f"{path.resolve()}/"):
                del sys.modules[name]


class Absent(ModuleType):
    """A package that is not there: every name in it is None."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


@contextmanager
def without_cuda(device: torch.device) -> Iterator[None]:
    if device.type == "cuda":
        yield
        return
    with patch.object(Tensor, "cuda", lambda t, *_, **__: t):
        yield


@contextmanager
def recorded(owner: Any, name: str) -> Iterator[list[Any]]:
    """The results of a function, as they are made."""
    function, found = getattr(owner, name), []

    def record(*arguments: Any, **options: Any) -> Any:
        found.append(function(*arguments, **options))
        return found[-1]

    with patch.object(owner, name, record):
        yield found
