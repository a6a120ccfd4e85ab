"""Damage at random places: a file is read, or a UserError names it; nothing else ever comes out of PIL."""
import numpy as np
import pytest

from datasets.files import read_image, read_image_size, read_mask, read_orientation
from tests.datasets.pictures import LABELS, PIXELS, encoded, paletted
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest has its own filters, not the program's
LARGE = PIXELS.repeat(3, axis=0).repeat(3, axis=1)
FILES = {
    "JPEG": encoded(LARGE, "JPEG", orientation=6),
    "progressive JPEG": encoded(LARGE, "JPEG", progressive=True),
    "PNG": encoded(LARGE, orientation=3),
    "palette PNG": encoded(paletted(LABELS), transparency=3),
    "16-bit PNG": encoded(LABELS.astype(np.uint16) * 999),
    "TIFF": encoded(PIXELS, "TIFF", orientation=8),
    "compressed TIFF": encoded(LABELS, "TIFF", compression="tiff_lzw"),
    "GIF": encoded(paletted(LABELS), "GIF"),
    "BMP": encoded(PIXELS, "BMP"),
    "WebP": encoded(PIXELS, "WEBP"),
}
READERS = (read_image, lambda path: read_image(path, upright=True), read_mask, read_image_size, read_orientation)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, zeroed, cut off, taken out or repeated."""
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
    wrong = {"changed": rng.bytes(length), "zeroed": bytes(length), "taken out": b"",
             "repeated": 2 * data[at:at + length]}
    kind = rng.choice([*wrong, "cut off", "a bit"])
    if kind == "cut off":
        return data[:at]
    if kind == "a bit":
        return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1:]
    return data[:at] + wrong[kind] + data[at + length:]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_damage_is_read_or_named(tmp_path, kind):
    path, rng, refused = tmp_path / "x.png", np.random.default_rng(0), 0
    for _ in range(200):
        path.write_bytes(damaged(FILES[kind], rng))
        for read in READERS:
            try:
                read(path)
            except UserError as error:
                refused += 1
                assert str(path) in str(error) and str(error).isprintable() and len(str(error)) < 400
    assert refused > 50


def test_the_undamaged_files_are_read(tmp_path):
    for data in FILES.values():
        (tmp_path / "x").write_bytes(data)
        assert read_image(tmp_path / "x", upright=True).shape[0] == 3
