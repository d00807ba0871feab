"""What the paper claims, and whether it held in this study: one verdict a claim, from result rows alone.

The rule is defined once, in `verdict`, and printed with the claims (`RULE`).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import pandas as pd

from mixar.reporting.results import label_of
from mixar.reporting.summary import Summary, distance_name, rows_of, same_ground, summarise
from mixar.reporting.tables import decimals, interval, number
from mixar.scoring.intervals import half_width
from mixar.study.sections import Study

CLOSE = 1.05  # "close": a distance at most 5 % above the other
RULE = (
    "Rule. A difference counts when it has the same sign for every seed and exceeds its 95 % interval. Then the claim "
    "held or did not hold, by its sign; otherwise it is undecided. The interval is a jackknife of the difference "
    "itself (of the means over seeds): a group of evaluation images leaves both sides at once, so that what the sides "
    "share, labels and discrete tokens, cancels. It tells how far other images would move the difference, not other "
    "trainings: that the seeds show. Runs with equal seeds are compared seed by seed, others in all pairs. One seed "
    "shows no spread, and only the interval decides. 'Close' means: not more than "
    f"{(CLOSE - 1) * 100:.0f} % above, by the same rule, with fewer tokens."
)


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, its verdict here, and the evidence in sentences."""

    title: str
    verdict: str  # held, did not hold, or undecided
    summary: str
    details: tuple[str, ...]
    short: str  # the summary's core

    def line(self) -> str:
        return f"{self.verdict.upper():<12} {self.title}: {self.short}"


@dataclass(frozen=True)
class _Side:
    run: str
    label: str
    fd: Summary
    kid: Summary


def claims_of(study: Study, rows: pd.DataFrame) -> list[Claim]:
    """The paper's claims that the study names runs for. Raises ValueError where two sides have different protocols."""
    rows = rows_of(study, rows)
    name, claims, figure8 = distance_name(study, rows), study.report.claims, study.report.figure8
    found = []
    if claims:
        guided = _side(study, rows, claims.guided)
        found.append(_better("DC-Mix is better than MAR", name, rows, guided, _side(study, rows, claims.baseline)))
        final = _side(study, rows, claims.final or claims.guided)
        found.append(
            _better("MixAR is better than MaskBit's own images", name, rows, final, _side(study, rows, "maskbit"))
        )
        if claims.self_attention:
            found.append(_close(study, name, rows, guided, _side(study, rows, claims.self_attention)))
    if figure8:
        sides = _side(study, rows, figure8.ti_mix), _side(study, rows, figure8.plain)
        found.append(_better("TI-Mix is better than training on", name, rows, *sides))
    return found


def verdict(ours: Summary, theirs: Summary, allowance: float = 1.0) -> str:
    """'held' if `ours` is surely below `allowance` times `theirs`, 'did not hold' if surely above, else 'undecided'.

    Surely: the difference has one sign over all seeds and exceeds the half width of its interval.
    """
    by_seed = differences(ours, theirs, allowance)
    if not by_seed:
        return "undecided"
    reach = combined(ours, theirs, allowance)
    if reach is None and len(by_seed) < 2:
        return "undecided"  # neither an interval nor a second seed
    mean = statistics.fmean(by_seed)
    if abs(mean) <= (reach or 0.0) or min(by_seed) <= 0 <= max(by_seed):
        return "undecided"
    return "held" if mean < 0 else "did not hold"


def differences(ours: Summary, theirs: Summary, allowance: float = 1.0) -> list[float]:
    """ours − allowance · theirs: seed by seed where the seeds are the same, otherwise in all pairs."""
    if ours.values.keys() == theirs.values.keys():
        return [value - allowance * theirs.values[seed] for seed, value in ours.values.items()]
    return [a - allowance * b for a in ours.values.values() for b in theirs.values.values()]


def combined(ours: Summary, theirs: Summary, allowance: float = 1.0) -> float | None:
    """Half width of the interval of ours − allowance · theirs; None where a side has no interval.

    Paired where both sides have replicates of the same groups of images; else sqrt(a² + b²), as of independent sides.
    KID's replicates also leave out groups of its random subsets, the same for all runs: their noise cancels as far as
    the sides share it, and the rest stays in the interval.
    """
    if ours.replicates and len(ours.replicates) == len(theirs.replicates):
        pairs = zip(ours.replicates, theirs.replicates, strict=True)
        return half_width([a - allowance * b for a, b in pairs])
    if ours.half_width is None or theirs.half_width is None:
        return None
    return math.hypot(ours.half_width, allowance * theirs.half_width)


def _side(study: Study, rows: pd.DataFrame, run: str) -> _Side:
    return _Side(run, label_of(study, run), summarise(study, rows, run, "fd"), summarise(study, rows, run, "kid"))


def _better(title: str, name: str, rows: pd.DataFrame, ours: _Side, theirs: _Side) -> Claim:
    if not ours.fd or not theirs.fd:
        return _without_rows(title, ours, theirs)
    _check_ground(rows, ours, theirs, title)
    summary, decision = _difference(name, ours.fd, theirs.fd), verdict(ours.fd, theirs.fd)
    return Claim(title, decision, summary, _details(name, ours, theirs), _short(ours.fd, theirs.fd))


def _close(study: Study, name: str, rows: pd.DataFrame, ours: _Side, theirs: _Side) -> Claim:
    title = "DC-Mix is close to DC-SA at fewer tokens"
    tokens = [summarise(study, rows, side.run, "tokens_total", "measure").mean for side in (ours, theirs)]
    if not ours.fd or not theirs.fd or None in tokens:
        return _without_rows(title, ours, theirs)
    _check_ground(rows, ours, theirs, title)
    fewer = tokens[0] < tokens[1]
    decision = verdict(ours.fd, theirs.fd, CLOSE) if fewer else "did not hold"
    share = 100 * (1 - tokens[0] / tokens[1])
    counts = f"{tokens[0]:.0f} against {tokens[1]:.0f} ({share:.0f} % fewer)"
    summary = f"{_difference(name, ours.fd, theirs.fd)}; tokens {counts}"
    return Claim(
        title, decision, summary, _details(name, ours, theirs), f"{_short(ours.fd, theirs.fd)}; {share:.0f} % fewer"
    )


def _without_rows(title: str, *sides: _Side) -> Claim:
    missing = ", ".join(side.label for side in sides if not side.fd) or "token counts"
    return Claim(
        title, "undecided", f"no rows of {missing}", (f"Nothing was scored for: {missing}.",), f"no rows of {missing}"
    )


def _check_ground(rows: pd.DataFrame, ours: _Side, theirs: _Side, title: str) -> None:
    both = rows[rows["run"].isin([ours.run, theirs.run]) & (rows["metric"] == "fd") & (rows["source"] == "sample")]
    same_ground(both, f"claim {title!r}")


def _difference(name: str, ours: Summary, theirs: Summary) -> str:
    by_seed, reach, places = differences(ours, theirs), combined(ours, theirs), decimals(theirs.mean)
    low, high = (signed(f(by_seed), places) for f in (min, max))
    spread = f"seeds {low} to {high}" if len(by_seed) > 1 else "one seed"
    within = "no interval" if reach is None else f"interval ± {reach:,.{places}f}"
    gap = signed(ours.mean - theirs.mean, places)
    return (
        f"{name} {number(ours.mean)} against {number(theirs.mean)}, {gap} ({_share(ours, theirs)}; {spread}; {within})"
    )


def _share(ours: Summary, theirs: Summary) -> str:
    return signed(100 * (ours.mean / theirs.mean - 1), 1) + " %" if theirs.mean else "from 0"


def _short(ours: Summary, theirs: Summary) -> str:
    reach = combined(ours, theirs)
    within = "" if reach is None else f", ± {reach:,.{decimals(theirs.mean)}f}"
    return f"{number(ours.mean)} against {number(theirs.mean)} ({_share(ours, theirs)}{within})"


def _details(name: str, ours: _Side, theirs: _Side) -> tuple[str, ...]:
    details = [_of_side(name, side) for side in (ours, theirs)]
    if ours.kid and theirs.kid:
        decision = verdict(ours.kid, theirs.kid)
        words = {"held": f"lower for {ours.label}", "did not hold": f"lower for {theirs.label}"}
        details.append(
            f"{_difference('KID', ours.kid, theirs.kid)}: {words.get(decision, 'undecided by the same rule')}."
        )
    return tuple(details)


def _of_side(name: str, side: _Side) -> str:
    parts = []
    for metric, s in ((name, side.fd), ("KID", side.kid)):
        if s:
            values = ", ".join(number(v) for v in s.values.values())
            spread = f", standard deviation {number(s.sd)}" if s.sd is not None else ""
            parts.append(f"{metric} by seed {values}{spread}, 95 % interval {interval(s)}")
    return f"{side.label}: {'; '.join(parts)} (n = {side.fd.n}, {side.fd.protocol})."


def signed(value: float, places: int) -> str:
    """A number with its sign, a true minus."""
    return ("−" if value < 0 else "+") + f"{abs(value):,.{places}f}"


def claims_markdown(claims: list[Claim]) -> str:
    """All claims with their evidence, and the rule."""
    if not claims:
        return "The study names no runs for the paper's claims (`report.claims`, `report.figure8`).\n"
    parts = ["# The paper's claims in this study", ""]
    for claim in claims:
        parts += [f"**{claim.title}: {claim.verdict}.** {claim.summary}.", ""]
        parts += [*(f"- {detail}" for detail in claim.details), ""]
    return "\n".join([*parts, RULE, ""])
