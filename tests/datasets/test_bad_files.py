"""Every kind of odd or bad image and mask: it works, with the right pixels, or is one line that names the file."""
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from datasets import check_dataset
from datasets.files import read_image
from datasets.paired import PairedFiles
from datasets.survey import inspect_pair
from tests.datasets.pictures import (
    ALPHA,
    DEEP,
    LABELS,
    PIXELS,
    SMOOTH,
    encoded,
    flipped,
    huge,
    packed,
    paletted,
    png,
)
from utils.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # pytest has its own filters, not the program's
GOOD, JPEG, MASK = encoded(PIXELS), encoded(SMOOTH, "JPEG"), encoded(paletted(LABELS))
GRAY = PIXELS[..., :1].repeat(3, axis=2)
DEEP_GRAY = (DEEP >> 8)[..., None].repeat(3, axis=2)
DEEP_RGB = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=-1)             # [H, W, 3] of 16 bits
DEEP_RGBA = np.concatenate([DEEP_RGB, DEEP[..., None]], axis=-1)
WITH_ALPHA = np.concatenate([PIXELS, ALPHA[..., None]], axis=-1)
BLACK_AND_WHITE = PIXELS[..., 0] > 127
INKS = [*np.moveaxis(255 - PIXELS, 2, 0), np.zeros((8, 12), np.uint8)]      # cyan, magenta, yellow, no black
SECOND = Image.fromarray(SMOOTH)
TABLE = np.roll(np.arange(768, dtype=np.uint16) % 256, 7).astype(np.uint8)  # a palette [256 * 3]
TURNED = {2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.swapaxes(0, 1),
          6: np.rot90(PIXELS, -1), 7: PIXELS[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(PIXELS)}  # EXIF 2.3, page 37

# Kind: (the file, what it shows)
IMAGES = {
    "gray": (encoded(PIXELS[..., 0]), GRAY),
    "gray with alpha": (encoded(np.stack([PIXELS[..., 0], ALPHA], -1)), GRAY),
    "one bit": (encoded(BLACK_AND_WHITE), BLACK_AND_WHITE[..., None].repeat(3, 2) * 255),
    "palette": (encoded(paletted(PIXELS[..., 0], TABLE.tobytes())), TABLE.reshape(256, 3)[PIXELS[..., 0]]),
    "palette with transparency": (encoded(paletted(PIXELS[..., 0], TABLE.tobytes()), transparency=bytes(256)),
                                  TABLE.reshape(256, 3)[PIXELS[..., 0]]),
    "alpha keeps the colours": (encoded(WITH_ALPHA), PIXELS),
    "CMYK": (encoded(Image.new("CMYK", (12, 8), (0, 255, 255, 0)), "JPEG"), np.full((8, 12, 3), (255, 0, 0))),
    "CMYK TIFF": (encoded(Image.merge("CMYK", [Image.fromarray(plane) for plane in INKS]), "TIFF"), PIXELS),
    "progressive JPEG": (encoded(SMOOTH, "JPEG", progressive=True), SMOOTH),
    "JPEG of a phone, with a second picture": (encoded(SMOOTH, "MPO", save_all=True, append_images=[SECOND.rotate(90)]),
                                               SMOOTH),
    "16-bit gray PNG": (encoded(DEEP), DEEP_GRAY),
    "16-bit gray TIFF": (encoded(DEEP, "TIFF"), DEEP_GRAY),
    "16-bit gray TIFF, big-endian": (encoded(Image.frombytes("I;16B", (12, 8), DEEP.astype(">u2").tobytes()), "TIFF"),
                                     DEEP_GRAY),
    "16 bits in 32 TIFF": (encoded(DEEP.astype(np.int32), "TIFF"), DEEP_GRAY),
    "16-bit RGB PNG": (png(DEEP_RGB.astype(">u2").reshape(8, -1), bits=16, colour=2, width=12), DEEP_RGB >> 8),
    "16-bit RGBA PNG": (png(DEEP_RGBA.astype(">u2").reshape(8, -1), bits=16, colour=6, width=12), DEEP_RGB >> 8),
    "4-bit gray PNG": (packed(LABELS % 16, 4), (LABELS % 16 * 17)[..., None].repeat(3, 2)),
    "JPEG called .png": (JPEG, SMOOTH),
    "BMP called .png": (encoded(PIXELS, "BMP"), PIXELS),
    "TIFF called .png": (encoded(PIXELS, "TIFF"), PIXELS),
    "WebP called .png": (encoded(PIXELS, "WEBP", lossless=True), PIXELS),
    "animated PNG, the first picture": (encoded(PIXELS, save_all=True, append_images=[SECOND]), PIXELS),
    "EXIF 6, mask on the stored pixels": (encoded(PIXELS, orientation=6), PIXELS),
    "EXIF 3, taken as stored": (encoded(PIXELS, orientation=3), PIXELS),
    "EXIF 9, which isn't one": (encoded(PIXELS, orientation=9), PIXELS),
    "EXIF corrupt": (encoded(SMOOTH, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01garbage"), SMOOTH),
    "EXIF empty": (encoded(SMOOTH, "JPEG", exif=b"Exif\0\0"), SMOOTH),
    "bytes behind the end": (GOOD + b"more", PIXELS),
    "PNG without its end": (GOOD[:-12], PIXELS),
    "PNG with a wrong CRC behind right pixels": (flipped(GOOD, len(GOOD) - 13), PIXELS),
}
MASKS = {
    "palette without meaning": (MASK, LABELS),
    "gray": (encoded(LABELS), LABELS),
    "palette with transparency": (encoded(paletted(LABELS), transparency=bytes(256)), LABELS),
    "one bit": (encoded(LABELS > 9), LABELS > 9),
    "two bits gray": (packed(LABELS % 4, 2), LABELS % 4),
    "four bits gray": (packed(LABELS % 16, 4), LABELS % 16),
    "two bits palette": (encoded(paletted(LABELS % 4), bits=2), LABELS % 4),
    "four bits palette": (encoded(paletted(LABELS % 16), bits=4), LABELS % 16),
    "16 bits": (encoded(LABELS.astype(np.uint16)), LABELS),
    "16 bits, big-endian": (encoded(Image.frombytes("I;16B", (12, 8), LABELS.astype(">u2").tobytes()), "TIFF"), LABELS),
    "32 bits": (encoded(LABELS.astype(np.int32), "TIFF"), LABELS),
    "BMP called .png": (encoded(LABELS, "BMP"), LABELS),
    "255 ignored": (encoded(LABELS | np.uint8(255) * (ALPHA > 127)), np.where(ALPHA > 127, 255, LABELS)),
    "all ignored": (encoded(np.full_like(LABELS, 255)), np.full_like(LABELS, 255)),
}


def folder(path):
    path.mkdir()


def missing(path):
    assert not path.exists()


def dangling_link(path):
    path.symlink_to(path.with_name("nowhere.png"))


def link_to_itself(path):
    path.symlink_to(path)


def link_loop(path):
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


# Kind: (the file, or what makes it; what the line says besides the file)
def unreadable(good: bytes) -> dict:
    """What is neither image nor mask, made of a good PNG."""
    return {
        "no bytes": (b"", "not an image"),
        "a signature alone": (good[:8], "not an image"),
        "cut in the header": (good[:20], "replace the damaged file"),
        "cut in the pixels": (good[:good.index(b"IDAT") + 40], "truncated"),
        "cut before the last pixels": (good[:-30], "truncated"),
        "zeros": (bytes(300), "not an image"),
        "zeros behind the header": (good[:50] + bytes(len(good) - 50), "replace the damaged file"),
        "a flipped bit in the pixels": (flipped(good, good.index(b"IDAT") + 30), "broken data stream"),
        "a wrong CRC of the header": (flipped(good, 30), "not an image"),
        "text": (b"This is no image.\n", "not an image"),
        "a web page": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n", "not an image"),
        "a pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "not an image"),
        "PostScript, which is a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        "a zip archive": (b"PK\x03\x04" + bytes(60), "not an image"),
        "a decompression bomb": (huge(), "scale it down"),
        "a folder": (folder, "directory"),
        "missing": (missing, "Missing file"),
        "a dangling link": (dangling_link, "nowhere.png, which does not exist"),
        "a link to itself": (link_to_itself, "symbolic links"),
        "links in a circle": (link_loop, "symbolic links"),
    }


BAD_IMAGES = {
    **unreadable(GOOD),
    "JPEG cut in the header": (JPEG[:100], "replace the damaged file"),
    "JPEG cut in the pixels": (encoded(PIXELS.repeat(9, 0).repeat(9, 1), "JPEG")[:1500], "truncated"),
    "floating-point": (encoded(DEEP.astype(np.float32), "TIFF"), "mode F"),
    "32 bits": (encoded(DEEP.astype(np.int32) * 2, "TIFF"), "16 bits a channel"),
    "negative": (encoded(-DEEP.astype(np.int32), "TIFF"), "16 bits a channel"),
}
BAD_MASKS = {
    **unreadable(MASK),
    "RGB": (GOOD, "mode RGB"),
    "RGBA": (encoded(WITH_ALPHA), "mode RGBA"),
    "gray as RGB": (encoded(LABELS[..., None].repeat(3, 2)), "mode RGB"),
    "gray with alpha": (encoded(np.stack([LABELS, ALPHA], -1)), "mode LA"),
    "CMYK": (encoded(Image.new("CMYK", (12, 8)), "TIFF"), "mode CMYK"),
    "floating-point": (encoded(LABELS.astype(np.float32), "TIFF"), "mode F"),
    "JPEG": (encoded(LABELS, "JPEG"), "JPEG, which blurs labels"),
    "WebP": (encoded(PIXELS, "WEBP", lossless=True), "WEBP, which blurs labels"),
    "two pictures, TIFF": (encoded(LABELS, "TIFF", save_all=True, append_images=[SECOND]), "2 pictures"),
    "two pictures, PNG": (encoded(LABELS, save_all=True, append_images=[SECOND.convert("L")]), "2 pictures"),
    "16 bits, label 300": (encoded(LABELS.astype(np.uint16) + 280), "has the label"),
    "negative label": (encoded(LABELS.astype(np.int32) - 1, "TIFF"), "has the label -1"),
    "label 21 of 21 classes": (encoded(LABELS + 1), "has the label 21, but the classes are 0 to 20"),
    "label 254": (encoded(np.full_like(LABELS, 254)), "has the label 254"),
    "another size": (encoded(LABELS[:, :-1]), "is 11x8, but its image"),
    "turned, without EXIF": (encoded(LABELS.T), "is 8x12, but its image"),
    "one pixel": (encoded(LABELS[:1, :1]), "is 1x1, but its image"),
}


@pytest.fixture
def pair(tmp_path):
    """A function that makes a data set of one pair, of bytes or by functions; suffixes are .png whatever is inside."""
    def make(image=GOOD, mask=MASK, name="x"):
        paths = tmp_path / f"{name}.png", tmp_path / "masks" / f"{name}.png"
        paths[1].parent.mkdir()
        for path, content in zip(paths, (image, mask), strict=True):
            content(path) if callable(content) else path.write_bytes(content)
        dataset = PairedFiles([paths], "val", origin=tmp_path)
        dataset.num_classes = 21
        return dataset

    return make


def assert_shows(dataset, pixels=PIXELS, labels=LABELS, *, tolerance=0):
    check_dataset(dataset)
    image, label = dataset.read_pair(0)
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - pixels).max() <= tolerance
    assert (label.numpy() == labels).all() and label.shape == labels.shape
    given = dataset[0][0].permute(1, 2, 0) * 255
    assert np.abs(given.numpy() - pixels).max() < tolerance + 0.01
    problems, _, counts = inspect_pair(dataset, 0)
    assert problems == []
    assert counts.tolist() == [*np.bincount(labels.ravel(), minlength=256)[[*range(21), 255]]]


def assert_one_line(dataset, *, about, words):
    """One line that names the file `about` (0 image, 1 mask), said by the check, while training and in the survey."""
    lines = []
    for read in (check_dataset, lambda dataset: dataset[0]):
        with pytest.raises(UserError) as error:
            read(dataset)
        lines.append(str(error.value))
    problems, _, counts = inspect_pair(dataset, 0)
    assert lines == 2 * problems and counts.sum() == 0
    (line,) = set(lines)
    assert "\n" not in line and words in line and dataset.files(0)[about] in line and line.endswith(".")
    assert "but its image" in line or dataset.files(0)[1 - about] not in line


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_that_works(pair, kind):
    content, pixels = IMAGES[kind]
    assert_shows(pair(image=content), pixels, tolerance=3 if content[:2] == b"\xff\xd8" else 0)


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_that_works(pair, kind):
    content, labels = MASKS[kind]
    assert_shows(pair(mask=content), labels=np.asarray(labels))


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_a_bad_image_is_one_line(pair, kind):
    content, words = BAD_IMAGES[kind]
    assert_one_line(pair(image=content), about=0, words=words)


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_a_bad_mask_is_one_line(pair, kind):
    content, words = BAD_MASKS[kind]
    assert_one_line(pair(mask=content), about=1, words=words)


def test_at_least_forty_kinds_are_bad():
    assert len({*BAD_IMAGES, *BAD_MASKS}) >= 40


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_an_image_is_turned_where_only_so_its_mask_fits(pair, orientation, kind):
    image = encoded(PIXELS, kind, orientation=orientation, **({"lossless": True} if kind == "WEBP" else {}))
    dataset = pair(image=image, mask=encoded(LABELS.T))
    assert_shows(dataset, TURNED[orientation], LABELS.T)
    assert dataset.remarks(0) == []


def test_a_photo_is_turned_where_only_so_its_mask_fits(pair):
    halves = np.repeat(np.array([[0, 255]], np.uint8), 8, axis=1).repeat(32, axis=0)  # [32, 16], dark on the left
    photo = encoded(halves, "JPEG", orientation=6)
    image, _ = pair(image=photo, mask=encoded(np.zeros((16, 32), np.uint8))).read_pair(0)
    assert image.shape == (3, 16, 32) and image[:, :8].max() < 10 and image[:, 8:].min() > 245  # dark on top


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_what_exif_says(tmp_path, orientation):
    for kind in ("PNG", "TIFF"):  # PIL turns a TIFF itself
        (tmp_path / "x").write_bytes(encoded(PIXELS, kind, orientation=orientation))
        shown = read_image(tmp_path / "x", upright=True).permute(1, 2, 0).numpy()
        assert (shown == TURNED.get(orientation, PIXELS)).all()
        assert kind == "PNG" or (read_image(tmp_path / "x").permute(1, 2, 0).numpy() == shown).all()


@pytest.mark.parametrize(("orientation", "cut", "told"), [
    (1, 12, True), (2, 12, False), (3, 12, False), (4, 12, False), (5, 12, True), (6, 12, True), (8, 12, True),
    (6, 8, False), (7, 8, False), (1, 8, True)])
def test_where_the_size_cannot_tell_whether_to_turn_there_is_a_remark(pair, orientation, cut, told):
    dataset = pair(image=encoded(PIXELS[:, :cut], orientation=orientation), mask=encoded(LABELS[:, :cut]))
    assert_shows(dataset, PIXELS[:, :cut], LABELS[:, :cut])  # as stored, in any case
    remarks = inspect_pair(dataset, 0)[1]
    assert remarks == dataset.remarks(0) and len(remarks) == (not told)
    assert told or (dataset.files(0)[0] in remarks[0] and f"orientation {orientation}" in remarks[0])


def test_image_and_mask_of_one_pixel_work(pair):
    assert_shows(pair(encoded(PIXELS[:1, :1]), encoded(LABELS[:1, :1])), PIXELS[:1, :1], LABELS[:1, :1])


def test_links_to_files_work(pair, tmp_path):
    (tmp_path / "elsewhere").write_bytes(GOOD)
    assert_shows(pair(image=lambda path: path.symlink_to(tmp_path / "elsewhere")))


@pytest.mark.parametrize("name", ["two words", " x", "Straße", "日本", "e\u0301", "a.b", "a'b\"c", "100%s", "-x",
                                  "a\\b"])
def test_names_that_work(pair, name):
    dataset = pair(name=name)
    assert dataset.name(0) == name
    assert_shows(dataset)
    assert_one_line(torn(dataset), about=0, words="not an image")


def torn(dataset):
    dataset.pairs[0][0].write_bytes(b"torn")
    return dataset


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\x1b[31mb", os.fsdecode(b"a\xffb")])
def test_names_of_several_lines_or_no_text_are_one_line(pair, name):
    dataset = pair(name=name)
    assert_shows(dataset)
    assert len(dataset.digest()) == 16
    assert_one_line(torn(dataset), about=0, words="not an image")
    assert all(file.isprintable() for file in dataset.files(0))


def test_both_files_of_a_pair_can_be_bad(pair):
    dataset = pair(image=b"", mask=encoded(np.full_like(LABELS, 99)))
    image, mask = inspect_pair(dataset, 0)[0]
    assert dataset.files(0)[0] in image and dataset.files(0)[1] in mask and "label 99" in mask
    dataset.pairs[0][0].write_bytes(encoded(PIXELS[:3]))
    size, label = inspect_pair(dataset, 0)[0]
    assert "is 12x8, but its image" in size and "label 99" in label


def test_what_is_missing_is_one_line_when_files_are_hashed(pair):
    dataset = pair()
    dataset.pairs[0][1].unlink()
    with pytest.raises(UserError, match="Missing file .*masks/x.png"):
        dataset.digest()


@pytest.mark.slow
def test_odd_but_readable_files_say_nothing(pair, root):
    """PIL's remarks would come once for each image and worker."""
    (paths,) = pair(image=IMAGES["EXIF corrupt"][0], mask=MASKS["palette with transparency"][0]).pairs
    code = "import sys; from datasets.files import read_image; [read_image(x, upright=True) for x in sys.argv[1:]]"
    run = subprocess.run([sys.executable, "-c", code, *map(str, paths)], cwd=root, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


READ = "import sys; from datasets.files import read_mask; from pathlib import Path; read_mask(Path(sys.argv[1]))"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or not shutil.which("setpriv"), reason="needs another user")
def test_a_file_that_may_not_be_read(pair, root):
    path = pair().pairs[0][1]
    path.chmod(0)
    command = [sys.executable, "-c", READ, str(path)]
    if os.geteuid() == 0:
        for parent in path.parents[:4]:
            parent.chmod(parent.stat().st_mode | 0o055)
        command = ["setpriv", "--reuid", "65534", "--clear-groups", *command]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.stderr.strip().splitlines()[-1] == (
        f"utils.errors.UserError: Can't read {path} (Permission denied): make it readable.")
