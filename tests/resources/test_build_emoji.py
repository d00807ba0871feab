import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import features

COMMITTED = Path("resources/noto-emoji-32.parquet")


@pytest.fixture(scope="module")
def builder():
    spec = importlib.util.spec_from_file_location("build_emoji", "resources/build_emoji.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def committed():
    return pq.read_table(COMMITTED)


def needs_source(path, expected):
    if not path.is_file():
        pytest.skip(f"{path} is not installed")
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        pytest.skip(f"{path} is another version than the committed images were made of")


def test_the_list_gives_the_committed_names_and_groups(builder, committed):
    needs_source(builder.LIST, committed.schema.metadata[b"emoji_test_sha256"].decode())

    rows = builder.read_list(builder.LIST)

    for column in ("label", "group", "subgroup", "name", "codepoints", "emoji_version", "skin_tone"):
        assert [row[column] for row in rows] == committed[column].to_pylist()


def test_the_font_gives_the_committed_pixels(builder, committed):
    needs_source(builder.FONT, committed.schema.metadata[b"font_sha256"].decode())
    if not features.check("raqm"):
        pytest.skip("Pillow cannot use Raqm: the system library libfribidi0 is not installed")
    font = builder.load_font(builder.FONT)

    for row in committed.take(list(range(0, len(committed), 7))).to_pylist():
        image = builder.render(font, row["codepoints"], 32)
        assert np.array_equal(np.asarray(image), builder.pixels(row["image"])), row["name"]


def test_a_sequence_of_two_glyphs_is_refused(builder, committed):
    if not builder.FONT.is_file() or not features.check("raqm"):
        pytest.skip(f"{builder.FONT} or Raqm (libfribidi0) is not installed")

    with pytest.raises(ValueError, match="expected one glyph"):
        builder.render(builder.load_font(builder.FONT), "1F600 1F603", 32)


def test_a_changed_pixel_is_found(builder, committed):
    changed = committed.slice(0, 4)
    images = changed["image"].to_pylist()
    swapped = changed.set_column(0, "image", [[images[1], images[1], *images[2:]]])

    assert builder.differences(changed, changed) == []
    assert builder.differences(swapped, changed) == ["column image: 1 of 4 rows differ, the first is row 0"]


def test_committed_duplicates_name_an_earlier_emoji_with_the_same_pixels(builder, committed):
    images = dict(zip(committed["codepoints"].to_pylist(), committed["image"].to_pylist(), strict=True))
    pairs = [(a, b) for a, b in zip(images, committed["duplicate_of"].to_pylist(), strict=True) if b]

    assert len(pairs) == 14
    assert all(np.array_equal(builder.pixels(images[a]), builder.pixels(images[b])) for a, b in pairs)


def test_a_file_that_is_no_emoji_list_is_refused(builder, tmp_path):
    (tmp_path / "list.txt").write_text("# group: nothing\n")

    with pytest.raises(ValueError, match="no fully-qualified emoji"):
        builder.read_list(tmp_path / "list.txt")
