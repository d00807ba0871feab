"""What a study may choose by name: a row of a table below, or "module:name" for code anywhere on PYTHONPATH.

Every key that names a choice follows this grammar. A row holds the "module:name" of the built-in, so both are loaded
the same way, and only where they are used: no torch here.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from mixar.scoring import catalogue
from mixar.scoring.catalogue import NETWORKS

CAUGHT = (Exception, SystemExit)  # whatever foreign code does, also sys.exit or argparse where it is imported
CLASS, FUNCTION = "module:Class", "module:function"


@dataclass(frozen=True)
class Choice:
    """One kind of choice: what messages call it, the form of its "module:name", and the built-in rows."""

    role: str
    form: str
    table: Mapping[str, str]

    def where(self, name: str) -> str:
        """The "module:name" behind a choice."""
        return self.table.get(name, name)

    def check(self, name: str) -> str:
        """`name` if it is a row or has the form of a "module:name". Raises PydanticCustomError otherwise."""
        if name in self.table or is_own(name):
            return name
        raise PydanticCustomError("choice", f"{unknown(name, self.table)}, or give your own as {self.form}")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """A field of type Annotated[str, Choice] is checked by `check`."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        own = {"type": "string", "pattern": ".:.", "title": self.form}
        return {"anyOf": [{"type": "string", "enum": list(self.table)}, own]}

    def load_class(self, name: str, base: type, methods: Sequence[str] = ()) -> type:
        """The class of a choice. Raises ValueError as `load`, and where it is no `base` or lacks a method."""
        return load_class(self.where(name), self.role, base, methods)

    def load_function(self, name: str) -> Callable:
        """The function of a choice. Raises ValueError as `load`, and where it cannot be called."""
        return load_function(self.where(name), self.role)


def is_own(name: str) -> bool:
    """Whether a choice is a "module:name" instead of a row."""
    return ":" in name


def unknown(found: str, valid: Iterable[str]) -> str:
    """A message for an unknown name: the one or two that it begins, or the nearest valid one; and all of them."""
    by_lower, sought = {name.lower(): name for name in valid}, found.lower()
    longer = [name for name in by_lower if sought and name.startswith(sought)]
    nearest = longer if 0 < len(longer) < 3 else difflib.get_close_matches(sought.replace("-", "_"), by_lower, n=1)
    near = " or ".join(repr(by_lower[name]) for name in nearest)
    choices = f"hoose from {', '.join(valid)}"
    return f"{found!r} is unknown; " + (f"did you mean {near}? C{choices}" if near else f"c{choices}")


def in_words(error: BaseException) -> str:
    """The class of an error of foreign code, and its message where it has one."""
    what = f"{type(error).__name__}: {error}".removesuffix(": ")
    return f"it ends Python ({what})" if isinstance(error, SystemExit) else what


def load(where: str, role: str, form: str = CLASS) -> Any:
    """The object named by "module:name".

    role: what it is for, such as "strategy"; begins every message. form: how `where` should look.
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
    except CAUGHT as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):  # not one it imports
            raise ValueError(f"{role} {where!r}: {error}; it must be importable from where mixar runs") from error
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
    found = load(where, role, FUNCTION)
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
        parameters = list(inspect.signature(vars(each)["__init__"]).parameters.values())[1:]  # without self
        own = [p for p in parameters[:num_sizes] if p.default is not p.empty] + parameters[num_sizes:]
        known |= {p.name: None for p in own if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind == p.VAR_KEYWORD for p in parameters):
            return list(known)
    return None


STRATEGIES = Choice(
    "guidance.strategy",
    CLASS,
    {
        "none": "mixar.model.guidance:Unguided",
        "dc_mix": "mixar.model.guidance:DCMix",
        "dc_sa": "mixar.model.guidance:DCSelfAttention",
        "dc_ca": "mixar.model.guidance:DCCrossAttention",
    },
)
CONTINUOUS = Choice("continuous.network", CLASS, {"vavae": "mixar.tokens.vavae:VaVae"})
DISCRETE = Choice("discrete.network", CLASS, {"maskbit": "mixar.tokens.maskbit:MaskBit"})
SCHEDULES = Choice(
    "ti_mix.schedule",
    FUNCTION,
    {name: f"mixar.model.ti_mix:{name}" for name in ("constant", "linear", "cosine", "step")},
)
OPTIMIZERS = Choice("optimizer", FUNCTION, {name: f"mixar.training.optim:{name}" for name in ("adamw", "muon")})
SOURCES = Choice(
    "data.source",
    FUNCTION,
    {
        "drawings": "mixar.data.sources:drawings",
        "emoji": "mixar.data.sources:emoji",
        "folder": "mixar.data.sources:folder",
        "ilsvrc": "mixar.data.ilsvrc:ilsvrc",
        "parquet": "mixar.data.sources:parquet",
        "webdataset": "mixar.data.webdataset:webdataset",
    },
)
EXTRACTORS = Choice("scoring.extractor.network", CLASS, {name: NETWORKS[name].load for name in catalogue.EXTRACTORS})
FURTHER = Choice("scoring.further", CLASS, {name: NETWORKS[name].load for name in catalogue.FURTHER})
_LISTED = {name: function for name in catalogue.LISTED if (function := catalogue.METRICS[name].function)}
METRICS = Choice("scoring.metrics", FUNCTION, _LISTED)
RESERVED_METRICS = frozenset({*catalogue.METRICS, "parameters"})  # names of other result rows and columns


def metric_name(entry: str) -> str:
    """A metric's name in result rows: the row of the table, or what follows the colon of a "module:function"."""
    return entry.rpartition(":")[2]


def check_metric(entry: str) -> str:
    """`entry` if the study may list it. Raises PydanticCustomError for an unknown name, and for a function whose name
    other result rows have."""
    name = metric_name(METRICS.check(entry))
    if is_own(entry) and name in RESERVED_METRICS:
        raise PydanticCustomError(
            "choice", f"{entry!r}: result rows already use the name {name!r}; rename the function"
        )
    return entry
