"""From rows to the numbers that tables, figures and claims print: means over seeds, spreads, intervals.

One home for what belongs together: which rows are a run's headline, and when two rows may stand in one column.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import dataclass, field

import pandas as pd

from mixar.reporting.results import OTHERS, OWN
from mixar.scoring import protocols
from mixar.study.sections import Study

QUALITY = ("fd", "is", "kid", "precision", "recall")
# Metrics that Table 1 shows as well where a study has them, in this order; one's own come after them, by name.
FURTHER = ("fd_infinity", "fd_dinov2", "sfid", "precision_vgg", "recall_vgg")
# What a metric is measured against: the first of these hashes that a row has. Given statistics stand for the images of
# the reference in a Fréchet distance, and there alone.
FRECHET_REFERENCE = ("statistics", "reference")
REFERENCES = {"fd": FRECHET_REFERENCE, "fd_infinity": FRECHET_REFERENCE, "rfd": FRECHET_REFERENCE,
              "fd_held_out": ("reference_held_out",), "is": (), "psnr": ()}  # fmt: skip


@dataclass(frozen=True)
class Summary:
    """One metric of one run: by seed, and over its seeds. `low` and `high` span the 95 % intervals of all seeds."""

    values: dict[int | None, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    half_width: float | None = None  # of the 95 % interval, mean over seeds
    replicates: tuple[float, ...] = ()  # the mean over seeds with each jackknife group of images left out
    n: int | None = None
    protocol: str | None = None
    device: str | None = None
    unit: str | None = None

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values.values()) if self.values else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    @property
    def span(self) -> tuple[float, float] | None:
        """The interval, or the smallest and largest value over seeds where there is none."""
        if self.low is not None:
            return self.low, self.high
        return (min(self.values.values()), max(self.values.values())) if len(self.values) > 1 else None


def rows_of(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that belong to the study as it is now: its runs with their seeds, what every study has, and images that
    somebody brought."""
    seeds = {name: set(run.seeds) for name, run in study.runs.items()}
    known = [
        run in OTHERS or run.startswith(OWN) or (run in seeds and (pd.isna(seed) or int(seed) in seeds[run]))
        for run, seed in zip(rows["run"], rows["seed"], strict=True)
    ]
    return rows[pd.Series(known, index=rows.index) & (rows["study"] == study.study)]


def own_labels(rows: pd.DataFrame) -> dict[str, str]:
    """Run name -> label of the images that somebody brought, by name."""
    own = rows[rows["run"].str.startswith(OWN)]
    return dict(sorted(zip(own["run"], own["label"], strict=True)))


def headline_sampler(study: Study, run: str) -> str | None:
    """The sampler behind a run's headline: the report's, or the run's first where it was not drawn with that one."""
    if run not in study.runs:
        return None
    samplers = study.runs[run].samplers
    return study.report.sampler if study.report.sampler in samplers else samplers[0]


def further_metrics(rows: pd.DataFrame) -> list[str]:
    """The metrics of drawn images beyond QUALITY that rows hold. (fd_held_out, a check for copies, is none of them.)"""
    found = set(rows["metric"][rows["source"] == "sample"]) - {*QUALITY, "fd_held_out"}
    return [m for m in FURTHER if m in found] + sorted(found - set(FURTHER))


def summarise(study: Study, rows: pd.DataFrame, run: str, metric: str, source: str = "sample") -> Summary:
    """One metric of one run over its seeds, with the headline sampler; false where there is no such row.

    Raises ValueError if a seed has two values, or if the seeds differ in protocol, n or features.
    """
    found = rows[(rows["run"] == run) & (rows["metric"] == metric) & (rows["source"] == source)]
    sampler = headline_sampler(study, run)
    if sampler is not None:
        found = found[found["sampler"].isna() | (found["sampler"] == sampler)]
    if found.empty:
        return Summary()
    same_ground(found, f"{run}: {metric}")
    if found["seed"].duplicated().any():
        raise ValueError(f"{run}: {metric} has several values for one seed; delete the stale file below the results")
    low, high = found["low"], found["high"]
    has_interval = low.notna().all() and high.notna().all()
    first = found.iloc[0]
    return Summary(
        values={None if pd.isna(s) else int(s): float(v) for s, v in zip(found["seed"], found["value"], strict=True)},
        low=float(low.min()) if has_interval else None,
        high=float(high.max()) if has_interval else None,
        half_width=float(((high - low) / 2).mean()) if has_interval else None,
        replicates=_mean_replicates(found["replicates"]),
        n=None if pd.isna(first["n"]) else int(first["n"]),
        protocol=_text(first["protocol"]),
        device=_text(first["device"]),
        unit=_text(first["unit"]),
    )


def _mean_replicates(found: pd.Series) -> tuple[float, ...]:
    """Group by group the mean over seeds; empty where a seed has none or another number of groups."""
    if not all(pd.api.types.is_list_like(value) for value in found) or len({len(value) for value in found}) > 1:
        return ()
    return tuple(statistics.fmean(group) for group in zip(*found, strict=True))


def same_ground(rows: pd.DataFrame, where: str, marked: bool = False) -> dict[str, str]:
    """Raise ValueError where rows of one column differ in protocol, n, extractor or reference.

    With `marked`: no error, and the mark '†' for each run that differs from the most frequent ground.
    """
    grounds = {i: _ground(row) for i, row in rows.iterrows()}
    common = Counter(grounds.values()).most_common()
    if len(common) > 1 and not marked:
        found = "; ".join(" ".join(str(part) for part in ground) for ground, _ in common)
        raise ValueError(f"{where}: a column cannot mix protocols, numbers of images or features; found {found}")
    return {rows.at[i, "run"]: "†" for i, ground in grounds.items() if ground != common[0][0]}


def strangers(rows: pd.DataFrame, standard: pd.DataFrame) -> dict[str, str]:
    """The mark '†' for each run of `rows` that no row of the column's `standard` shares its ground with."""
    grounds = {_ground(row) for _, row in standard.iterrows()}
    return {row["run"]: "†" for _, row in rows.iterrows() if _ground(row) not in grounds}


def _ground(row: pd.Series) -> tuple:
    hashes = _hashes(row)
    reference = [key for key in REFERENCES.get(row["metric"], ("reference",)) if key in hashes]
    n = None if pd.isna(row["n"]) else int(row["n"])
    return (
        _text(row["protocol"]) or "no protocol",
        f"n={n}",
        *(f"{key}={hashes[key][:12]}" for key in ("extractor", *reference[:1]) if key in hashes),
    )


def _hashes(row: pd.Series) -> dict[str, str]:
    return json.loads(row["hashes"]) if isinstance(row["hashes"], str) else {}


def _text(value) -> str | None:
    return value if isinstance(value, str) else None


def distance_name(study: Study, rows: pd.DataFrame, source: str = "sample") -> str:
    """gFID or rFID where the protocol earns the name; else the Fréchet distance named after its feature network, or
    after the study where the reference images are its own.

    Brought images decide it only where there is nothing else.
    """
    letter = {"sample": "g", "reconstruct": "r"}[source]
    metric = {"sample": "fd", "reconstruct": "rfd"}[source]
    used = _without_brought(rows[(rows["metric"] == metric) & (rows["source"] == source)])
    extractor = extractor_name(study, used)
    names = {protocols.distance_name(str(found), extractor, study.study) for found in used["protocol"]}
    return letter + max(names or {protocols.distance_name("", extractor, study.study)}, key=lambda name: name != "FID")


def extractor_name(study: Study, rows: pd.DataFrame) -> str:
    """The feature network behind rows, with the hash that its name ends in; the study's where rows do not say."""
    names = {_hashes(row).get("extractor_name") for _, row in _without_brought(rows).iterrows()} - {None}
    return names.pop() if len(names) == 1 else study.scoring.extractor.network


def _without_brought(rows: pd.DataFrame) -> pd.DataFrame:
    kept = rows[~rows["run"].str.startswith(OWN)]
    return kept if len(kept) else rows
