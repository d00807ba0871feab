"""Render noto-emoji-32.parquet again from Debian's emoji font and Unicode's list of emoji.

    apt-get install fonts-noto-color-emoji unicode-data libfribidi0
    python resources/build_emoji.py rebuilt.parquet --check resources/noto-emoji-32.parquet

Needs Pillow with Raqm (its wheels have it; it loads the system library libfribidi0): without it flags, skin tones and
joined sequences fall apart into several glyphs. `--check` compares every row and pixel with an existing file.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont, features

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
LIST = Path("/usr/share/unicode/emoji/emoji-test.txt")
STRIKE = 109  # the font's only bitmap size; its glyphs are 136 x 128 pixels
GLYPH = (136, 128)
SKIN_TONES = {f"{code:X}" for code in range(0x1F3FB, 0x1F3FF + 1)}
LINE = re.compile(r"(?P<codes>[0-9A-F ]+?) +; fully-qualified +# \S+ E(?P<version>[\d.]+) (?P<name>.+)")

NAMES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("image", pa.binary()),  # PNG, RGB
        ("label", pa.int8()),  # number of the group
        ("group", NAMES),
        ("subgroup", NAMES),
        ("name", pa.string()),
        ("codepoints", pa.string()),  # hexadecimal, separated by spaces
        ("emoji_version", NAMES),
        ("skin_tone", pa.bool_()),
        ("duplicate_of", pa.string()),  # codepoints of the first emoji with the same pixels, or null
    ]
)


def read_list(path: Path) -> list[dict]:
    """The fully qualified emoji of emoji-test.txt, in its order, without images."""
    rows, group, subgroup, groups = [], "", "", []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ")
        elif line.startswith("# subgroup: "):
            subgroup = line.removeprefix("# subgroup: ")
        elif match := LINE.fullmatch(line):
            if group not in groups:
                groups.append(group)
            codes = match["codes"].split()
            rows.append(
                {
                    "label": groups.index(group),
                    "group": group,
                    "subgroup": subgroup,
                    "name": match["name"],
                    "codepoints": " ".join(codes),
                    "emoji_version": match["version"],
                    "skin_tone": not SKIN_TONES.isdisjoint(codes),
                }
            )
    if not rows:
        raise ValueError(f"{path}: no fully-qualified emoji found; expected Unicode's emoji-test.txt")
    return rows


def load_font(path: Path) -> ImageFont.FreeTypeFont:
    """The font at its strike. Raises ValueError where Raqm is missing."""
    if not features.check("raqm"):
        raise ValueError("Pillow cannot use Raqm here; install the system library libfribidi0")
    return ImageFont.truetype(str(path), STRIKE, layout_engine=ImageFont.Layout.RAQM)


def render(font: ImageFont.FreeTypeFont, codepoints: str, size: int) -> Image.Image:
    """One emoji, RGB [size, size]: centred on a white square, Lanczos. Raises ValueError unless it is one glyph."""
    text = "".join(chr(int(code, 16)) for code in codepoints.split())
    box = font.getbbox(text)
    if box != (0, 0, *GLYPH):
        raise ValueError(f"{codepoints}: drawn in the box {box}, expected one glyph of {GLYPH} pixels")
    side = max(GLYPH)
    layer = Image.new("RGBA", (side, side))
    place = ((side - GLYPH[0]) // 2, (side - GLYPH[1]) // 2)
    ImageDraw.Draw(layer).text(place, text, font=font, embedded_color=True)
    square = Image.new("RGBA", layer.size, "white")
    square.alpha_composite(layer)
    return square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def build(font_path: Path, list_path: Path, size: int = 32) -> pa.Table:
    """The whole table, with sources and licences in the schema metadata."""
    font, rows, seen = load_font(font_path), read_list(list_path), {}
    for row in rows:
        image, buffer = render(font, row["codepoints"], size), io.BytesIO()
        image.save(buffer, "PNG", optimize=True)
        row["image"] = buffer.getvalue()
        first = seen.setdefault(image.tobytes(), row["codepoints"])
        row["duplicate_of"] = None if first == row["codepoints"] else first
    metadata = {
        "class_names": json.dumps(list(dict.fromkeys(row["group"] for row in rows))),
        "source_font": font_path.name,
        "font_sha256": hashlib.sha256(font_path.read_bytes()).hexdigest(),
        "emoji_test_sha256": hashlib.sha256(list_path.read_bytes()).hexdigest(),
        "pillow": PIL.__version__,
        "raqm": features.version("raqm"),
        "freetype": features.version("freetype2"),
        "licence_images": "SIL OFL 1.1 (glyphs, Noto Color Emoji)",
        "licence_names": "Unicode licence (emoji-test.txt)",
        "image_size": str(size),
    }
    columns = {name: [row[name] for row in rows] for name in SCHEMA.names}
    arrays = [encoded(columns[field.name], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA.with_metadata(metadata))


def encoded(values: list, kind: pa.DataType) -> pa.Array:
    """A column of the schema's type."""
    return pa.array(values).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values, kind)


def write(table: pa.Table, path: Path) -> None:
    """One row group; dictionaries only where the schema has them, for PNG bytes gain nothing."""
    named = [field.name for field in SCHEMA if pa.types.is_dictionary(field.type)]
    write_parquet(table, path, use_dictionary=named)


def write_parquet(table: pa.Table, path: Path, **options) -> None:
    """Write with zstd level 19 to a temporary name, then rename. options: of pyarrow's write_table."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, temporary, compression="zstd", compression_level=19, **options)
    os.replace(temporary, path)


def differences(found: pa.Table, expected: pa.Table) -> list[str]:
    """What differs between two tables, one line per column; pixels are compared, not PNG bytes."""
    if len(found) != len(expected):
        return [f"{len(found)} rows, expected {len(expected)}"]
    lines = []
    for name in expected.column_names:
        pairs = list(zip(found[name].to_pylist(), expected[name].to_pylist(), strict=True))
        if name == "image":
            pairs = [(pixels(a).tobytes(), pixels(b).tobytes()) for a, b in pairs]
        if wrong := [i for i, (a, b) in enumerate(pairs) if a != b]:
            lines.append(f"column {name}: {len(wrong)} of {len(pairs)} rows differ, the first is row {wrong[0]}")
    return lines


def pixels(png: bytes) -> np.ndarray:
    """uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--font", type=Path, default=FONT)
    parser.add_argument("--list", type=Path, default=LIST)
    parser.add_argument("--check", type=Path, help="an existing file to compare with")
    arguments = parser.parse_args()
    table = build(arguments.font, arguments.list)
    write(table, arguments.output)
    print(f"{arguments.output}: {len(table)} emoji, {arguments.output.stat().st_size} bytes")
    if arguments.check is None:
        return 0
    lines = differences(table, pq.read_table(arguments.check))
    print("\n".join(lines) or f"equal to {arguments.check} in every row and pixel")
    print(f"same bytes: {same_bytes(arguments.output, arguments.check)}")
    return 1 if lines else 0


def same_bytes(found: Path, expected: Path) -> bool:
    return found.read_bytes() == expected.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
