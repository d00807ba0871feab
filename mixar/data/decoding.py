"""Image files to pixels: the one place where files of unknown origin meet Pillow.

`read_picture` takes an original of any kind and returns what people see: upright, over white, 8-bit RGB.
`load_picture` changes nothing but the orientation, for readers that refuse everything else.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from mixar.process.failures import is_shortage

# Pillow warns from half its limit on; up to the limit a picture is read like any other.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Damaged EXIF data turn no picture, and every reader of ImageNet knows them.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL.TiffImagePlugin")

ORIENTATION = 0x0112  # EXIF tag
UPRIGHT = {  # value of the tag: what turns the stored pixels upright (EXIF 2.3, section 4.6.4)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats that keep every pixel. TIFF and WebP have both kinds; whatever is not known to keep them counts as lossy.
LOSSLESS = {"PNG", "BMP", "DIB", "GIF", "PPM", "TGA", "QOI", "SGI"}
LOSSY_TIFF = {"jpeg", "tiff_jpeg", "webp"}  # compressions, as Pillow names them
GREY_BITS = {"L;2": 2, "L;4": 4}  # of a sample in the file, by layout; Pillow scales pixels to 8


class Picture(NamedTuple):
    """A decoded image file. The image is upright, in the mode of its file."""

    image: Image.Image
    format: str  # as Pillow names it: PNG, JPEG, WEBP, …
    layout: str  # of the file's samples, as Pillow names it, such as RGB;16B; empty where a decoder does not tell

    @property
    def bits(self) -> int:
        """Bits of one sample in the file: 12, 16, or at most 8."""
        if self.layout == "I;12":  # TIFF; Pillow leaves the values in 0 to 4095
            return 12
        return 16 if ";16" in self.layout or self.image.mode.startswith("I;16") else 8


def read_picture(source: str | Path | BinaryIO, where: str) -> Image.Image:
    """The picture in a file as 8-bit RGB: upright by its EXIF orientation, transparent parts over white.

    Of 16 bits a channel the upper 8 are taken, in grey and in colour; PGM and PPM count by the maximum that they state.
    `where` names the file, or file and row. Raises ValueError naming `where` for what is not a complete image, has too
    many pixels, or is in a mode without a fixed black and white (I: 32-bit or signed 16-bit integers, F: floats).
    """
    picture = load_picture(source, where)
    try:
        return _rgb(picture)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def load_picture(source: str | Path | BinaryIO, where: str) -> Picture:
    """The decoded image in a file, upright, in the file's own mode. Raises ValueError as `read_picture` does."""
    try:
        with Image.open(source) as image:
            layout = _layout(image)  # gone once the pixels are loaded
            image.load()
            if not all(image.size):
                raise ValueError(f"{image.width} x {image.height} pixels")
            return Picture(_upright(image), image.format or "", layout)
    except UnidentifiedImageError:
        problem = "not readable as an image (unknown format); convert it to PNG or JPEG, or remove it"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        problem = f"more than {limit:,} pixels, the limit; make the image smaller, or remove it"
    except Exception as error:  # Pillow's parsers raise what they meet: OSError, SyntaxError, struct.error, IndexError
        if is_shortage(error):
            raise
        problem = f"not readable as an image ({error}); replace or remove it"
    raise ValueError(f"{where}: {problem}")


def lossy_format(picture: Picture, content: bytes) -> str:
    """The name of the format where it changes pixels, such as JPEG; empty where it keeps them.

    content: the encoded file that the picture was decoded from; its name does not matter.
    """
    if picture.format == "TIFF":
        is_lossy = picture.image.info.get("compression") in LOSSY_TIFF
    elif picture.format == "WEBP":
        is_lossy = not _is_lossless_webp(content)
    else:
        is_lossy = picture.format not in LOSSLESS
    return picture.format if is_lossy else ""


def _is_lossless_webp(content: bytes) -> bool:
    """Whether the first image in a WebP file is in its lossless bitstream, VP8L (RFC 9649, sections 2.3 to 2.7)."""
    position = 12  # after RIFF, the size and WEBP
    while position + 8 <= len(content):
        name, size = content[position : position + 4], int.from_bytes(content[position + 4 : position + 8], "little")
        if name == b"ANMF":  # an animation's frame: 16 bytes of its own, then chunks
            position += 8 + 16
        elif name in (b"VP8L", b"VP8 "):
            return name == b"VP8L"
        else:
            position += 8 + size + size % 2
    return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except (SyntaxError, ValueError, struct.error, KeyError, IndexError, TypeError):  # damaged EXIF of a good picture
        return image
    return image if turn is None else image.transpose(turn)


def _layout(image: Image.Image) -> str:
    """How the file stores its samples, such as RGB;16B in PNG, or I;12 in TIFF."""
    tile = getattr(image, "tile", None)
    arguments = tile[0].args if tile else ""
    if image.format == "PPM" and isinstance(arguments, tuple) and arguments[1] > 255:  # its largest value
        return f"{arguments[0]};16"
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _rgb(picture: Picture) -> Image.Image:
    image = picture.image
    if image.mode == "I" and picture.format == "PPM":  # Pillow scales its stated maximum to 65535
        return _upper_bits(image, 16).convert("RGB")
    if image.mode in ("I", "F"):
        integers = "signed 16-bit integers" if picture.bits == 16 else "32-bit integers"
        what = integers if image.mode == "I" else "floating-point numbers"
        advice = "save the image with 8 or unsigned 16 bits a channel"
        raise ValueError(f"mode {image.mode}, {what} without a fixed black and white; {advice}")
    if picture.bits > 8 and "transparency" in image.info:
        raise ValueError(f"{picture.bits} bits a channel with a transparent colour; save the image with 8 bits")
    if image.mode.startswith("I;16"):
        return _upper_bits(image, picture.bits).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    if picture.layout in GREY_BITS:
        largest = 2 ** GREY_BITS[picture.layout] - 1  # Pillow leaves the transparent grey in the bits of the file
        image.info["transparency"] = (image.info["transparency"] & largest) * (255 // largest)
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _upper_bits(image: Image.Image, bits: int) -> Image.Image:
    """The upper 8 bits of a grey image of 12 or 16, as Pillow takes them of 16-bit colours."""
    return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
