"""The README's length, pages that are made from the code, and the strict build of the site."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "docs" / "scripts"


def script(name):
    """A script of docs/scripts as a module."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_has_at_most_150_lines(root):
    assert len((root / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


PAGES = [
    *(ROOT / "docs").rglob("*.md"),
    *ROOT.glob("packages/*/README.md"),
    *ROOT.glob("packages/*/docs/*.md"),
    ROOT / "config" / "README.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_code_fits_the_page(page):
    blocks = re.findall(r"^```(?:bash|python|yaml)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)

    assert [line for block in blocks for line in block.splitlines() if len(line) > script("commands").WIDTH] == []


def test_the_page_of_commands_is_current():
    commands = script("commands")

    assert commands.PAGE.read_text(encoding="utf-8") == commands.page(), "run: python docs/scripts/commands.py"


@pytest.mark.parametrize("name", ["stages", "states", "rooms"])
def test_the_pictures_are_current(name):
    diagrams = script("diagrams")
    drawn = (diagrams.ASSETS / f"{name}.svg").read_text(encoding="utf-8")

    assert drawn == getattr(diagrams, name)(), "run: python docs/scripts/diagrams.py"


def test_the_architecture_page_lists_every_room_above_those_that_it_imports():
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w.]+)` ", text, re.M)
    imports = script("diagrams").rooms_of(ROOT / "mixar")

    assert sorted(imports) == sorted(listed)
    for room, others in imports.items():
        assert not others & set(listed[: listed.index(room)]), room


def test_rooms_are_read_from_import_statements(tmp_path):
    files = {"a/x.py": "import p.c\nfrom p.b import y", "b/y.py": "from p import c", "c.py": "import os"}
    for name, text in files.items():
        path = tmp_path / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        (path.parent / "__init__.py").touch()
    diagrams = script("diagrams")

    imports = diagrams.rooms_of(tmp_path / "p")

    assert imports == {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert diagrams.depths(imports) == {"a": 0, "b": 1, "c": 2}
    assert diagrams.needed(imports) == [("a", "b"), ("b", "c")]  # a's import of c follows


@pytest.mark.slow
def test_the_site_builds_strictly_and_needs_no_network(tmp_path):
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]

    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    assert result.returncode == 0, result.stdout + result.stderr
    loaded = r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="((?:https?:)?//[^"]+)"'
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    assert not {(page.name, url) for page in pages for url in re.findall(loaded, page.read_text(encoding="utf-8"))}
