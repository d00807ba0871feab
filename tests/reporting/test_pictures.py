"""Sheets of images: which images they show, and that pixels stay as they are."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mixar.reporting import figures, pictures
from mixar.storage.files import write_table


def images(count: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_a_montage_repeats_pixels_and_invents_none():
    made = images(5)

    sheet = pictures.montage(list(made), columns=3)
    factor = round(160 / 8)

    assert np.array_equal(sheet[:160:factor, :160:factor], made[0])
    white = np.array([[255, 255, 255]])
    assert len(np.unique(np.concatenate([sheet.reshape(-1, 3), white]), axis=0)) <= 5 * 64 + 1


def test_images_are_found_by_index_in_any_order(tmp_path):
    made, paths = images(6), [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for path, part in zip(paths, (range(3), range(3, 6)), strict=True):
        _write(path, part, [i % 2 for i in part], made[list(part)])

    assert np.array_equal(pictures.read_selected(paths, [4, 0]), made[[4, 0]])
    assert pictures.read_labels(paths)[1].tolist() == [0, 1, 0, 1, 0, 1]
    with pytest.raises(ValueError, match="no images with index \\[9\\]"):
        pictures.read_selected(paths, [0, 9])


def _write(path, index, labels, made):
    def png(image):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        return {"bytes": buffer.getvalue()}

    write_table(path, pa.table({"index": list(index), "label": labels, "image": [png(i) for i in made]}))


def test_a_grid_takes_classes_that_fill_a_row_and_every_class_once():
    index, label = np.arange(30), np.repeat([0, 1, 2, 3], [10, 2, 9, 9])

    chosen = pictures.pick_rows(index, label, rows=3, columns=8)

    assert [c for c, _ in chosen] == [0, 2, 3]
    assert all(len(indices) == 8 and (label[indices] == c).all() for c, indices in chosen)


def test_a_varied_choice_has_every_class_before_any_class_twice():
    index, label = np.arange(12), np.repeat([0, 1, 2], 4)

    assert label[pictures.pick_varied(index, label, 5)].tolist() == [0, 1, 2, 0, 1]


def test_psnr_follows_its_formula():
    flat = np.full((4, 4, 3), 100, np.uint8)

    assert pictures.psnr(flat, flat + np.uint8(10)) == pytest.approx(20 * np.log10(255 / 10))
    assert pictures.psnr(flat, flat) == float("inf")


def test_sheets_are_drawn_from_few_images_too(tmp_path):
    made = images(3)
    sheets = {
        "pairs": pictures.figure2("MaskBit", made, {"A run": made, "Another": made}, ["a", "b", "c"]),
        "grid": pictures.figure6({"A run": [("a", made[:2]), ("b", made[2:])]}),
        "back": pictures.reconstruction_sheet(
            made, {"VA-VAE": made, "MaskBit": made[::-1]}, ["a", "b", "c"], {"VA-VAE": "x"}
        ),
        "copies": pictures.copies_sheet(
            [("A run", images(6), images(6), 0.25), ("Another", images(6), images(6), None)]
        ),
    }

    for name, sheet in sheets.items():
        figures.save(sheet, tmp_path / name)

    assert len(list(tmp_path.iterdir())) == 8
    assert "copies: 25.0 %" in [axes.get_title(loc="right") for axes in sheets["copies"].axes]


def test_a_montage_fills_rows_from_the_left_and_leaves_white_at_the_end():
    made = images(3, side=40)

    sheet = pictures.montage(list(made), columns=2)

    cell, gap = 160, 10
    assert sheet.shape == (2 * cell + gap, 2 * cell + gap, 3)
    assert np.array_equal(sheet[:cell:4, cell + gap :: 4], made[1])
    assert np.array_equal(sheet[cell + gap :: 4, :cell:4], made[2])
    assert (sheet[cell : cell + gap] == 255).all() and (sheet[cell:, cell:] == 255).all()


def test_classes_with_too_few_images_fill_rows_only_where_no_others_are_left():
    index, label = np.arange(7), np.array([0, 0, 0, 0, 1, 1, 2])

    assert pictures.pick_rows(index, label, rows=1, columns=3) == [(0, [0, 1, 2])]
    assert pictures.pick_rows(index, label, rows=3, columns=3) == [(0, [0, 1, 2]), (1, [4, 5]), (2, [6])]
