"""`score-images`: what is unfit is refused in words, before the first feature."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from png_files import png_16_bit
from toy_brought import forward_passes as forward_passes
from toy_brought import house as house
from toy_brought import pictures as pictures
from toy_brought import scored
from toy_images import folder, pixels, png

from mixar.data.images import write_images


def broken(root, image, content):
    path = folder(root, pixels())
    (path / f"{image:05d}.png").write_bytes(content)
    return path


def grey(mode):
    buffer = io.BytesIO()
    Image.fromarray(pixels(1)[0]).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def deep():
    return png_16_bit(pixels(1)[0].astype(np.uint16) << 8)


def keyed():
    buffer = io.BytesIO()
    Image.fromarray(pixels(1)[0]).save(buffer, "PNG", transparency=(1, 2, 3))
    return buffer.getvalue()


def no_images(root):
    root.mkdir()
    return root


def twice(root):
    path = folder(root, pixels())
    (path / "3.png").write_bytes(png(pixels(1)[0]))
    return path


def both_kinds(root):
    write_images(folder(root, pixels()) / "more.parquet", [0], [0], pixels(1))
    return root


def saved(root, name="a.npz", **arrays):
    root.mkdir()
    np.savez(root / name, **arrays)
    return root / name


def cut(root):
    path = saved(root, arr_0=pixels())
    path.write_bytes(path.read_bytes()[:2000])
    return path


def flipped(root):
    path = saved(root, arr_0=pixels())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    return path


def table(root, **columns):
    root.mkdir()
    pq.write_table(pa.table(columns), root / "a.parquet")
    return root


UNFIT = {
    "an empty folder": (no_images, "0 images .* and 0 Parquet files"),
    "no such path": (lambda root: root / "nowhere", "no folder, .npz or .parquet"),
    "two kinds": (both_kinds, "24 images .* and 1 Parquet files"),
    "mixed sizes": (lambda r: broken(r, 7, png(pixels(1, size=20)[0])), r"00007.png: 20 x 20 pixels, but .*00000.png"),
    "another size": (lambda r: folder(r, pixels(size=20)), "00000.png: 20 x 20 pixels; .* 16 x 16"),
    "grey": (lambda r: broken(r, 5, grey("L")), "00005.png: mode L "),
    "alpha": (lambda r: broken(r, 5, grey("RGBA")), "00005.png: mode RGBA"),
    "16 bits": (lambda r: broken(r, 5, deep()), "00005.png: 16 bits a channel; .* 8-bit RGB"),
    "a transparent colour": (lambda r: broken(r, 5, keyed()), "00005.png: a transparent colour; .* 8-bit RGB"),
    "no image": (lambda r: broken(r, 11, b"no image"), "00011.png: not readable"),
    "half an image": (lambda r: broken(r, 11, png(pixels(1)[0])[:300]), "00011.png: not readable"),
    "one index twice": (twice, "index 3 occurs 2 times"),
    "one index twice in Parquet": (
        lambda r: table(r, image=[png(i) for i in pixels(3)], index=[0, 4, 4]), "index 4 occurs 2 times"),
    "gaps in the index": (
        lambda r: table(r, image=[png(i) for i in pixels(3)], index=[0, 1, None]), "'index' is int64 with 1 gaps"),
    "Parquet without pixels": (lambda r: table(r, image=[b"", *[None] * 23]), "row 0: image.bytes is missing"),
    "no array of that name": (lambda r: saved(r, images=pixels()), "'arr_0' is missing; found images"),
    "floats": (lambda r: saved(r, arr_0=pixels() / 255), "arr_0 is float64"),
    "grey array": (lambda r: saved(r, arr_0=pixels()[..., 0]), r"arr_0 is uint8 \[24, 16, 16\]"),
    "objects": (lambda r: saved(r, arr_0=np.array([{}, None])), "arr_0 is object"),
    "labels of another length": (lambda r: saved(r, arr_0=pixels(), arr_1=np.arange(3)), r"arr_1 is int64 \[3\]"),
    "a cut array": (cut, "not a complete .npz file"),
    "a damaged array": (flipped, "damaged near image|not a complete"),
    "too few images": (lambda r: folder(r, pixels(4)), "at least"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_unfit_images_are_refused_before_any_feature(case, house, tmp_path, forward_passes):  # noqa: F811
    make, message = UNFIT[case]
    path = make(tmp_path / "unfit")
    forward_passes.clear()

    with pytest.raises(ValueError, match=message):
        scored(house, path, "Mine")

    assert not forward_passes, "a feature was computed"
    assert not list(house[1].root.rglob("own*"))


def test_wrong_names_protocols_and_missing_networks_are_refused(house, tmp_path):  # noqa: F811
    study, layout = house
    path = folder(tmp_path / "a", pixels())

    with pytest.raises(ValueError, match="--label: .*: a line break"):
        scored(house, path, "a\nb")
    with pytest.raises(ValueError, match="no letter or digit"):
        scored(house, path, "†")
    for label in ("MAR", " mar ", "MaskBit's own images"):
        with pytest.raises(ValueError, match="--label: .* is the label of the study's own row '(mar|maskbit)'"):
            scored(house, path, label)
    with pytest.raises(ValueError, match="scores under 'emoji-gfd'"):
        scored(house, path, "Mine", "adm256-gfid")
    layout.reference_features("held_out").unlink()
    with pytest.raises(ValueError, match="held_out.parquet: no reference features yet"):
        scored(house, path, "Mine")
    layout.extractor().unlink()
    with pytest.raises(ValueError, match="run `extractor`"):
        scored(house, path, "Mine")
