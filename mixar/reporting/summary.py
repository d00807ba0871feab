"""From rows to the numbers that tables, figures and claims print: means over seeds, spreads, intervals.

One home for what belongs together: which rows are a run's headline, and when two rows may stand in one column.
"""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from dataclasses import dataclass, field

import pandas as pd

from mixar.reporting.results import OTHERS
from mixar.spec import Study

# Only these protocols make a Fréchet distance an FID: Inception features and the field's own references.
FID_PROTOCOLS = {"adm256-gfid", "val256-rfid", "mar-train-rfid", "vavae-val-rfid"}
QUALITY = ("fd", "is", "kid", "precision", "recall")


@dataclass(frozen=True)
class Summary:
    """One metric of one run: by seed, and over its seeds. `low` and `high` span the 95 % intervals of all seeds."""

    values: dict[int | None, float] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    half_width: float | None = None  # of the 95 % interval, mean over seeds
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
        """Smallest and largest value over seeds, or the interval where there is one seed only."""
        if len(self.values) > 1:
            return min(self.values.values()), max(self.values.values())
        return None if self.low is None else (self.low, self.high)


def rows_of(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that belong to the study as it is now: its runs with their seeds, and the runs that every study has."""
    seeds = {name: set(run.seeds) for name, run in study.runs.items()}
    known = [
        run in OTHERS or (run in seeds and (pd.isna(seed) or int(seed) in seeds[run]))
        for run, seed in zip(rows["run"], rows["seed"], strict=True)
    ]
    return rows[pd.Series(known, index=rows.index) & (rows["study"] == study.study)]


def headline_sampler(study: Study, run: str) -> str | None:
    """The sampler behind a run's headline: the report's, or the run's first where it was not drawn with that one."""
    if run not in study.runs:
        return None
    samplers = study.runs[run].samplers
    return study.report.sampler if study.report.sampler in samplers else samplers[0]


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
        n=None if pd.isna(first["n"]) else int(first["n"]),
        protocol=_text(first["protocol"]),
        device=_text(first["device"]),
        unit=_text(first["unit"]),
    )


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


def _ground(row: pd.Series) -> tuple:
    hashes = _hashes(row)
    n = None if pd.isna(row["n"]) else int(row["n"])
    return (
        _text(row["protocol"]) or "no protocol",
        f"n={n}",
        *(f"{key}={hashes[key][:12]}" for key in ("extractor", "reference") if key in hashes),
    )


def _hashes(row: pd.Series) -> dict[str, str]:
    return json.loads(row["hashes"]) if isinstance(row["hashes"], str) else {}


def _text(value) -> str | None:
    return value if isinstance(value, str) else None


def distance_name(study: Study, rows: pd.DataFrame, source: str = "sample") -> str:
    """gFID or rFID where the protocol earns the name; else the Fréchet distance named after its feature network."""
    letter = {"sample": "g", "reconstruct": "r"}[source]
    metric = {"sample": "fd", "reconstruct": "rfd"}[source]
    used = rows[(rows["metric"] == metric) & (rows["source"] == source)]
    if len(used) and set(used["protocol"]) <= FID_PROTOCOLS:
        return f"{letter}FID"
    return f"{letter}FD-{re.sub(r'-[0-9a-f]{8}$', '', extractor_name(study, used))}"


def extractor_name(study: Study, rows: pd.DataFrame) -> str:
    """The feature network behind rows, with the hash that its name ends in; the study's where rows do not say."""
    names = {_hashes(row).get("extractor_name") for _, row in rows.iterrows()} - {None}
    return names.pop() if len(names) == 1 else study.scoring.extractor.network
