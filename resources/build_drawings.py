"""Draw drawings-32.parquet again from seven designers' icon sets and Unicode's list of emoji.

    apt-get install unicode-data
    mkdir sets && cd sets
    for name in noto@1.2.9 noto-v1@1.2.5 fluent-emoji@1.2.7 fluent-emoji-flat@1.2.6 twemoji@1.2.5 emojione@1.2.3 \\
            fxemoji@1.2.2 openmoji; do
        mkdir "${name%@*}" && tar -xzf "$(npm pack --silent "@iconify-json/$name")" -C "${name%@*}" --strip-components=1
    done
    python resources/build_drawings.py sets rebuilt.parquet --check resources/drawings-32.parquet

Needs resvg_py, of the development extra. `--check` compares every row and pixel with an existing file.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from build_emoji import LIST, NAMES, differences, encoded, read_list, same_bytes, write_parquet
from PIL import Image


class Designer(NamedTuple):
    name: str
    licence: str


DESIGNERS = {  # by package, in the order of the rows
    "noto": Designer("Google Noto", "Apache-2.0"),
    "noto-v1": Designer("Google Noto, blobs", "Apache-2.0"),
    "fluent-emoji": Designer("Microsoft Fluent", "MIT"),
    "fluent-emoji-flat": Designer("Microsoft Fluent flat", "MIT"),
    "twemoji": Designer("Twitter", "CC-BY-4.0"),
    "emojione": Designer("EmojiOne 2", "CC-BY-4.0"),
    "fxemoji": Designer("Mozilla FxEmoji", "Apache-2.0"),
}
NAMED = ("openmoji", "twemoji", "noto", "fluent-emoji-flat")  # their names tell code points where a set has names alone
SIZE = 32
OVERSAMPLING = 4  # pixels of the rendering for one of the result, a side
BLANK = 2  # a drawing of so many colours or fewer is blank
SELECTOR = "FE0F"  # asks for a coloured emoji; sets write it or leave it out
DEFAULT_SIDE = 16  # of an icon whose set names none
TRANSFORMATIONS = ("rotate", "hFlip", "vFlip")  # of an alias; none of these sets uses one for an emoji

SCHEMA = pa.schema(
    [
        ("image", pa.binary()),  # PNG, RGB
        ("label", pa.int8()),  # number of the group
        ("group", NAMES),
        ("subgroup", NAMES),
        ("name", pa.string()),
        ("codepoints", pa.string()),  # hexadecimal, separated by spaces, without variation selectors
        ("designer", NAMES),
        ("licence", NAMES),
    ]
)


class Package(NamedTuple):
    """An unpacked npm package: its icons.json, the names of its icons by code points, and its version."""

    icons: dict
    codes: dict[str, str]
    version: str


def read_package(folder: Path) -> Package:
    """Raises ValueError where the folder holds no unpacked package."""
    found = []
    for name in ("icons.json", "chars.json", "package.json"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: no {name}; expected the unpacked npm package @iconify-json/{folder.name}")
        found.append(json.loads((folder / name).read_text(encoding="utf-8")))
    icons, codes, package = found
    return Package(icons, codes or {}, package["version"])


def read_concepts(path: Path) -> dict[str, dict]:
    """What Unicode's list says of each emoji without skin tone, by its code points without variation selectors."""
    return {without_selectors(row["codepoints"]): row for row in read_list(path) if not row["skin_tone"]}


def without_selectors(codes: str) -> str:
    """Code points in capitals, separated by spaces: "2764-fe0f" becomes "2764"."""
    points = (f"{int(code, 16):X}" for code in re.split("[- ]", codes) if code)
    return " ".join(point for point in points if point != SELECTOR)


def codes_by_name(packages: Iterable[Package], concepts: dict[str, dict]) -> dict[str, str]:
    """Code points by an icon's name without hyphens: as the first package has it, and last as Unicode names it."""
    known: dict[str, str] = {}
    for package in packages:
        for code, name in package.codes.items():
            known.setdefault(name.replace("-", ""), code)
    for code, row in concepts.items():
        known.setdefault(re.sub("[^a-z0-9]", "", row["name"].lower()), code.lower().replace(" ", "-"))
    return known


def icons_of(package: Package, concepts: dict[str, dict], known: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The code points of each emoji that a package draws and the SVG of its icon, in the order of its code points.

    An icon that stands for several emoji is taken for the first of them.
    """
    names = [name for name in package.icons["icons"] if name.replace("-", "") in known]
    codes = package.codes or {known[name.replace("-", "")]: name for name in names}
    used = set()
    for code, name in sorted(codes.items()):
        if (points := without_selectors(code)) in concepts and name not in used and (icon := icon_of(package, name)):
            used.add(name)
            yield points, svg_of(icon, package.icons)


def icon_of(package: Package, name: str) -> dict | None:
    """An icon with what it takes from the icon that it is an alias of; None: the package has no such icon."""
    icons, aliases = package.icons["icons"], package.icons.get("aliases", {})
    if name in icons:
        return icons[name]
    if name not in aliases:
        return None
    own, parent = aliases[name], icon_of(package, aliases[name]["parent"])
    if any(own.get(key) for key in TRANSFORMATIONS):
        raise ValueError(f"icon {name!r}: an alias that turns or mirrors {own['parent']!r}, which is not supported")
    return parent and parent | own


def svg_of(icon: dict, defaults: dict) -> str:
    """An SVG file of an icon in the middle of a square. defaults: of the set, for sizes that the icon does not give."""
    width, height = (icon.get(key, defaults.get(key, DEFAULT_SIDE)) for key in ("width", "height"))
    side = max(width, height)
    left, top = icon.get("left", 0) - (side - width) / 2, icon.get("top", 0) - (side - height) / 2
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {side} {side}">{icon["body"]}</svg>'
    )


def render(svg: str, size: int = SIZE) -> Image.Image | None:
    """An SVG as RGB [size, size], on white, reduced with a Lanczos filter; None: it is blank."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=OVERSAMPLING * size, height=OVERSAMPLING * size)
    drawn = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    page = Image.new("RGB", drawn.size, "white")
    page.paste(drawn, mask=drawn.getchannel("A"))
    image = page.resize((size, size), Image.Resampling.LANCZOS)
    return None if image.getcolors(BLANK) else image


def build(sets: Path, list_path: Path, workers: int = 2) -> pa.Table:
    """The whole table, with sources in the schema metadata. Of drawings with equal pixels the first is kept."""
    concepts = read_concepts(list_path)
    packages = {name: read_package(sets / name) for name in dict.fromkeys((*NAMED, *DESIGNERS))}
    known = codes_by_name((packages[name] for name in NAMED), concepts)
    found = [(name, *icon) for name in DESIGNERS for icon in icons_of(packages[name], concepts, known)]
    with ProcessPoolExecutor(workers) as pool:
        images = list(pool.map(render, [svg for *_, svg in found], chunksize=50))
    rows, seen = [], set()
    for (name, points, _), image in zip(found, images, strict=True):
        if image is None or image.tobytes() in seen:
            continue
        seen.add(image.tobytes())
        rows.append(row_of(image, points, concepts[points], DESIGNERS[name]))
    metadata = {
        "packages": json.dumps({f"@iconify-json/{name}": packages[name].version for name in DESIGNERS}),
        "emoji_test_sha256": hashlib.sha256(list_path.read_bytes()).hexdigest(),
        "renderer": f"resvg_py, {OVERSAMPLING * SIZE} px, white, Lanczos to {SIZE} px",
    }
    columns = [encoded([row[field.name] for row in rows], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCHEMA.with_metadata(metadata))


def row_of(image: Image.Image, points: str, concept: dict, designer: Designer) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    kept = {key: concept[key] for key in ("label", "group", "subgroup", "name")}
    own = {"image": buffer.getvalue(), "codepoints": points, "designer": designer.name, "licence": designer.licence}
    return kept | own


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, help="folder with one folder a package")
    parser.add_argument("output", type=Path)
    parser.add_argument("--list", type=Path, default=LIST)
    parser.add_argument("--check", type=Path, help="an existing file to compare with")
    arguments = parser.parse_args()
    table = build(arguments.sets, arguments.list)
    write_parquet(table, arguments.output, row_group_size=2000)
    drawn = ", ".join(f"{name} {count}" for name, count in Counter(table["designer"].to_pylist()).items())
    print(f"{arguments.output}: {len(table)} drawings of {len(set(table['name'].to_pylist()))} emoji: {drawn}")
    if arguments.check is None:
        return 0
    lines = differences(table, pq.read_table(arguments.check))
    print("\n".join(lines) or f"equal to {arguments.check} in every row and pixel")
    print(f"same bytes: {same_bytes(arguments.output, arguments.check)}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
