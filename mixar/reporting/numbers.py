"""Numbers in print: significant digits, spreads and intervals, always with a true minus.

CSV files and result rows hold numbers unrounded; what people read comes from here.
"""

from __future__ import annotations

from mixar.reporting.summary import Result

MISSING = "–"
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def fixed(value: float, places: int) -> str:
    """So many decimals, groups of three digits, and a true minus (never before a zero)."""
    text = f"{value:,.{places}f}"
    is_negative = text.startswith("-") and text.strip("-0.,")
    return f"{'−' if is_negative else ''}{text.removeprefix('-')}"


def signed(value: float, places: int) -> str:
    """`fixed` with the sign of the value, which shows the direction of a difference that rounds to zero."""
    return ("−" if value < 0 else "+") + fixed(abs(value), places)


def number(value: float | None) -> str:
    """About four significant digits, without exponents down to 0.0001."""
    if value is None:
        return MISSING
    if value == 0 or abs(value) >= 1e-4:
        return fixed(value, decimals(value))
    return f"{value:.2g}".replace("-", "−")


def decimals(value: float) -> int:
    """Decimals that suit a number's size."""
    return next((d for limit, d in ((1000, 0), (100, 1), (1, 2), (0.1, 3), (0.01, 4)) if abs(value) >= limit), 5)


def with_spread(result: Result, places: int | None = None) -> str:
    """Mean ± standard deviation over seeds; the mean alone for one seed."""
    if result.mean is None:
        return MISSING
    places = decimals(result.mean) if places is None else places
    spread = "" if result.sd is None else f" ± {fixed(result.sd, places)}"
    return f"{fixed(result.mean, places)}{spread}"


def interval(result: Result, places: int | None = None, none: str = MISSING) -> str:
    """[low, high] with so many decimals, by default what suits each; `none` if there is no interval."""
    if result.low is None or result.high is None:
        return none
    low, high = (number(v) if places is None else fixed(v, places) for v in (result.low, result.high))
    return f"[{low}, {high}]"


def si(value: float | None) -> str:
    """1453000000 as 1.45 G."""
    if value is None:
        return MISSING
    size, letter = next((p for p in PREFIXES if value >= p[0]), (1, ""))
    scaled = value / size
    return f"{fixed(scaled, 2 if scaled < 10 and size > 1 else int(scaled < 100 and size > 1))} {letter}".strip()


def count(value: float | None) -> str:
    return MISSING if value is None else fixed(int(value), 0)


def share(value: float | None) -> str:
    """0.4123 as 41.2 %."""
    return MISSING if value is None else f"{fixed(100 * value, 1)} %"
