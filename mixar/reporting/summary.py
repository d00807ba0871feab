"""What a report prints, computed once: every metric of every run over its seeds, and what each was measured against.

One pass over the rows makes a `Summary`; tables, figures, claims and the page select from it. One home for what belongs
together: which rows are a run's headline, and when two results may share a column.
"""

from __future__ import annotations

import functools
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from mixar.reporting.names import OTHERS, OWN, label_of
from mixar.scoring import protocols
from mixar.scoring.catalogue import METRICS, Metric, metric_of
from mixar.scoring.sweeps import choose
from mixar.study.names import split
from mixar.study.sections import Study

DISTANCES = {"sample": ("g", "fd"), "reconstruct": ("r", "rfd")}  # source -> letter of the name, metric
JOINED = "/"  # between the study and the run, in the name of a guest of a joined study; no run of a study has it
DRAWING = {"sample": ("fd",), "measure": ("seconds_per_image", "flops_sample")}  # source -> metrics of a sampler
SWEEP = "sweep"  # source of the rows of guidance scales that were tried
TOKENIZERS = ("continuous", "discrete")
ORIGIN = ("source", "commit", "dirty", "platform", "device", "versions")  # columns that say where rows came from


@dataclass(frozen=True)
class Result:
    """One metric of one run: by seed, and over its seeds. `low` and `high` span the 95 % intervals of all seeds.

    False where nothing was measured.
    """

    values: Mapping[int | None, float] = field(default_factory=dict)  # by seed; None: the row has none
    low: float | None = None
    high: float | None = None
    half_width: float | None = None  # of the 95 % interval, mean over seeds
    replicates: tuple[float, ...] = ()  # the mean over seeds with each jackknife group of images left out
    n: int | None = None
    protocol: str | None = None
    device: str | None = None
    run: str = ""
    ground: tuple[str, ...] = ()  # what two results must share to be comparable
    network: str | None = None  # the feature network, with the hash that its name ends in
    changed: str | None = None  # which settings of the training were changed on the way
    is_trained: bool = True  # by this study, each seed anew; False: one fixed network
    cfg: float | None = None  # guidance scale of the images

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
        """The interval, or the smallest and largest value over seeds if there is none."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        return (min(self.values.values()), max(self.values.values())) if len(self.values) > 1 else None


NOTHING = Result()


def best_scale(points: Sequence[Result]) -> dict[str, Any]:
    """What `mixar.scoring.sweeps.choose` says of a sweep's points."""
    values = [
        (point.cfg, {"metric": "fd", "value": point.mean, "low": point.low, "high": point.high, "n": point.n,
                     "replicates": point.replicates})
        for point in points
        if point.cfg is not None
    ]  # fmt: skip
    return choose(values)


@dataclass(frozen=True)
class Summary:
    """Every result of a study, by (run, metric, source).

    guests: run name -> label of what this study did not draw: images that `score-images` scored, and runs of joined
    studies, whose names are `study/run`. joined: those studies by name. origins: where the rows came from. sweeps: the
    distance at each guidance scale that was tried, by network and sampler, ascending. by_sampler: distance and cost
    of drawing, by network, sampler and metric.
    """

    study: Study
    results: Mapping[tuple[str, str, str], Result]
    guests: Mapping[str, str]
    joined: Mapping[str, Study] = field(default_factory=dict)
    origins: tuple[dict[str, Any], ...] = ()
    sweeps: Mapping[tuple[str, str], tuple[Result, ...]] = field(default_factory=dict)
    by_sampler: Mapping[tuple[str, str, str], Result] = field(default_factory=dict)

    def of(self, run: str, metric: str, source: str = "sample") -> Result:
        """One result; a false one where nothing was measured."""
        measured = split(run)[0] if source == "measure" else run  # a milestone costs what its run does
        return self.results.get((measured, metric, source), NOTHING)

    def drawn_with(self, run: str, sampler: str, metric: str) -> Result:
        """The distance `fd`, or a cost of DRAWING, with any sampler of a run; a false one where there is none."""
        return self.by_sampler.get((run, sampler, metric), NOTHING)

    @functools.cached_property
    def changed(self) -> dict[str, str]:
        """What was changed by hand within the training of a run, by run."""
        return {result.run: result.changed for result in self.results.values() if result.changed}

    def changes_in_words(self, runs: Iterable[str]) -> list[str]:
        """A note on those of these runs whose training was changed by hand; none where there is none."""
        labels = {run: self.guests.get(run) or label_of(self.study, run) for run in runs if run in self.changed}
        found = [f"{label}: {self.changed[run]}" for run, label in labels.items()]
        return [f"§ Settings changed within the training by `mixar resume`: {'; '.join(found)}."] if found else []

    def column(self, metric: str, source: str = "sample") -> list[Result]:
        """The results of every run, those of guests included."""
        return [result for (_, *key), result in self.results.items() if key == [metric, source]]

    @functools.cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """The columns of Table 1: those that it always has, the measured ones, and last the study's own metrics."""
        found = {metric for _, metric, source in self.results if source == "sample"}
        known = [m for m in METRICS.values() if m.column == "always" or (m.column == "measured" and m.name in found)]
        further = self.study.scoring.further
        return (*known, *(metric_of(name, further) for name in sorted(found - set(METRICS))))

    def heading(self, metric: Metric) -> str:
        """A column's title and its arrow. FID or sFID only where every row of the study's own earns the name."""
        own = self._of_study(self.column(metric.name, metric.source))
        return metric.heading(self.distance(metric.source, metric.name), _are_fid(own))

    def distance(self, source: str = "sample", metric: str | None = None) -> str:
        """gFID or rFID where the protocol earns the name; else gFD- or rFD- and the feature network's or study's name.

        Guests decide it only where there is nothing else.
        """
        letter, usual = DISTANCES[source]
        used = self._of_study(self.column(metric or usual, source)) or self._of_study(self.column(usual, source))
        network = self._network(used)
        names = {protocols.distance_name(r.protocol or "", network, self.study.study) for r in used}
        names -= {"FID"} if len(names) > 1 else set()
        return letter + min(names, default=protocols.distance_name("", network, self.study.study))

    @property
    def network(self) -> str:
        """The feature network behind the scores, with the hash that its name ends in."""
        return self._network(self._of_study(list(self.results.values())))

    def _network(self, results: Iterable[Result]) -> str:
        names = {r.network for r in results if r.network}
        return names.pop() if len(names) == 1 else self.study.scoring.extractor.network

    def is_guest(self, run: str) -> bool:
        """Whether the study did not make this run, or this tokenizer's reconstructions."""
        return run in self.guests or JOINED in run

    def _of_study(self, results: list[Result]) -> list[Result]:
        """Without those of guests, unless there are no others."""
        return [r for r in results if not self.is_guest(r.run)] or results


def _are_fid(results: list[Result]) -> bool:
    return bool(results) and all(protocols.is_fid(r.protocol or "") for r in results)


def summarise(study: Study, rows: pd.DataFrame, joined: Iterable[tuple[Study, pd.DataFrame]] = ()) -> Summary:
    """The one pass over a study's rows. Of several samplers, a run's headline one counts.

    joined: other studies and their rows; their runs become guests.
    Raises ValueError if a seed of a run has two values, or if its seeds differ in protocol, n, features or reference.
    """
    rows = rows_of(study, rows)
    results = _results(study, rows)
    guests = {row["run"]: row["label"] for row in rows.to_dict("records") if _is_brought(study, row["run"])}
    guests, others, frames = dict(sorted(guests.items())), {}, [rows]
    for other, theirs in joined:
        theirs = rows_of(other, theirs)
        names = {name: f"{other.study}{JOINED}{name}" for name in (*other.networks, *TOKENIZERS)}
        for (run, metric, source), result in _results(other, theirs).items():
            if run in names:
                results[names[run], metric, source] = replace(result, run=names[run])
        taken = {run.label for run in study.networks.values()} | set(guests.values())
        for name, section in other.networks.items():
            label = section.label
            guests[names[name]] = f"{label} ({other.study})" if label in taken else label
        others[other.study] = other
        frames.append(theirs)
    origins, by_sampler = tuple(_origins(pd.concat(frames))), _by_sampler(study, rows)
    return Summary(study, results, guests, others, origins, _sweeps(study, rows), by_sampler)


def _by_sampler(study: Study, rows: pd.DataFrame) -> dict[tuple[str, str, str], Result]:
    """Distance and cost of drawing with every sampler that the study's runs have."""
    groups: dict[tuple[str, str, str], list[dict]] = {}
    for row in rows[rows["source"].isin(DRAWING)].to_dict("records"):
        run, sampler, metric = row["run"], _text(row["sampler"]), row["metric"]
        if run in study.runs and sampler in study.runs[run].samplers and metric in DRAWING[row["source"]]:
            groups.setdefault((run, sampler, metric), []).append(row)
    return {key: _result(study, found) for key, found in groups.items()}


def _sweeps(study: Study, rows: pd.DataFrame) -> dict[tuple[str, str], tuple[Result, ...]]:
    """The scales that the study now sweeps, as far as they have rows."""
    found: dict[tuple[str, str], tuple[Result, ...]] = {}
    records = rows[rows["source"] == SWEEP].sort_values("cfg").to_dict("records")
    for (run, sampler), sweep in study.sweeps.items():
        theirs = [row for row in records if (row["run"], row["sampler"]) == (run, sampler) and row["cfg"] in sweep.cfg]
        if theirs:
            found[run, sampler] = tuple(_result(study, [row]) for row in theirs)
    return found


def _results(study: Study, rows: pd.DataFrame) -> dict[tuple[str, str, str], Result]:
    groups: dict[tuple[str, str, str], list[dict]] = {}
    headline = {run: study.headline_sampler(run) for run in study.networks}
    for row in rows[rows["source"] != SWEEP].to_dict("records"):
        if _text(row["sampler"]) in (None, headline.get(row["run"])) or row["run"] not in headline:
            groups.setdefault((row["run"], row["metric"], row["source"]), []).append(row)
    return {key: _result(study, found) for key, found in groups.items()}


def _is_brought(study: Study, run: str) -> bool:
    return run.startswith(OWN) and run not in study.runs


def rows_of(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that belong to the study as it is now: its runs and seeds, OTHERS, and images from outside."""
    seeds = {name: set(run.seeds) for name, run in study.networks.items()}
    known = [
        run in OTHERS or run.startswith(OWN) or (run in seeds and (pd.isna(seed) or int(seed) in seeds[run]))
        for run, seed in zip(rows["run"], rows["seed"], strict=True)
    ]
    return rows[pd.Series(known, index=rows.index) & (rows["study"] == study.study)]


def _result(study: Study, rows: list[dict]) -> Result:
    """One result of the rows of its seeds."""
    first, run, where = rows[0], rows[0]["run"], f"{rows[0]['run']}: {rows[0]['metric']}"
    seeds = [None if pd.isna(row["seed"]) else int(row["seed"]) for row in rows]
    if (grounds := Counter(_ground(row) for row in rows)) and len(grounds) > 1:
        raise _mixed(where, grounds)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"{where} has several values for one seed; delete the stale file below the results")
    spans = [(row["low"], row["high"]) for row in rows if pd.notna(row["low"]) and pd.notna(row["high"])]
    has_interval = len(spans) == len(rows)
    return Result(
        values={seed: float(row["value"]) for seed, row in zip(seeds, rows, strict=True)},
        low=float(min(low for low, _ in spans)) if has_interval else None,
        high=float(max(high for _, high in spans)) if has_interval else None,
        half_width=statistics.fmean((high - low) / 2 for low, high in spans) if has_interval else None,
        replicates=_mean_replicates([row["replicates"] for row in rows]),
        n=None if pd.isna(first["n"]) else int(first["n"]),
        protocol=_text(first["protocol"]),
        device=_text(first["device"]),
        run=run,
        ground=_ground(first),
        network=_hashes(first).get("extractor_name"),
        changed=next(filter(None, (_hashes(row).get("changed") for row in rows)), None),
        cfg=None if pd.isna(first.get("cfg")) else float(first["cfg"]),
        is_trained=run in (networks := study.networks) and not networks[run].weights,
    )


def _mean_replicates(replicates: list) -> tuple[float, ...]:
    """Group by group the mean over seeds; empty where a seed has none or another number of groups."""
    if not all(pd.api.types.is_list_like(r) for r in replicates) or len({len(r) for r in replicates}) > 1:
        return ()
    return tuple(statistics.fmean(group) for group in zip(*replicates, strict=True))


def check_same_ground(results: Iterable[Result], where: str) -> None:
    """Raise ValueError where results of one column differ in protocol, n, extractor or reference."""
    grounds: Counter[tuple[str, ...]] = Counter()
    for result in filter(None, results):
        grounds[result.ground] += len(result.values)
    if len(grounds) > 1:
        raise _mixed(where, grounds)


def strangers(results: Iterable[Result], standard: Iterable[Result]) -> dict[str, str]:
    """The mark '†' for each run of `results` whose ground no result of the column's `standard` has."""
    grounds = {r.ground for r in standard}
    return {r.run: "†" for r in results if r.ground not in grounds}


def _mixed(where: str, grounds: Counter[tuple[str, ...]]) -> ValueError:
    found = "; ".join(" ".join(ground) for ground, _ in grounds.most_common())
    return ValueError(f"{where}: a column cannot mix protocols, numbers of images or features; found {found}")


def _ground(row: Mapping) -> tuple[str, ...]:
    hashes = _hashes(row)
    reference = [key for key in metric_of(row["metric"]).ground if key in hashes]
    n = None if pd.isna(row["n"]) else int(row["n"])
    return (
        _text(row["protocol"]) or "no protocol",
        f"n={n}",
        *(f"{key}={hashes[key][:12]}" for key in ("extractor", *reference[:1]) if key in hashes),
    )


def _hashes(row: Mapping) -> dict[str, str]:
    return json.loads(row["hashes"]) if isinstance(row["hashes"], str) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _origins(rows: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """One entry for each source, commit, platform, device and set of versions, with its number of rows and dates."""
    for values, part in rows.groupby(list(ORIGIN), dropna=False, sort=False):
        dates = part["created"].min(), part["created"].max()
        yield dict(zip(ORIGIN, values, strict=True)) | {"rows": len(part), "created": dates}
