"""Failures of hardware and arithmetic, each as one message: out of memory, and non-finite values.

Libraries report a shortage of memory in many ways; it also happens while files are read, and a sound file must not be
called damaged. An overflow ends as NaN, and what follows would hide it: pixels become black, bits and tokens become 0.
So whatever turns a network's output into pixels, latents, tokens or features calls `finite` first. No torch here.
"""

from __future__ import annotations

import errno
import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_SHORTAGE = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad_alloc|ALLOC_FAILED|"
    r"Storage size calculation overflowed|can't start new thread|failed to map segment|os error 12\b",
    re.IGNORECASE,
)
_BYTES = re.compile(r"you tried to allocate (\d+) bytes")
MORE = "give it more memory (a rule's mem_mb, a higher `ulimit -v`, a larger GPU)"
_SIZE = re.compile(r"(?:tried|unable) to allocate ([\d.]+ \w*B)\b(?: for an array (with shape .*? type \w+))?", re.I)


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the host or on a GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    is_wordless = isinstance(error, MemoryError)  # of Python, NumPy and Arrow
    # torch's own are RuntimeErrors, as CUDA's; an ImportError, where a library finds no room; safetensors has a class
    return is_wordless or (not isinstance(error, ValueError) and bool(_SHORTAGE.search(str(error))))


def asked_for(error: BaseException) -> str:
    """The size of the failed allocation, as the error states it; empty if it does not."""
    text = str(error)
    if found := _BYTES.search(text):
        mib = int(found[1]) / 2**20
        return f", asking for {f'{mib:.1f} MiB' if mib < 1024 else f'{mib / 1024:.1f} GiB'} at once"
    found = _SIZE.search(text)
    return f", asking for {found[1]} at once{f', an array {found[2]}' if found[2] else ''}" if found else ""


def needs_memory(describe: Callable[..., tuple[str, str]]) -> Callable[[Callable], Callable]:
    """Decorate a stage: if it runs out of memory, raise one OSError with the stage, the size asked for and advice.

    describe: from the stage's arguments to its name and to the settings that need less memory.
    """

    def decorate(stage: Callable) -> Callable:
        @functools.wraps(stage)
        def guarded(*arguments, **keywords):
            try:
                return stage(*arguments, **keywords)
            except Exception as error:
                if not is_shortage(error):
                    raise
                name, advice = describe(*arguments, **keywords)
                where = "GPU" if re.search("CUDA|HIP|CUBLAS|CUDNN", str(error)) else "host"
                raise OSError(f"{name}: out of memory on the {where}{asked_for(error)}. {advice}; or {MORE}") from error

        return guarded

    return decorate


def finite(values: Tensor, what: str) -> Tensor:
    """The values [B, ...] as they are. Raises FloatingPointError counting the images whose values are not all finite.

    what: names the values, such as "latents".
    """
    # A finite sum means that all values are finite; scan only otherwise.
    if not values.sum().isfinite():
        is_good = values.isfinite().flatten(1).all(dim=1)
        if not is_good.all():
            bad = (~is_good).nonzero()[:, 0].tolist()
            raise FloatingPointError(
                f"{what} of {len(bad)} of {len(values)} images are not finite (the first is number {bad[0]} of the "
                "batch); the network's weights are damaged or too large, so check or train them again"
            )
    return values


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Prefix messages about non-finite values with the place: stage, run, shard, batch."""
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"{where}: {error}") from None
