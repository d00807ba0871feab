"""Pictures of any kind become upright 8-bit RGB, or are refused by name."""

import errno
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from png_files import chunk, png_16_bit, raw_png

from mixar.data.decoding import load_picture, read_picture
from mixar.data.images import PLACE, content_of, iter_images
from mixar.data.manifest import MANIFEST

RAMP = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)


def encoded(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def read(content):
    return np.asarray(read_picture(io.BytesIO(content), "here.png"))


def tiff(pixels, bits, *tags, order="<"):
    """A TIFF file of one strip of grey; pixels: its bytes. tags: further (number, type, value), in ascending order."""
    entries = [(256, 3, 8), (257, 3, 8), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 0), (277, 3, 1),
               (278, 3, 8), (279, 4, len(pixels)), *tags]  # fmt: skip
    offset = 8 + 2 + 12 * len(entries) + 4
    fields = b"".join(
        struct.pack(f"{order}HHI", n, t, 1)
        + (struct.pack(f"{order}HH", v, 0) if t == 3 else struct.pack(f"{order}I", offset if n == 273 else v))
        for n, t, v in entries
    )
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}IH", 8, len(entries)) + fields + bytes(4) + pixels


# Bits


def grey_16_bit():
    packed = np.asarray([[a >> 4, (a & 15) << 4 | b >> 8, b & 255] for a, b in (RAMP >> 4).reshape(-1, 2)], np.uint8)
    return {
        "png": encoded(Image.fromarray(RAMP)),
        "tiff": encoded(Image.fromarray(RAMP), "TIFF"),
        "tiff, deflated": encoded(Image.fromarray(RAMP), "TIFF", compression="tiff_deflate"),
        "tiff, big-endian": tiff(RAMP.astype(">u2").tobytes(), 16, order=">"),
        "tiff of 12 bits": tiff(packed.tobytes(), 12),
        "rgb": png_16_bit(np.stack([RAMP] * 3, axis=2)),
        "rgba": png_16_bit(np.stack([RAMP] * 3 + [np.full_like(RAMP, 65535)], axis=2)),
    }


@pytest.mark.parametrize("kind", grey_16_bit())
def test_16_bit_pictures_become_the_upper_half_of_their_range(kind):
    found = read(grey_16_bit()[kind])

    assert np.array_equal(found, np.stack([RAMP >> 8] * 3, axis=2))


@pytest.mark.parametrize("largest", [257, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_netpbm_pictures_are_read_by_the_largest_value_that_they_state(kind, largest):
    values = np.uint16([[0, largest // 2, largest]])
    samples = values if kind in ("P2", "P5") else np.repeat(values, 3)
    plain = " ".join(map(str, samples.flat)).encode()
    content = b"%s 3 1 %d\n" % (kind.encode(), largest)
    content += plain if kind in ("P2", "P3") else samples.astype(">u2").tobytes()

    assert read(content)[0].tolist() == [[0] * 3, [127] * 3, [255] * 3]
    assert load_picture(io.BytesIO(content), "a.pgm").bits == 16


@pytest.mark.parametrize(
    ("dtype", "what"),
    [
        (np.int32, "mode I, 32-bit integers"),
        (np.int16, "mode I, signed 16-bit integers"),
        (np.float32, "mode F, floating-point numbers"),
    ],
)
def test_pictures_without_a_fixed_black_and_white_are_refused(dtype, what):
    pixels = RAMP.astype(dtype)
    signed = tiff(pixels.tobytes(), 16, (339, 3, 2))
    content = signed if dtype == np.int16 else encoded(Image.fromarray(pixels), "TIFF")

    message = f"here.png: {what} without a fixed black and white; save the image with 8 or unsigned 16 bits a channel"
    with pytest.raises(ValueError, match=message):
        read(content)


def test_a_transparent_colour_of_16_bits_is_refused():
    content = png_16_bit(RAMP, chunk(b"tRNS", struct.pack(">H", 4660)))

    with pytest.raises(ValueError, match="here.png: 16 bits a channel with a transparent colour"):
        read(content)


def test_16_bit_pictures_inside_parquet_are_read_by_their_range(tmp_path):
    images = [{"bytes": encoded(Image.fromarray(RAMP))}, {"bytes": encoded(Image.fromarray(RAMP.astype("f4")), "TIFF")}]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    rows = pa.Table.from_pylist(
        [
            {"file": str(tmp_path / "a.parquet"), "row": row, "offset": -1, "content": content_of(image["bytes"])}
            for row, image in enumerate(images)
        ],
        schema=pa.schema([MANIFEST.field(name) for name in PLACE]),
    )

    found = list(iter_images(rows.slice(0, 1), 8))

    assert np.array_equal(found[0][..., 0], RAMP >> 8)
    with pytest.raises(ValueError, match="a.parquet row 1: mode F"):
        list(iter_images(rows, 8))


# Colours


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_plain_8_bit_rgb_is_what_pillow_decodes(format):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(pixels), format)

    assert np.array_equal(read(content), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_opaque_modes_are_what_pillow_converts(mode):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)).convert(mode)
    content = encoded(image, "TIFF")

    assert np.array_equal(read(content), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode, red", [("RGBA", (255, 0, 0)), ("LA", (76,) * 3)])
def test_transparent_parts_are_over_white(mode, red):
    image = Image.new("RGBA", (3, 1), "red")
    image.putalpha(Image.fromarray(np.uint8([[0, 51, 255]])))

    found = read(encoded(image.convert(mode)))

    expected = [[255] * 3, [0.8 * 255 + 0.2 * c for c in red], list(red)]
    assert np.allclose(found[0], expected, atol=1, rtol=0) and found[0, 2].tolist() == list(red)


def transparent_key():
    red = Image.new("RGB", (2, 1), "red")
    red.putpixel((1, 0), (0, 0, 255))
    grey = Image.fromarray(np.uint8([[7, 9]]))
    return {
        "rgb": (encoded(red, transparency=(255, 0, 0)), (0, 0, 255)),
        "grey": (encoded(grey, transparency=7), (9, 9, 9)),
        "bits": (raw_png([b"\x40"], 1, 0, (2, 1), chunk(b"tRNS", struct.pack(">H", 0))), (255, 255, 255)),
    }


@pytest.mark.parametrize("kind", transparent_key())
def test_a_transparent_colour_is_white(kind):
    content, other = transparent_key()[kind]

    assert read(content)[0].tolist() == [[255] * 3, list(other)]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("grey", [0, 1])
def test_a_transparent_grey_is_found_in_the_bits_of_its_file(bits, grey):
    samples = bytes([int(f"{grey:0{bits}b}{1 - grey:0{bits}b}".ljust(8, "0"), 2)] if bits < 8 else [grey, 1 - grey])
    content = raw_png([samples], bits, 0, (2, 1), chunk(b"tRNS", struct.pack(">H", grey)))

    found = read(content)[0].tolist()

    assert found == [[255] * 3, [(1 - grey) * (255 // (2**bits - 1))] * 3]


def test_a_transparent_palette_entry_is_white():
    indexed = Image.fromarray(np.uint8([[0, 1]])).convert("P")
    indexed.putpalette([255, 0, 0, 0, 0, 255])

    found = read(encoded(indexed, transparency=bytes([0, 255])))

    assert found[0].tolist() == [[255] * 3, [0, 0, 255]]


def test_a_palette_beside_alpha_is_composited():
    indexed = Image.fromarray(np.uint8([[0, 1]])).convert("P")
    indexed.putpalette([255, 0, 0, 0, 0, 255])
    indexed = indexed.convert("PA")
    indexed.putalpha(Image.fromarray(np.uint8([[0, 255]])))

    assert read(encoded(indexed, "TIFF"))[0].tolist() == [[255] * 3, [0, 0, 255]]


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(format, orientation):
    corners = Image.new("RGB", (32, 16))
    for box, colour in {(0, 0): "red", (16, 0): "lime", (0, 8): "blue", (16, 8): "white"}.items():
        corners.paste(colour, (*box, box[0] + 16, box[1] + 8))
    # The stored picture is the upright one, turned back.
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = corners.transpose(back[orientation]) if orientation > 1 else corners
    exif = Image.Exif()
    exif[0x0112] = orientation

    found = read(encoded(stored, format, exif=exif, **({"quality": 95} if format != "TIFF" else {})))

    assert found.shape == (16, 32, 3)
    middles = found[[4, 4, 12, 12], [8, 24, 8, 24]].astype(int)
    assert np.abs(middles - [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]).max() < 40


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_turns_nothing(exif):
    image = Image.new("RGB", (4, 6), "red")

    assert read(encoded(image, "JPEG", exif=exif)).shape == (6, 4, 3)


# Files that are no images


def broken():
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)))
    header = lambda width, height: raw_png([], 8, 2, (width, height))  # noqa: E731
    return {
        "nothing": b"",
        "text": b"version https://git-lfs.github.com/spec/v1",
        "truncated png": whole[: len(whole) // 2],
        "truncated header": whole[:20],
        "truncated jpeg": encoded(Image.new("RGB", (64, 64)), "JPEG")[:300],
        "truncated webp": encoded(Image.open(io.BytesIO(whole)), "WEBP", lossless=True)[:100],
        "broken chunk": whole.replace(b"IDAT", b"I\0AT"),
        "wrong checksum": whole[:29] + bytes(4) + whole[33:],
        "no width": header(0, 4),
        "no pixels": b"P6 0 0 255\n",
        "too large": header(14_000, 14_000),
        "a size that no array has": header(2**31 - 1, 2**31 - 1),
        "damaged data": whole[:60] + bytes(40) + whole[100:],
        "huge text": raw_png([bytes(3)], 8, 2, (1, 1), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27)))),
        "short gif": encoded(Image.new("P", (4, 4)), "GIF")[:-12],
        "short bmp": encoded(Image.new("RGB", (40, 40)), "BMP")[:60],
        "short tiff": encoded(Image.new("RGB", (40, 40)), "TIFF")[:100],
    }


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", broken())
def test_what_cannot_be_decoded_is_refused_by_the_name_of_its_place(kind, tmp_path):
    content, file = broken()[kind], tmp_path / "picture.png"
    file.write_bytes(content)

    for source, where in ((io.BytesIO(content), "a.parquet row 7"), (str(file), str(file))):
        with pytest.raises(ValueError) as caught:
            read_picture(source, where)
        assert str(caught.value).startswith(f"{where}: ") and "_io." not in str(caught.value)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_large_pictures_are_read_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    assert read(encoded(Image.new("RGB", (15, 10)))).shape == (10, 15, 3)
    with pytest.raises(ValueError, match="here.png: more than 200 pixels"):
        read(encoded(Image.new("RGB", (21, 10))))


def test_nothing_is_printed_about_pictures_that_are_read(tmp_path):
    damaged = b"Exif\0\0II*\0\x08\0\0\0\xff\xff"
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (15, 10)), "JPEG", exif=damaged))
    program = (
        "import sys; from PIL import Image; from mixar.data.decoding import read_picture; "
        "Image.MAX_IMAGE_PIXELS = 100; print(read_picture(sys.argv[1], 'a').size)"
    )

    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a.jpg"], capture_output=True, text=True)

    assert (done.stdout, done.stderr) == ("(15, 10)\n", "")


def test_a_picture_too_narrow_for_a_square_crop_is_refused(tmp_path):
    Image.new("RGB", (1, 60_000)).save(tmp_path / "line.png")
    content = content_of((tmp_path / "line.png").read_bytes())
    place = {"file": str(tmp_path / "line.png"), "row": -1, "offset": -1, "content": content}
    rows = pa.Table.from_pylist([place], schema=pa.schema([MANIFEST.field(name) for name in PLACE]))

    with pytest.raises(ValueError, match="line.png: 1 x 60000 pixels, too long and narrow"):
        list(iter_images(rows, 256))


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_out_of_memory_is_no_fault_of_the_picture(monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(Image, "open", full)

    with pytest.raises(type(error)):
        load_picture(io.BytesIO(), "here.png")
