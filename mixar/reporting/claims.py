"""What the paper claims, and whether it held in this study: one verdict a claim, from result rows alone.

The rule is mixar/reporting/verdicts.py's, and printed with the claims (`RULE`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mixar.reporting.names import label_of
from mixar.reporting.numbers import decimals, fixed, interval, number, signed
from mixar.reporting.results import total_epochs
from mixar.reporting.summary import Result, Summary, check_same_ground
from mixar.reporting.verdicts import (
    DID_NOT_HOLD,
    LEAST_SEEDS,
    MARGIN,
    Comparison,
    compare,
)
from mixar.study.sections import Study

CLOSE = 1.05  # "close": a distance at most 5 % above the other
UNEQUAL = "unequal"  # the verdict where arms differ in more than what the claim is about
RULE = (
    f"Rule. A claim is decided only from at least {LEAST_SEEDS} training seeds per arm, each arm drawn at its headline "
    "settings. The difference has two 95 % intervals: over seeds (Student's t; seeds that both arms have are compared "
    "one by one, otherwise Welch's t) and over images (a paired jackknife: both runs drop the same evaluation images, "
    "so shared labels and tokens cancel). A claim held or did not hold, by the difference's sign, if the difference "
    f"exceeds the root of both squares and {100 * MARGIN:.1f} % of the other arm's value: retraining alone explains "
    "less. Otherwise it is undecided, with the number of further seeds that would decide a difference of its size. An "
    "arm that the study does not train (given weights, the discrete tokens' own images) counts as one fixed network, "
    f"and two of them decide nothing. 'Close' means at most {(CLOSE - 1) * 100:.0f} % above, by the same rule, with "
    "fewer tokens. Arms of unequal model sizes or training budgets are not judged: the verdict is "
    f"'{UNEQUAL}', whatever the numbers."
)


@dataclass(frozen=True)
class Claim:
    """A statement of the paper, its verdict here, and the evidence in sentences."""

    title: str
    verdict: str  # held, did not hold, undecided or unequal
    summary: str
    details: tuple[str, ...]
    short: str  # the summary's core

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


def _side(summary: Summary, run: str) -> _Side:
    return _Side(run, label_of(summary.study, run), summary.of(run, "fd"), summary.of(run, "kid"))


def _better(summary: Summary, title: str, ours: _Side, theirs: _Side) -> Claim:
    if not ours.fd or not theirs.fd:
        return _without_rows(title, ours, theirs)
    check_same_ground((ours.fd, theirs.fd), f"claim {title!r}")
    return _claim(summary, title, compare(ours.fd, theirs.fd), ours, theirs)


def _close(summary: Summary, guided: str, self_attention: str) -> Claim:
    ours, theirs = _side(summary, guided), _side(summary, self_attention)
    title = f"{ours.label} is close to {theirs.label} at fewer tokens"
    fewer, more = (summary.of(run, "tokens_total", "measure").mean for run in (guided, self_attention))
    if not ours.fd or not theirs.fd or fewer is None or more is None:
        return _without_rows(title, ours, theirs)
    check_same_ground((ours.fd, theirs.fd), f"claim {title!r}")
    found = compare(ours.fd, theirs.fd, CLOSE)
    found = found if fewer < more else replace(found, verdict=DID_NOT_HOLD, reason="")
    share = f"{fixed(abs(100 * (1 - fewer / more)), 0)} % {'fewer' if fewer <= more else 'more'}"
    tokens = f"; tokens {fixed(fewer, 0)} against {fixed(more, 0)} ({share})"
    return _claim(summary, title, found, ours, theirs, tokens, f"; {share}")


def _claim(
    summary: Summary, title: str, judged: Comparison, ours: _Side, theirs: _Side, more: str = "", short: str = ""
) -> Claim:
    name, decision = summary.distance(), judged.verdict
    if unequal := inequality(summary.study, ours.run, theirs.run):
        decision, more, short = UNEQUAL, f"{more}; unequal arms: {unequal}", f"{short}; unequal arms: {unequal}"
    elif judged.reason:
        more, short = f"{more}; {judged.reason}", f"{short}; {judged.reason}"
    found = _difference(name, ours.fd, theirs.fd) + more
    short = _short(ours.fd, theirs.fd) + short
    return Claim(title, decision, found, _details(name, ours, theirs), short)


def _without_rows(title: str, *sides: _Side) -> Claim:
    missing = ", ".join(side.label for side in sides if not side.fd) or "token counts"
    return Claim(
        title, "undecided", f"no rows of {missing}", (f"Nothing was scored for: {missing}.",), f"no rows of {missing}"
    )


def _difference(name: str, ours: Result, theirs: Result) -> str:
    found, mean, other = compare(ours, theirs), *_means(ours, theirs)
    places = decimals(other)
    low, high = (signed(f(found.by_seed), places) for f in (min, max))
    spread = f"seeds {low} to {high}" if len(found.by_seed) > 1 else "one seed"
    spread += "" if found.over_seeds is None else f", ± {fixed(found.over_seeds, places)}"
    within = "no interval over images" if found.over_images is None else f"images ± {fixed(found.over_images, places)}"
    against = f"{name} {number(mean)} against {number(other)}, {signed(found.mean, places)}"
    return f"{against} ({_share(found)}; {spread}; {within})"


def _means(ours: Result, theirs: Result) -> tuple[float, float]:
    assert ours.mean is not None and theirs.mean is not None
    return ours.mean, theirs.mean


def _share(found: Comparison) -> str:
    return signed(100 * found.mean / found.other, 1) + " %" if found.other else "from 0"


def _short(ours: Result, theirs: Result) -> str:
    found, mean, other = compare(ours, theirs), *_means(ours, theirs)
    within = f", ± {fixed(found.reach, decimals(other))}" if found.reach else ""
    return f"{number(mean)} against {number(other)} ({_share(found)}{within})"


def _details(name: str, ours: _Side, theirs: _Side) -> tuple[str, ...]:
    details = [_of_side(name, side) for side in (ours, theirs)]
    details += [f"{side.label}§: {side.fd.changed}." for side in (ours, theirs) if side.fd.changed]
    if ours.kid and theirs.kid:
        decision = compare(ours.kid, theirs.kid).verdict
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
    scale = "" if side.fd.cfg is None else f", CFG {side.fd.cfg:g}"
    return f"{side.label}: {'; '.join(parts)} (n = {side.fd.n}, {side.fd.protocol}{scale})."


def claims_markdown(claims: list[Claim]) -> str:
    """All claims with their evidence, and the rule."""
    if not claims:
        return "The study names no runs for the paper's claims (`report.claims`, `report.figure8`).\n"
    parts = ["# The paper's claims in this study", ""]
    for claim in claims:
        parts += [f"**{claim.title}: {claim.verdict}.** {claim.summary}.", ""]
        parts += [*(f"- {detail}" for detail in claim.details), ""]
    return "\n".join([*parts, RULE, ""])
