"""Values of networks that must be finite.

An overflow ends as NaN, and what follows would hide it: pixels become black, bits and tokens become 0. So whatever
turns a network's output into pixels, latents, tokens or features asks here first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


def finite(values: Tensor, what: str) -> Tensor:
    """The values [B, ...] as they are. Raises FloatingPointError counting the images whose values are not all finite.

    what: names the values, such as "latents".
    """
    # A finite sum means that all values are finite; only another one asks for a look at each value.
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
    """Put the place before the message of what is not finite: stage, run, shard, batch."""
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"{where}: {error}") from None
