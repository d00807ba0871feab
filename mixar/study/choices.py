"""Classes and functions of one's own: a study names them as "module:name", anywhere on PYTHONPATH."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

CAUGHT = (Exception, SystemExit)  # whatever foreign code does, also sys.exit or argparse where it is imported


def in_words(error: BaseException) -> str:
    """The class of an error of foreign code, and its message where it has one."""
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return f"it ends Python ({what})" if isinstance(error, SystemExit) else what


def load(where: str, role: str, form: str = "module:Class") -> Any:
    """What stands at "module:name".

    role: what it is for, which begins every message, such as "strategy". form: how `where` should look.
    Raises ValueError where `where` has another form, its module cannot be imported, or the module lacks the name.
    """
    module, _, name = where.partition(":")
    if not (module and name):
        raise ValueError(f"{role} {where!r}: expected {form!r}")
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{role} {where!r}: expected {form!r}, a module's name and not a path: a folder of PYTHONPATH "
                         "holds module.py")  # fmt: skip
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{role} {where!r}: {error}; it must be importable from where mixar runs") from error
    except CAUGHT as error:
        raise ValueError(f"{role} {where!r}: importing {module} fails: {in_words(error)}") from error
    if not hasattr(found, name):
        raise ValueError(f"{role} {where!r}: {module} has no {name}")
    return getattr(found, name)


def load_class(where: str, role: str, base: type, methods: Sequence[str] = ()) -> type:
    """The class at "module:Class". Raises ValueError as `load`, and where it is no `base` or lacks a method."""
    found = load(where, role)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{role} {where!r}: expected 'module:Class', a subclass of {base.__module__}.{base.__name__}")
    if missing := [name for name in methods if not callable(getattr(found, name, None))]:
        raise ValueError(f"{role} {where!r}: the class has no {' and no '.join(missing)}")
    return found


def load_function(where: str, role: str) -> Callable:
    """The function at "module:function". Raises ValueError as `load`, and where it cannot be called."""
    found = load(where, role, "module:function")
    if not callable(found):
        raise ValueError(f"{role} {where!r}: expected 'module:function', found a {type(found).__name__}")
    return found


def construct(found: type, where: str, key: str, *sizes: Any, **options: Any) -> Any:
    """found(*sizes, **options). Raises ValueError that names `key` for options that the class at `where` refuses: with
    those that it knows, where one is unknown."""
    known = options_of(found, len(sizes))
    if known is not None and (unknown := [name for name in options if name not in known]):
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        choices = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ValueError(f"{key}: {where} has no option {unknown[0]!r}; {hint}{choices}")
    try:
        return found(*sizes, **options)
    except CAUGHT as error:
        if isinstance(error, ValueError) and str(error):  # in the words of the class
            raise
        failed = "refuses them" if isinstance(error, TypeError) else "cannot be built"
        raise ValueError(f"{key}: {where} {failed}: {in_words(error)}") from error


def options_of(found: type, num_sizes: int) -> list[str] | None:
    """The names that a class takes after `num_sizes` leading arguments, its base classes' included where it hands
    further ones on; None where it may take any."""
    known: dict[str, None] = {}
    for each in (each for each in found.__mro__ if "__init__" in vars(each)):
        parameters = list(inspect.signature(each.__init__).parameters.values())[1:]  # without self
        own = [p for p in parameters[:num_sizes] if p.default is not p.empty] + parameters[num_sizes:]
        known |= {p.name: None for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return list(known)
    return None
