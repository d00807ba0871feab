"""What mkdocs does for this project while it builds the pages.

- Pages link to files of the repository (`../../benchmarks/README.md`), as a code host needs it. The site holds a
  copy of each such file, and the link leads there.
- The Python API has one page a room of the package, made from the modules that are there.
- What `benchmarks/gpu.sh` measured takes the place of `<!-- benchmarks/gpu.json -->`.
"""

from __future__ import annotations

import importlib.util
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(?!https?://|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]+`", re.M | re.S)
API = "reference/api"
# Markers of results on a page, and the scripts that make tables of them
PAGES = {"benchmarks/gpu.json": "benchmarks/gpu_page.py", "benchmarks/speed": "benchmarks/speed/page.py"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of the Python API in the navigation."""
    index = f"{API}/index.md"

    def extend(entries: list) -> None:
        for entry in entries:
            for value in entry.values() if isinstance(entry, dict) else []:
                if isinstance(value, list):
                    extend(value)
                    if index in value:
                        value += [f"{API}/{name}" for name in api_pages()]

    extend(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add files of the repository that pages link to, directly or through each other, and the pages that are made."""
    for name, text in api_pages().items():
        files.append(File.generated(config, f"{API}/{name}", content=text))
    waiting = [
        f"docs/{file.src_uri}" for file in files.documentation_pages() if (ROOT / "docs" / file.src_uri).is_file()
    ]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for target in linked(page):
            if target not in seen and not target.startswith("docs/") and (ROOT / target).is_file():
                seen.add(target)
                files.append(File.generated(config, place_of(target), abs_src_path=str(ROOT / target)))
                waiting += [target] if target.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at files of the repository to the site's copies."""
    source = page.file.src_uri
    for place, script in PAGES.items():
        if (marker := f"<!-- {place} -->") in markdown:
            markdown = markdown.replace(marker, measured(place, script))
    home = source if page.file.generated_by and not source.startswith(API) else f"docs/{source}"

    def mended(found: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(home), found[1]))
        return posixpath.relpath(place_of(target), posixpath.dirname(source) or ".") + (found[2] or "")

    return outside_code(markdown, lambda text: LINK.sub(mended, text))


def measured(place: str, script: str) -> str:
    """What a benchmark wrote to a place, as tables of its script."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page(ROOT / place)


def outside_code(markdown: str, change) -> str:
    """Markdown with `change` made to what is neither a code block nor code between backticks."""
    parts, end = [], 0
    for code in CODE.finditer(markdown):
        parts += [change(markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(markdown[end:])])


def linked(page: str) -> list[str]:
    """Files that a page links to, as paths from the repository's root."""
    found = []
    outside_code((ROOT / page).read_text(encoding="utf-8"), lambda text: found.extend(LINK.findall(text)) or text)
    return [posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) for path, _ in found]


def place_of(path: str) -> str:
    """Where a file of the repository is on the site: pages of docs/ at the top, all others under their own path."""
    return path.removeprefix("docs/")


def api_pages() -> dict[str, str]:
    """Pages of the Python API by file name: one a room of the package, one for the modules at its top."""
    package = ROOT / "mixar"
    rooms = {folder.name: sorted(folder.rglob("*.py")) for folder in sorted(package.iterdir())
             if (folder / "__init__.py").is_file()}  # fmt: skip
    rooms["top"] = sorted(package.glob("*.py"))
    pages = {}
    for room, modules in rooms.items():
        names = [".".join(m.relative_to(ROOT).with_suffix("").parts) for m in modules if m.stem[:2] != "__"]
        title = f"mixar.{room}" if room != "top" else "mixar"
        pages[f"{room}.md"] = f"# {title}\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n"
    return pages
