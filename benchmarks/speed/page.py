"""What the comparisons of this folder measured, as Markdown for docs/explanation/speed.md."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

NOTHING = "**Nothing has been measured on an idle machine yet.**"
ORDER = ("against_mar", "against_maskbit", "against_lightningdit", "scaling")
TITLES = {
    "against_mar": "Against MAR",
    "against_maskbit": "Against MaskBit",
    "against_lightningdit": "Against LightningDiT, and MAR's loader",
    "scaling": "How cost grows",
}


def page(folder: Path) -> str:
    """A table for each Parquet file of the folder; a sentence where there is none."""
    parts = []
    for path in (folder / f"{name}.parquet" for name in ORDER):
        if path.is_file():
            rows = pd.read_parquet(path)
            table = scaling(rows) if path.stem == "scaling" else comparison(rows)
            parts += [f"### {TITLES[path.stem]}", machine(rows), table.to_markdown(index=False, disable_numparse=True)]
    return "\n\n".join(parts) or NOTHING


def machine(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    threads = "1 thread" if first.threads == 1 else f"{first.threads} threads"
    said = f"{first.device}, {threads}, {first.date}, torch {first.torch}, Python {first.python}."
    if "load_average" in rows:
        said += f" Load of the machine meanwhile, this work included: at most {rows.load_average.max():.1f}."
        said += f" Rounds that count: {rows.quiet_rounds.min()} or more of {rows.rounds.max()}."
    return said


def comparison(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds of both arms and their ratios; shares of the matrix-product rate where FLOPs were counted."""
    columns: dict[str, list[str]] = {"what": [], "theirs, s": [], "ours, s": [], "times as fast": []}
    columns |= {"by CPU time": [], "of the GEMM rate": []}
    for row in rows.to_dict("records"):
        columns["what"].append(f"{row['case']}, {row['items']:,} item{'s' * (row['items'] > 1)}")
        for arm in ("theirs", "ours"):
            columns[f"{arm}, s"].append(f"{row[f'{arm}_wall_min_s']:.3g} ({row[f'{arm}_wall_median_s']:.3g})")
        columns["times as fast"].append(f"**{row['ratio_wall_min']:.2f}** ({row['ratio_wall_median']:.2f})")
        columns["by CPU time"].append(f"{row['ratio_cpu_min']:.2f} ({row['ratio_cpu_median']:.2f})")
        shares = [f"{row[f'{arm}_floor_share']:.0%}" if row[f"{arm}_gflop"] else "–" for arm in ("theirs", "ours")]
        columns["of the GEMM rate"].append(" / ".join(shares))
    return pd.DataFrame(columns)


def scaling(rows: pd.DataFrame) -> pd.DataFrame:
    """The exponent of each kind of work in each size, and the seconds behind it."""
    columns: dict[str, list[str]] = {"what": [], "grows with": [], "exponent": [], "CPU s": []}
    for row in rows.to_dict("records"):
        columns["what"].append(row["what"])
        columns["grows with"].append(row["axis"])
        columns["exponent"].append(f"{row['slope']:.2f}")
        times = zip(row["sizes"], row["cpu_s"], strict=True)
        columns["CPU s"].append(", ".join(f"{size}: {seconds:.3g}" for size, seconds in times))
    return pd.DataFrame(columns)
