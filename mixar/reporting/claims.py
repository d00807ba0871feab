"""What the paper claims, and whether it held in this study: one verdict a claim, from result rows alone.

The rule is defined once, in `verdict`, and printed with the claims (`RULE`).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np

from mixar.reporting.names import label_of
from mixar.reporting.numbers import decimals, fixed, interval, number, signed
from mixar.reporting.results import total_epochs
from mixar.reporting.summary import Result, Summary, check_same_ground
from mixar.scoring.intervals import half_width
from mixar.study.sections import Study

CLOSE = 1.05  # "close": a distance at most 5 % above the other
LEAST_SEEDS = 3  # of an arm that the study trains
UNEQUAL = "unequal"  # the verdict where arms differ in more than what the claim is about
RULE = (
    "Rule. A difference counts if it has the same sign for every seed and exceeds its 95 % interval. Then the claim "
    "held or did not hold, by its sign; otherwise it is undecided. A claim is decided only from at least "
    f"{LEAST_SEEDS} training seeds per arm; an arm that the study does not train (given weights, the discrete tokens' "
    "own images) counts as one fixed network. The interval is a paired jackknife: both runs drop the same evaluation "
    "images, so shared labels and tokens cancel. It measures sampling error; seeds show training variance. Runs with "
    "equal seeds are compared seed by seed, others in all pairs. 'Close' means at most "
    f"{(CLOSE - 1) * 100:.0f} % above, by the same rule, with fewer tokens. Arms of unequal model sizes or training "
    f"budgets are not judged: the verdict is '{UNEQUAL}', whatever the numbers."
)


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, its verdict here, and the evidence in sentences."""

    title: str
    verdict: str  # held, did not hold, undecided or unequal
    summary: str
    details: tuple[str, ...]
    short: str  # the summary's core
    lacks_seeds: bool = False  # undecided: an arm has fewer training seeds than a verdict needs

    def line(self) -> str:
        return f"{self.verdict.upper():<12} {self.title}: {self.short}"


@dataclass(frozen=True)
class _Side:
    run: str
    label: str
    fd: Result
    kid: Result


def claims_of(summary: Summary) -> list[Claim]:
    """The paper's claims that the study names runs for, by the labels of these runs.

    Raises ValueError where two sides have different protocols.
    """
    claims, figure8 = summary.study.report.claims, summary.study.report.figure8
    found = []
    if claims:
        guided, baseline, own = (_side(summary, run) for run in (claims.guided, claims.baseline, "maskbit"))
        final = _side(summary, claims.final or claims.guided)
        found.append(_better(summary, f"{guided.label} is better than {baseline.label}", guided, baseline))
        found.append(_better(summary, f"{final.label} is better than {own.label}", final, own))
        if claims.self_attention:
            found.append(_close(summary, claims.guided, claims.self_attention))
    if figure8:
        sides = _side(summary, figure8.ti_mix), _side(summary, figure8.plain)
        found.append(_better(summary, "Continued training is better with TI-Mix", *sides))
    return found


def compared_runs(study: Study) -> list[tuple[str, str]]:
    """The pairs of trained runs that the study's claims compare."""
    claims, figure8 = study.report.claims, study.report.figure8
    pairs = [(claims.guided, claims.baseline)] if claims else []
    pairs += [(claims.guided, claims.self_attention)] if claims and claims.self_attention else []
    return pairs + ([(figure8.ti_mix, figure8.plain)] if figure8 else [])


def inequality(study: Study, ours: str, theirs: str) -> str | None:
    """How two runs differ in model size or training budget, in words; None where they do not.

    Guidance may add parameters of its own: that is what a claim compares. MaskBit's own images are no trained arm.
    """
    if not {ours, theirs} <= (networks := study.networks).keys():
        return None
    models = [networks[run].model for run in (ours, theirs)]
    epochs = [total_epochs(study, run) for run in (ours, theirs)]
    found = []
    if study.models[models[0]] != study.models[models[1]]:
        found.append(f"models {models[0]} and {models[1]}")
    if epochs[0] != epochs[1]:
        found.append(f"{epochs[0]} and {epochs[1]} epochs")
    return ", ".join(found) or None


def verdict(ours: Result, theirs: Result, allowance: float = 1.0) -> str:
    """'held' if `ours` is surely below `allowance` times `theirs`, 'did not hold' if surely above, else 'undecided'.

    Surely: from enough seeds, the difference has one sign over all of them and exceeds the half width of its interval.
    """
    by_seed = differences(ours, theirs, allowance)
    if not by_seed or too_few_seeds(ours, theirs):
        return "undecided"
    reach = combined(ours, theirs, allowance)
    if reach is None and len(by_seed) < 2:
        return "undecided"  # neither an interval nor a second seed
    mean = statistics.fmean(by_seed)
    if abs(mean) <= (reach or 0.0) or min(by_seed) <= 0 <= max(by_seed):
        return "undecided"
    return "held" if mean < 0 else "did not hold"


def too_few_seeds(*sides: Result) -> bool:
    """Whether an arm that the study trains has fewer seeds than a verdict needs."""
    return any(side.is_trained and len(side.values) < LEAST_SEEDS for side in sides)


def differences(ours: Result, theirs: Result, allowance: float = 1.0) -> list[float]:
    """ours − allowance · theirs: seed by seed where the seeds are the same, otherwise in all pairs."""
    if ours.values.keys() == theirs.values.keys():
        return [value - allowance * theirs.values[seed] for seed, value in ours.values.items()]
    return [a - allowance * b for a in ours.values.values() for b in theirs.values.values()]


def combined(ours: Result, theirs: Result, allowance: float = 1.0) -> float | None:
    """Half width of the interval of ours − allowance · theirs; None where a side has no interval.

    Paired where both sides have replicates of the same groups of images; else sqrt(a² + b²), as of independent sides.
    KID's replicates also leave out groups of its random subsets, the same for all runs: their noise cancels as far as
    the sides share it, and the rest stays in the interval.
    """
    if ours.replicates and len(ours.replicates) == len(theirs.replicates):
        pairs = zip(ours.replicates, theirs.replicates, strict=True)
        return half_width(np.array([a - allowance * b for a, b in pairs]))
    if ours.half_width is None or theirs.half_width is None:
        return None
    return math.hypot(ours.half_width, allowance * theirs.half_width)


def _side(summary: Summary, run: str) -> _Side:
    return _Side(run, label_of(summary.study, run), summary.of(run, "fd"), summary.of(run, "kid"))


def _better(summary: Summary, title: str, ours: _Side, theirs: _Side) -> Claim:
    if not ours.fd or not theirs.fd:
        return _without_rows(title, ours, theirs)
    check_same_ground((ours.fd, theirs.fd), f"claim {title!r}")
    return _claim(summary, title, verdict(ours.fd, theirs.fd), ours, theirs)


def _close(summary: Summary, guided: str, self_attention: str) -> Claim:
    ours, theirs = _side(summary, guided), _side(summary, self_attention)
    title = f"{ours.label} is close to {theirs.label} at fewer tokens"
    fewer, more = (summary.of(run, "tokens_total", "measure").mean for run in (guided, self_attention))
    if not ours.fd or not theirs.fd or fewer is None or more is None:
        return _without_rows(title, ours, theirs)
    check_same_ground((ours.fd, theirs.fd), f"claim {title!r}")
    decision = verdict(ours.fd, theirs.fd, CLOSE) if fewer < more else "did not hold"
    share = f"{fixed(abs(100 * (1 - fewer / more)), 0)} % {'fewer' if fewer <= more else 'more'}"
    tokens = f"; tokens {fixed(fewer, 0)} against {fixed(more, 0)} ({share})"
    return _claim(summary, title, decision, ours, theirs, tokens, f"; {share}")


def _claim(
    summary: Summary, title: str, decision: str, ours: _Side, theirs: _Side, more: str = "", short: str = ""
) -> Claim:
    name = summary.distance()
    if unequal := inequality(summary.study, ours.run, theirs.run):
        decision, more, short = UNEQUAL, f"{more}; unequal arms: {unequal}", f"{short}; unequal arms: {unequal}"
    lacks_seeds = decision == "undecided" and too_few_seeds(ours.fd, theirs.fd)
    more += f"; fewer than {LEAST_SEEDS} training seeds per arm" if lacks_seeds else ""
    found = _difference(name, ours.fd, theirs.fd) + more
    short = _short(ours.fd, theirs.fd) + short
    return Claim(title, decision, found, _details(name, ours, theirs), short, lacks_seeds)


def _without_rows(title: str, *sides: _Side) -> Claim:
    missing = ", ".join(side.label for side in sides if not side.fd) or "token counts"
    return Claim(
        title, "undecided", f"no rows of {missing}", (f"Nothing was scored for: {missing}.",), f"no rows of {missing}"
    )


def _difference(name: str, ours: Result, theirs: Result) -> str:
    by_seed, reach = differences(ours, theirs), combined(ours, theirs)
    mean, other = _means(ours, theirs)
    places = decimals(other)
    low, high = (signed(f(by_seed), places) for f in (min, max))
    spread = f"seeds {low} to {high}" if len(by_seed) > 1 else "one seed"
    within = "no interval" if reach is None else f"interval ± {fixed(reach, places)}"
    against = f"{name} {number(mean)} against {number(other)}, {signed(mean - other, places)}"
    return f"{against} ({_share(mean, other)}; {spread}; {within})"


def _means(ours: Result, theirs: Result) -> tuple[float, float]:
    assert ours.mean is not None and theirs.mean is not None
    return ours.mean, theirs.mean


def _share(mean: float, other: float) -> str:
    return signed(100 * (mean / other - 1), 1) + " %" if other else "from 0"


def _short(ours: Result, theirs: Result) -> str:
    reach, (mean, other) = combined(ours, theirs), _means(ours, theirs)
    within = "" if reach is None else f", ± {fixed(reach, decimals(other))}"
    return f"{number(mean)} against {number(other)} ({_share(mean, other)}{within})"


def _details(name: str, ours: _Side, theirs: _Side) -> tuple[str, ...]:
    details = [_of_side(name, side) for side in (ours, theirs)]
    details += [f"{side.label}§: {side.fd.changed}." for side in (ours, theirs) if side.fd.changed]
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


def claims_markdown(claims: list[Claim]) -> str:
    """All claims with their evidence, and the rule."""
    if not claims:
        return "The study names no runs for the paper's claims (`report.claims`, `report.figure8`).\n"
    parts = ["# The paper's claims in this study", ""]
    for claim in claims:
        parts += [f"**{claim.title}: {claim.verdict}.** {claim.summary}.", ""]
        parts += [*(f"- {detail}" for detail in claim.details), ""]
    return "\n".join([*parts, RULE, ""])
