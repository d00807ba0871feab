import hashlib
import importlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

COMMITTED = Path("resources/drawings-32.parquet")
LIST = """# group: Smileys
# subgroup: face-smiling
1F600 ; fully-qualified # 😀 E1.0 grinning face
# group: People
# subgroup: hands
1F44B ; fully-qualified # 👋 E0.6 waving hand
1F44B 1F3FB ; fully-qualified # 👋🏻 E1.0 waving hand: light skin tone
# group: Symbols
# subgroup: heart
2764 FE0F ; fully-qualified # ❤ E0.6 red heart
2764 ; unqualified # ❤ E0.6 red heart
"""


@pytest.fixture(scope="module")
def builder():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend("resources")  # as for a script, whose neighbours can be imported
        yield importlib.import_module("build_drawings")


def square(colour: str, size: int = 16) -> dict:
    """An icon: a square in its lower right corner, with a border, so that it has three colours."""
    path = f'<path d="M{size // 2} {size // 2}h{size // 2}v{size // 2}h-{size // 2}z" fill="{colour}" stroke="black"/>'
    return {"body": path, "width": size, "height": size}


def package(folder: Path, icons: dict, codes: dict, aliases: dict | None = None, version: str = "1.0") -> None:
    folder.mkdir(parents=True)
    (folder / "icons.json").write_text(json.dumps({"icons": icons, "aliases": aliases or {}}))
    (folder / "chars.json").write_text(json.dumps(codes))
    (folder / "package.json").write_text(json.dumps({"version": version}))


@pytest.fixture
def sets(builder, tmp_path):
    """All packages; three draw something."""
    for name in {*builder.NAMED, *builder.DESIGNERS} - {"noto", "twemoji", "fxemoji"}:
        package(tmp_path / name, {}, {})
    toned = {"1f44b-1f3fb": "hand-light"}
    icons = {"grin": square("red"), "heart": square("blue"), "hand-light": square("green"), "a": square("grey")}
    package(tmp_path / "noto", icons, {"1f600": "grin", "2764-fe0f": "heart", "2764": "heart", "61": "a"} | toned)
    aliases = {"smile": {"parent": "smiley"}, "smiley": {"parent": "base", "width": 16}}
    icons = {"base": square("red"), "wave": square("yellow")}
    package(tmp_path / "twemoji", icons, {"1f600": "smile", "1f44b": "wave"}, aliases)
    blank = {"body": "", "width": 16, "height": 16}
    icons = {"redheart": square("pink"), "wave": blank, "wavinghand": blank, "unknown": square("grey")}
    package(tmp_path / "fxemoji", icons, {}, version="2.0")
    (tmp_path / "list.txt").write_text(LIST, encoding="utf-8")
    return tmp_path


def test_a_few_icons_become_rows_with_their_concepts_designers_and_sources(builder, sets):
    table = builder.build(sets, sets / "list.txt", workers=1)

    assert table.schema.equals(builder.SCHEMA)
    rows = [tuple(row.values())[1:] for row in table.to_pylist()]
    assert rows == [
        (0, "Smileys", "face-smiling", "grinning face", "1F600", "Google Noto", "Apache-2.0"),
        (2, "Symbols", "heart", "red heart", "2764", "Google Noto", "Apache-2.0"),
        # Twitter's face has the pixels of Google's, and fxemoji's two hands are blank
        (1, "People", "hands", "waving hand", "1F44B", "Twitter", "CC-BY-4.0"),
        (2, "Symbols", "heart", "red heart", "2764", "Mozilla FxEmoji", "Apache-2.0"),
    ]
    packages = json.loads(table.schema.metadata[b"packages"])
    assert packages["@iconify-json/fxemoji"] == "2.0" and "@iconify-json/openmoji" not in packages
    listed = hashlib.sha256((sets / "list.txt").read_bytes()).hexdigest()
    assert table.schema.metadata[b"emoji_test_sha256"].decode() == listed


def test_an_alias_that_mirrors_its_icon_is_refused(builder, sets):
    mirrored = {"smile": {"parent": "base", "hFlip": True}}
    (sets / "twemoji" / "icons.json").write_text(json.dumps({"icons": {"base": square("red")}, "aliases": mirrored}))

    with pytest.raises(ValueError, match="'smile': an alias that turns or mirrors 'base'"):
        builder.build(sets, sets / "list.txt", workers=1)


def test_a_wide_icon_is_in_the_middle_of_a_white_square(builder):
    icon = {"body": '<path d="M0 0h32v16h-32z" fill="red" stroke="black"/>', "width": 32, "height": 16}

    pixels = np.asarray(builder.render(builder.svg_of(icon, {})))

    assert pixels.shape == (32, 32, 3)
    assert pixels[:6].min() > 250 and pixels[-6:].min() > 250  # but for the filter
    assert pixels[16, 16].tolist() == [255, 0, 0] and (pixels[16, 1] == pixels[16, -2]).all()


def test_a_folder_that_is_no_package_is_named(builder, sets):
    (sets / "fxemoji" / "icons.json").unlink()

    with pytest.raises(ValueError, match="fxemoji: no icons.json; expected the unpacked npm package @iconify-json/fx"):
        builder.build(sets, sets / "list.txt", workers=1)


def test_a_written_table_is_equal_to_itself_and_another_designer_is_found(builder, sets):
    table = builder.build(sets, sets / "list.txt", workers=1)
    builder.write_parquet(table, sets / "out.parquet", row_group_size=2)
    written = pq.read_table(sets / "out.parquet")

    assert builder.differences(table, written) == []
    swapped = table.take([1, 0, 2, 3])
    found = builder.differences(swapped, written)
    assert "column image: 2 of 4 rows differ, the first is row 0" in found
    assert not any("designer" in line for line in found)


def test_the_committed_drawings_are_those_of_the_seven_designers_each_once(builder):
    table = pq.read_table(COMMITTED)

    assert table.schema.equals(builder.SCHEMA)
    assert len(table) == 9297 and len(set(table["name"].to_pylist())) == 1863
    licences = set(zip(table["designer"].to_pylist(), table["licence"].to_pylist(), strict=True))
    assert licences == {tuple(designer) for designer in builder.DESIGNERS.values()}
    assert len(set(table["image"].to_pylist())) == len(table)
    drawn = list(zip(table["codepoints"].to_pylist(), table["designer"].to_pylist(), strict=True))
    assert len(set(drawn)) == len(drawn)


def test_the_committed_concepts_are_those_of_unicodes_list(builder):
    table = pq.read_table(COMMITTED)
    if not builder.LIST.is_file():
        pytest.skip(f"{builder.LIST} is not installed")
    if hashlib.sha256(builder.LIST.read_bytes()).hexdigest() != table.schema.metadata[b"emoji_test_sha256"].decode():
        pytest.skip(f"{builder.LIST} is another version than the committed drawings were named by")

    concepts = builder.read_concepts(builder.LIST)

    for row in table.select(["label", "group", "subgroup", "name", "codepoints"]).to_pylist():
        concept = concepts[row.pop("codepoints")]
        assert row == {key: concept[key] for key in row}
