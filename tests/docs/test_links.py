"""Links of the README and of all pages: files and headings exist, addresses are well formed."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [path.relative_to(ROOT).as_posix() for path in (
    *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("packages/*/**/*.md"),
    *(ROOT / folder / "README.md" for folder in ("config", "results", "resources", "benchmarks")),
)]  # fmt: skip
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```|`[^`\n]+`", re.M | re.S)


def links(page):
    return LINK.findall(FENCE.sub("", (ROOT / page).read_text(encoding="utf-8")))


def headings(path):
    """The anchors of a page's headings, as a code host and mkdocs make them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def fault(page, link):
    """What is wrong with a link of a page, or None."""
    if "://" in link or link.startswith("mailto:"):
        parts = urlsplit(link)
        return None if parts.scheme in ("https", "http", "mailto") and (parts.netloc or parts.path) else "no address"
    name, _, anchor = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page
    if not target.exists():
        return "no such file"
    if anchor and target.suffix == ".md" and anchor not in headings(target):
        return f"no heading #{anchor}; the page has {sorted(headings(target))}"
    return None


@pytest.mark.parametrize("page", PAGES)
def test_no_link_is_dead(page):
    faults = {link: found for link in links(page) if (found := fault(page, link))}

    assert not faults


@pytest.mark.parametrize(
    ("link", "found"),
    [("docs/nowhere.md", "no such file"), ("docs/index.md#nowhere", "no heading"), ("https://", "no address"),
     ("docs/index.md#start-here", None), ("LICENSE", None), ("https://example.org/x", None)],
)  # fmt: skip
def test_dead_links_are_recognised(link, found):
    said = fault("README.md", link)

    assert said == found if found is None else found in said
