"""The reference page of the study's keys: complete, and the one that the sections give."""

import re

import pytest

from mixar.study import reference
from mixar.study.sections import Study

PAGE = reference.page()
SECTIONS = [Study, *reference.sections()]


def test_the_committed_page_is_what_the_sections_give(root):
    committed = (root / "docs" / "reference" / "study.md").read_text(encoding="utf-8")

    assert committed == PAGE, "run python -m mixar.study.reference docs/reference/study.md"


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_key_has_a_description_and_a_row(section):
    for name, field in section.model_fields.items():
        assert field.description, f"{section.__name__}.{name}"
        assert re.search(
            rf"^\| `{name}` \|.*\| {re.escape(field.description.replace('|', chr(92) + '|'))} \|$", PAGE, re.M
        )


def test_every_link_leads_to_a_heading():
    anchors = {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.*)$", PAGE, re.M)
    }

    links = set(re.findall(r"\]\(#([^)]*)\)", PAGE))

    assert links and links <= anchors


def test_every_row_has_four_cells():
    for line in PAGE.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5, line


def test_names_own_code_bounds_and_defaults_are_printed():
    for row in (
        "| `strategy` | `none`, `dc_mix`, `dc_sa`, `dc_ca` or `module:Class` | `none` |",
        "| `head_steps` | whole number from 2 to 1000 | `100` |",
        "| `mlp_ratio` | number above 0, at most 1000 | `4.0` |",
        "| `kl_weight` | number | `1.0e-6` |",
        "| `metrics` | list: `fd`, `is`,",
        "| `held_out_path` | path or null | `null` |",
    ):
        assert row in PAGE
