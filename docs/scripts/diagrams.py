"""Draw the diagrams of the pages as SVG: the stages, the executor's states, and the rooms with their imports.

    python docs/scripts/diagrams.py            writes docs/assets/{stages,states,rooms}.svg

The picture of the rooms is made from the import statements of the package.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "docs" / "assets"
WIDTH, HEIGHT = 140, 44  # of a box, pixels
SMALL = 'font-size="10.5" fill="#444"'
BLUE, ORANGE, GREY, GREEN, RED = "#e3edf9", "#fdebdc", "#efefef", "#e2f3e8", "#fbe3e3"

Box = tuple[float, float, str, str, str]  # centre x, centre y, title, second line, colour


def svg(boxes: Mapping[str, Box], arrows: Iterable[tuple[str, str, str]], width: int, height: int, title: str) -> str:
    """A drawing of boxes by name and arrows (from, to, label). A label that begins with ~ makes its arrow dashed."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="DejaVu Sans, Verdana, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#667"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    parts += [arrow(boxes[start], boxes[end], label) for start, end, label in arrows]
    parts += [box(*values) for values in boxes.values()]
    return "\n".join([*parts, "</svg>\n"])


def box(x: float, y: float, title: str, note: str, colour: str) -> str:
    left, top = x - WIDTH / 2, y - HEIGHT / 2
    rectangle = (
        f'<rect x="{left:g}" y="{top:g}" width="{WIDTH}" height="{HEIGHT}" rx="7" fill="{colour}" stroke="#99a"/>'
    )
    bold = text(x, y - 3 if note else y + 5, title, 'font-weight="bold"')
    return "\n".join([rectangle, bold, *([text(x, y + 13, note, SMALL)] if note else [])])


def text(x: float, y: float, content: str, look: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" {look}>{escape(content)}</text>'


def arrow(start: Box, end: Box, label: str) -> str:
    """A line from the edge of one box to the edge of another."""
    look = 'stroke="#667" stroke-width="1.3" marker-end="url(#tip)"'
    look += ' stroke-dasharray="5 4"' if label.startswith("~") else ""
    if end[1] - start[1] > 2 * HEIGHT + 10:  # over more than one floor: around the boxes between
        x1, x2 = start[0] - WIDTH / 2, end[0] - WIDTH / 2
        y1, y2, bend = start[1], end[1], min(x1, x2) - 60
        return f'<path d="M{x1:g} {y1:g}C{bend:g} {y1:g} {bend:g} {y2:g} {x2:g} {y2:g}" fill="none" {look}/>'
    label = label.removeprefix("~")
    (x1, y1), (x2, y2) = edge(start, end), edge(end, start)
    line = f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {look}/>'
    if not label:
        return line
    x, y = x1 + 0.35 * (x2 - x1), y1 + 0.35 * (y2 - y1)
    half = 3.1 * len(label) + 3
    paper = f'<rect x="{x - half:.1f}" y="{y - 8:.1f}" width="{2 * half:.1f}" height="15" fill="white"/>'
    return "\n".join([line, paper, text(round(x, 1), round(y + 4, 1), label, SMALL)])


def edge(start: Box, end: Box) -> tuple[float, float]:
    """Where the line between two centres leaves the first box."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    scale = min(WIDTH / 2 / abs(dx) if dx else 1e9, HEIGHT / 2 / abs(dy) if dy else 1e9)
    return start[0] + dx * scale, start[1] + dy * scale


# The stages


def stages() -> str:
    boxes = {
        "ingest": (80, 40, "ingest", "images", BLUE),
        "tokenizer": (80, 130, "tokenizer", "VA-VAE, MaskBit", GREY),
        "tokenize": (260, 40, "tokenize", "latents, tokens", BLUE),
        "generator": (260, 130, "generator", "MaskBit", GREY),
        "generate": (440, 130, "generate", "tokens of labels", BLUE),
        "train": (440, 40, "train", "every run", ORANGE),
        "sample": (620, 85, "sample", "images of every run", ORANGE),
        "reconstruct": (440, 220, "reconstruct", "held-out images", BLUE),
        "extractor": (620, 220, "extractor", "feature network", GREY),
        "measure": (620, 310, "measure", "FLOPs, time, memory", GREEN),
        "score": (800, 130, "score", "FD, IS, KID, P/R", GREEN),
        "report": (800, 220, "report", "tables, figures", GREEN),
    }
    plain = ["ingest tokenize", "tokenizer tokenize", "tokenize generator", "tokenize train", "generator generate",
             "generate sample", "train sample", "sample score", "tokenizer reconstruct", "reconstruct score",
             "extractor score", "score report", "measure report"]  # fmt: skip
    arrows = [(*pair.split(), "") for pair in plain] + [("generator", "train", "~TI-Mix")]
    return svg(boxes, arrows, 880, 345, "The stages of a study, from images to report")


# The executor's states


def states() -> str:
    boxes = {
        "submitted": (90, 60, "submitted", "array or plain job", BLUE),
        "queued": (290, 60, "queued", "waits for a node", BLUE),
        "running": (490, 60, "running", "holds its lock", ORANGE),
        "stopping": (490, 150, "told to stop", "preempted, time limit", ORANGE),
        "ended": (690, 60, "ended", "Slurm is asked", GREY),
        "done": (870, 32, "succeeded", "outputs are new", GREEN),
        "failed": (870, 100, "failed", "state, log, remedy", RED),
        "lost": (290, 150, "requeued", "within its budget", BLUE),
    }
    arrows = [("submitted", "queued", ""), ("queued", "running", ""), ("running", "ended", ""), ("ended", "done", ""),
              ("ended", "failed", ""), ("running", "stopping", ""), ("stopping", "lost", ""),
              ("stopping", "ended", "no budget"), ("lost", "queued", ""), ("ended", "lost", "~node lost")]  # fmt: skip
    return svg(boxes, arrows, 950, 185, "What happens to a job on Slurm")


# The rooms


CATALOGUE = "scoring.catalogue"  # a room of its own: it imports nothing of ours, and `study` imports it


def rooms_of(package: Path) -> dict[str, set[str]]:
    """Rooms of the package (folders and modules at its top, and the catalogue), each with the rooms that it imports."""
    names = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    imports: dict[str, set[str]] = {name: set() for name in names - {"__init__"}}
    for path in package.rglob("*.py"):
        room = room_of(".".join(path.relative_to(package).with_suffix("").parts))
        if room in {*imports, CATALOGUE}:
            found = {r for r in imported(path, package.name) if r in {*imports, CATALOGUE} and r != room}
            imports[room] = imports.get(room, set()) | found
    return imports


def room_of(module: str) -> str:
    """The room of a module's dotted path inside the package, or of a name in it."""
    return CATALOGUE if f"{module}.".startswith(f"{CATALOGUE}.") else module.split(".")[0]


def imported(path: Path, package: str) -> set[str]:
    """Rooms that a module imports from; imports for type checkers alone do not count."""
    found = set()
    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {room_of(name.removeprefix(f"{package}.")) for name in names if name.startswith(f"{package}.")}
    return found


def walk(node: ast.AST) -> Iterable[ast.AST]:
    """A node and all below it, without what only type checkers run."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from walk(child)


def depths(imports: Mapping[str, set[str]]) -> dict[str, int]:
    """Depth of each room: one below the lowest room that imports it, 0 for the top. A circle counts once."""
    importers = {room: {other for other in imports if room in imports[other]} for room in imports}

    def depth(room: str, above: tuple[str, ...] = ()) -> int:
        path = (*above, room)
        return 1 + max((depth(other, path) for other in importers[room] if other not in path), default=-1)

    return {room: depth(room) for room in sorted(imports)}


def needed(imports: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Arrows that no longer path of arrows replaces."""

    def reach(room: str, seen: frozenset[str] = frozenset()) -> set[str]:
        return (
            set().union(*({r} | reach(r, seen | {room}) for r in imports[room] - seen))
            if imports[room] - seen
            else set()
        )

    return [(room, other) for room in sorted(imports) for other in sorted(imports[room])
            if not any(other in reach(r, frozenset({room})) for r in imports[room] - {other})]  # fmt: skip


def rooms() -> str:
    imports = rooms_of(ROOT / "mixar")
    depth = depths(imports)
    step, most = WIDTH + 40, max(list(depth.values()).count(floor) for floor in depth.values())
    width = most * step + 100  # room for the arrows around the boxes
    boxes: dict[str, Box] = {}
    for floor in range(max(depth.values()) + 1):
        here = sorted((room for room in imports if depth[room] == floor), key=lambda room: above(room, imports, boxes))
        for i, room in enumerate(here):
            x = width / 2 + (i - (len(here) - 1) / 2) * step
            boxes[room] = (x, 40 + floor * 92, room, "", BLUE if (ROOT / "mixar" / room).is_dir() else GREY)
    arrows = [(a, b, "") for a, b in needed(imports)]
    return svg(
        boxes, arrows, width, 80 + 92 * max(depth.values()), "Rooms of mixar; an arrow points to an imported room"
    )


def above(room: str, imports: Mapping[str, set[str]], boxes: Mapping[str, Box]) -> tuple[float, str]:
    """Mean x of the rooms that import one, for the order on its floor."""
    found = [boxes[other][0] for other in imports if room in imports[other] and other in boxes]
    return (sum(found) / len(found) if found else 0, room)


def main() -> None:
    for name, text in {"stages": stages(), "states": states(), "rooms": rooms()}.items():
        (ASSETS / f"{name}.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
