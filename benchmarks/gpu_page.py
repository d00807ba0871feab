"""What gpu.py measured, as Markdown for docs/explanation/gpu.md. Needs nothing but Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NOTHING = "**Nothing has been measured yet.** Run `benchmarks/gpu.sh` on a GPU; this page then shows what it found."
TITLES = {
    "machine": "The card itself",
    "vectors": "Stored runs of the released code, replayed",
    "steps": "One training step and one image, compared with the CPU",
    "training": "Training",
    "sampling": "Drawing latents",
    "mar": "MAR's own code",
    "training_compiled": "Training, compiled",
    "stages": "Other stages",
    "sampling_compiled": "Drawing latents, compiled",
}
HEADINGS = {
    "images_a_second": "images/s",
    "tflops": "TFLOP/s",
    "mfu": "MFU",
    "peak_gib": "peak, GiB",
    "held_gib": "held by the allocator, GiB",
    "estimated_gib": "estimated, GiB",
    "seconds": "s a call",
    "slowest": "slowest",
    "seconds_to_compile": "s to compile",
}
HIDDEN = {"tflop", "first"}  # of the file alone


def page(path: Path) -> str:
    """Tables of the file at `path`; a sentence where there is none, or where it holds a trial of the script."""
    if not path.is_file():
        return NOTHING
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["is_small"] or not found.get("memory_gib"):
        return NOTHING
    versions = f"torch {found['torch']}, Python {found['python']}, commit {str(found['commit'])[:12]}"
    lines = [f"Measured on one {found['device']} ({found['memory_gib']:g} GiB), {found['date'][:10]}, {versions}."]
    for name, part in found["parts"].items():
        lines += ["", f"### {TITLES.get(name, name)}", "", *_part(part)]
    return "\n".join(lines)


def _part(part: Mapping[str, Any]) -> list[str]:
    items = part["items"]
    ended = (
        [] if part["status"] == "done" else [f"{part['status'].capitalize()}: {part.get('why', 'no reason given')}."]
    )
    failed = [f"- {_name(item)}: {item['error']}" for item in items if "error" in item]
    good = [item for item in items if "error" not in item]
    tables: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for item in good:
        tables.setdefault(tuple(key for key in item if key not in HIDDEN), []).append(item)
    parts = [_table(columns, rows) for columns, rows in tables.items()] + ([failed] if failed else []) + [ended]
    return "\n\n".join("\n".join(lines) for lines in parts if lines).splitlines()


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    heads = [HEADINGS.get(column, column.replace("_", " ")) for column in columns]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return lines + [f"| {' | '.join(_cell(column, row[column]) for column in columns)} |" for row in rows]


def _cell(column: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if column == "mfu":
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def _name(item: Mapping[str, Any]) -> str:
    """The first entry: run, file, stage or what."""
    return str(next(iter(item.values())))
