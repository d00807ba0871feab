"""The source of classes and functions that a study names as "module:name", as a hash.

A changed strategy, metric or tokenizer must make its results again, so its source is a part of their digests. Modules
are found and read here, never run: the workflow is parsed again by every job, and importing torch takes seconds.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

OURS = "mixar"  # its source is recorded as a commit
ABSENT = "absent"  # in place of a hash: the module is not there, and `check` says so
BUILT_IN = "built in"  # in place of a hash: no source file, such as of `math`
INSTALLED = {"site-packages", "dist-packages"}
STDLIB = Path(sysconfig.get_path("stdlib")).resolve()


def is_ours(where: str) -> bool:
    """Whether "module:name" is a part of mixar."""
    return where.partition(":")[0].partition(".")[0] == OURS


def source_hash(where: str) -> str:
    """SHA-256 of the source behind "module:name", hex: of its module, of the packages around it, and of what
    these import from the same folder. ABSENT or BUILT_IN if there is no source.

    The folder is that of the module or of its top-level package; for an installed package, the package itself.
    """
    importlib.invalidate_caches()
    name = where.partition(":")[0]
    spec = _find(name)
    if spec is None:
        return ABSENT
    place = _file_of(_find(name.partition(".")[0])) or _file_of(spec)
    if place is None:
        return BUILT_IN
    found = dict(sorted(_sources(name, _beside(place), {}).items()))
    content = hashlib.sha256()
    for module, text in found.items():
        content.update(f"{module}\0{len(text)}\0".encode() + text)
    return content.hexdigest()


def _find(name: str) -> ModuleSpec | None:
    """The spec of a module, found without running the packages around it; None if there is none."""
    top, *rest = name.split(".")
    try:
        # Jobs run as `python -m mixar`, which looks in the working directory first; Snakemake's own process does not.
        found = PathFinder.find_spec(top, [os.getcwd(), *sys.path]) or importlib.util.find_spec(top)
        for number, _ in enumerate(rest, start=2):
            if found is None or found.submodule_search_locations is None:
                return None
            inner = ".".join(name.split(".")[:number])
            found = PathFinder.find_spec(inner, list(found.submodule_search_locations))
    except (ImportError, ValueError, OSError):
        return None
    return found


def _file_of(spec: ModuleSpec | None) -> Path | None:
    """Where a module's source is; of a package without __init__.py, its folder."""
    if spec is None:
        return None
    if spec.has_location and spec.origin:
        return Path(spec.origin).resolve()
    return next((Path(folder).resolve() for folder in spec.submodule_search_locations or ()), None)


def _beside(place: Path) -> Path:
    """The folder whose modules belong to the study's own code; for installed code, only its package or file."""
    package = place.parent if place.name == "__init__.py" else place
    return package if _is_installed(package) else package.parent


def _is_installed(path: Path) -> bool:
    return bool(INSTALLED & set(path.parts)) or path.is_relative_to(STDLIB)


def _sources(name: str, beside: Path, found: dict[str, bytes]) -> dict[str, bytes]:
    """`found` with the source of a module, of the packages around it and of what they import, by module name."""
    parts = name.split(".")
    for number in range(1, len(parts) + 1):
        module = ".".join(parts[:number])
        spec = None if module in found or parts[0] == OURS else _find(module)
        file = _file_of(spec)
        if file is None or not file.is_file() or not file.is_relative_to(beside):
            continue
        if _is_installed(file) and not _is_installed(beside):  # such as .venv below the folder of the module
            continue
        found[module] = file.read_bytes()
        is_package = file.name == "__init__.py"
        for imported in _imports(found[module], module if is_package else module.rpartition(".")[0]):
            _sources(imported, beside, found)
    return found


def _imports(source: bytes, package: str) -> Iterator[str]:
    """Every module that a source may import, inside functions too; none of what is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*around, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
