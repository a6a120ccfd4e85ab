"""Image files of every kind as bytes: by PIL, and by hand where PIL doesn't write them."""
import io
import struct
import zlib

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (8, 12, 3)).astype(np.uint8)     # what a good image shows: 12 x 8
LABELS = RNG.integers(0, 21, (8, 12)).astype(np.uint8)         # of 21 classes
SMOOTH = np.full((8, 12, 3), (200, 100, 50), np.uint8)         # what JPEG keeps but for a level or two
DEEP = RNG.integers(0, 2**16, (8, 12)).astype(np.uint16)       # 16 bits
ALPHA = RNG.integers(0, 256, (8, 12)).astype(np.uint8)


def encoded(picture, kind="PNG", *, mode=None, orientation=None, **options) -> bytes:
    """An array or a PIL image as a file, after conversion to a mode."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if orientation:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def paletted(indices, palette=(255, 0, 0) * 256) -> Image.Image:
    """Indices with a palette, by default one without any meaning."""
    image = Image.fromarray(indices)
    image.putpalette(palette)
    return image


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: np.ndarray, *, bits: int, colour: int, width: int | None = None) -> bytes:
    """A PNG from its rows' bytes [H, bytes], for what PIL can't write; colour 0 is gray, 2 RGB, 6 RGBA."""
    rows = np.pad(np.ascontiguousarray(rows).view(np.uint8), ((0, 0), (1, 0)))  # a filter byte before each row
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes())) \
        + chunk(b"IEND", b"")


def packed(labels: np.ndarray, bits: int) -> bytes:
    """Gray levels [H, W] below 2**bits as a PNG of so many bits a pixel."""
    planes = np.stack([labels >> bit & 1 for bit in reversed(range(bits))], axis=-1)  # [H, W, bits]
    return png(np.packbits(planes.reshape(len(labels), -1), axis=1), bits=bits, colour=0, width=labels.shape[1])


def huge() -> bytes:
    """A PNG of a few bytes that says it is 60,000 x 60,000."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)) \
        + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def flipped(data: bytes, at: int) -> bytes:
    """The bytes with one bit of another value."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
