"""One HTML page with everything a study found: claims first, tables, figures, settings, provenance; and one a table.

Pages are self-contained: images are embedded, and nothing is loaded.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import yaml
from markupsafe import Markup

from mixar.reporting.claims import RULE, Claim
from mixar.reporting.names import family, tokenizer
from mixar.reporting.summary import Summary
from mixar.reporting.tables import Table
from mixar.reporting.writers import to_html
from mixar.study.sections import Study

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)


def page(
    summary: Summary,
    claims: Sequence[Claim],
    tables: Sequence[Table],
    literature: Sequence[Table],
    figures: Mapping[str, Path],
) -> str:
    """The page as text. figures: PNG files by heading, in the order of the page."""
    study = summary.study
    return _TEMPLATES.get_template("page.html").render(
        study=study,
        claims=claims,
        rule=RULE,
        tables=[Markup(to_html(t)) for t in tables],
        literature=[Markup(to_html(t)) for t in literature],
        figures={heading: _data_address(path) for heading, path in figures.items()},
        overview=overview(study),
        settings=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, width=110, allow_unicode=True),
        provenance=provenance_table(summary),
    )


def table_page(table: Table) -> str:
    """A page of its own for one table, as text."""
    return _TEMPLATES.get_template("table.html").render(title=table.title, table=Markup(to_html(table)))


def overview(study: Study) -> dict[str, str]:
    """The study in a few lines, for readers who will not open its settings."""
    size, sampler = study.data.image_size, study.samplers[study.report.sampler]
    seeds = sum(len(run.seeds) for run in study.runs.values())
    return {
        "Images": f"{study.data.source}, {size} × {size} pixels, {study.data.num_classes} classes",
        "Tokens": f"{study.grid} × {study.grid}; continuous with {study.continuous.latent_channels} channels "
        f"({tokenizer(study.continuous)}), discrete with {study.discrete.bits} bits ({family(study.discrete)})",
        "Runs": f"{len(study.runs)}, {seeds} trainings with all seeds",
        "Sampler": f"{sampler.num_iterations} iterations, {sampler.head_steps} steps of the diffusion head, "
        f"CFG {sampler.cfg:g} ({sampler.cfg_schedule})",
        "Evaluation": f"{study.evaluation.num_images:,} images per run, {study.evaluation.labels} labels, "
        f"protocol {study.scoring.protocol}",
    }


def provenance_table(summary: Summary) -> list[dict[str, str]]:
    """Where the rows came from: one entry for each source, commit, platform, device and set of versions."""
    found = []
    for origin in summary.origins:
        versions = ", ".join(f"{k} {v}" for k, v in json.loads(origin["versions"] or "{}").items())
        commit = str(origin["commit"])[:12] + (" with changes" if origin["dirty"] is True else "")
        found.append({"rows": f"{origin['rows']} of {origin['source']}", "commit": commit,
                      "platform": str(origin["platform"]), "device": str(origin["device"]), "versions": versions,
                      "made": " to ".join(map(str, origin["created"]))})  # fmt: skip
    return found


def _data_address(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(Path(path).read_bytes()).decode("ascii")
