"""PNG files byte by byte: the kinds that Pillow does not write."""

import struct
import zlib


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(samples, bits, colour, size, *chunks):
    """A PNG file from rows of bytes; colour: 0 grey, 2 RGB, 6 RGBA."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0))
    data = zlib.compress(b"".join(b"\0" + row for row in samples))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png_16_bit(pixels, *chunks):
    """pixels [h, w] or [h, w, 3 or 4], 16 bits a channel."""
    colour = {2: 0, 3: 2, 4: 6}[pixels.ndim if pixels.ndim == 2 else pixels.shape[2]]
    return raw_png([row.astype(">u2").tobytes() for row in pixels], 16, colour, pixels.shape[1::-1], *chunks)
