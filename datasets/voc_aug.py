"""Build the masks and the list of --year 2012_aug from VOC 2012 and the Berkeley release of SBD.

    python -m datasets.voc_aug --sbd path/to/benchmark_RELEASE --data_root path/to/VOC

Writes SegmentationClassAug/*.png and ImageSets/Segmentation/train_aug.txt below VOC2012: all images with a mask of SBD
or in VOC's train.txt that are not in VOC's val.txt, 10,582 with the whole data. An image that VOC itself labels keeps
VOC's mask. A call that was stopped continues when it is repeated. Hariharan et al., "Semantic contours from inverse
detectors", ICCV 2011.
"""
import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.errors import UserError
from utils.files import write_atomically
from utils.logging import logger, start_log
from utils.optional import import_optional

from .files import read_bytes, read_image_size, read_mask
from .image_lists import list_images, to_one_line
from .layouts import describe_found
from .transforms import IGNORE
from .voc import compute_colours, find_folder, read_split

CLASSES = 21
WHOLE = 10_582  # images with the whole data
PLACES = ("dataset/cls", "cls", "benchmark_RELEASE/dataset/cls")  # of the *.mat below --sbd


def build(sbd: Path, data_root: Path, *, force: bool = False) -> int:
    """Write masks and list; return the number of images. Raises UserError, also for what differs without `force`."""
    found, folder = find_mats(sbd), find_folder(data_root, "2012", download=False)
    train, val = ({entry.stem for entry in read_split(folder, split)[0]} for split in ("train", "val"))
    if not (folder / "JPEGImages").is_dir():
        raise UserError(f"No images of VOC: the folder {to_one_line(folder / 'JPEGImages')} does not exist; "
                        f"{describe_found(folder / 'JPEGImages', folder)}. Unpack VOC again (docs/data.md#voc).")
    images = {path.stem: path for path in list_images(folder / "JPEGImages")}
    names = sorted(({*found} | train) - val)
    usable = [name for name in names if name in images]
    if missing := len(names) - len(usable):
        logger.warning("Warning: %d images are left out, as they are not in %s", missing, folder / "JPEGImages")
    masks, names_path = folder / "SegmentationClassAug", folder / "ImageSets" / "Segmentation" / "train_aug.txt"
    listed = sorted(names_path.read_text().split()) if names_path.exists() and not force else None
    if listed not in (None, usable):
        raise UserError(f"{to_one_line(names_path)} lists other images: move it away, or replace it with --force.")
    masks.mkdir(exist_ok=True)
    for name in tqdm(usable, desc="masks", unit="mask"):
        source = folder / "SegmentationClass" / f"{name}.png" if name in train else found[name]
        label = read_own_mask(source) if name in train else read_mat(source)
        check_size(label, source=source, image=images[name])
        write_mask(masks / f"{name}.png", label, force=force)
    if listed is None:  # last, so that it names masks that are there; a list in another order stays
        write_atomically(names_path, "".join(f"{name}\n" for name in usable))
    return len(usable)


def find_mats(sbd: Path) -> dict[str, Path]:
    """Return {name: path} of SBD's masks. Raises UserError if there are none."""
    for place in PLACES:
        if paths := sorted((sbd / place).glob("*.mat")):
            return {path.stem: path for path in paths}
    looked = ", ".join(f"{place}/*.mat" for place in PLACES)
    raise UserError(f"No masks of SBD: looked for {looked} in --sbd {to_one_line(sbd)}, but "
                    f"{describe_found(sbd / PLACES[0] / '*', sbd)}. Give --sbd the folder that benchmark.tgz unpacks "
                    "to (docs/data.md#voc-aug).")


def read_mat(path: Path) -> np.ndarray:
    """Return the labels in a file of SBD, uint8 [H, W]. Raises UserError."""
    scipy = import_optional("scipy.io")
    content = {}
    try:
        content = scipy.loadmat(io.BytesIO(read_bytes(path)))
        label = content["GTcls"]["Segmentation"][0, 0]
    except UserError:
        raise
    except Exception as error:  # damaged files make scipy raise nearly anything
        raise _explain(error, path, content) from None
    label = np.asarray(label)
    whole = label.dtype.kind in "biu" or (label.dtype.kind == "f" and np.array_equal(label, np.round(label)))
    if label.ndim != 2 or not whole:
        raise UserError(f"Can't read {to_one_line(path)} (its Segmentation is {label.dtype} {list(label.shape)}, not "
                        "whole numbers [H, W]): replace the damaged file.")
    return check(label, path)


def _explain(error: Exception, path: Path, content: dict) -> UserError:
    """Return the error of a file of SBD: no GTcls in what was read, or what scipy says."""
    names = [name for name in content if not name.startswith("__")]
    if not content:
        return UserError(f"Can't read {to_one_line(path)} ({to_one_line(repr(error))}): replace the damaged file.")
    held = ", ".join(map(to_one_line, names)) or "nothing"
    return UserError(f"{to_one_line(path)} has no GTcls with a Segmentation: it holds {held}. Give --sbd the release's "
                     "folder with cls, not inst, or replace the damaged file (docs/data.md#voc-aug).")


def read_own_mask(path: Path) -> np.ndarray:
    """Return VOC's own mask, uint8 [H, W]. Raises UserError."""
    return check(read_mask(path).numpy(), path)


def check(label: np.ndarray, path: Path) -> np.ndarray:
    """Return the label as uint8; raise UserError if it isn't a map of VOC's classes and 255."""
    foreign = label[((label < 0) | (label >= CLASSES)) & (label != IGNORE)]
    if foreign.size:  # before it is made uint8, which has no 256 and no -1
        raise UserError(f"{to_one_line(path)} has the label {foreign[0]:.0f}: the classes are 0 to {CLASSES - 1}, and "
                        f"{IGNORE} is ignored.")
    return label.astype(np.uint8)


def check_size(label: np.ndarray, *, source: Path, image: Path):
    """Raise UserError if a mask hasn't its image's size. Reads the image's header alone."""
    width, height = read_image_size(image)
    if label.shape != (height, width):
        raise UserError(f"{to_one_line(source)} has {label.shape[1]}x{label.shape[0]} pixels, but its image "
                        f"{to_one_line(image)} has {width}x{height}: replace the wrong one of them.")


def write_mask(path: Path, label: np.ndarray, *, force: bool):
    """Write a palette PNG unless the file has these labels already; raise UserError if it has others."""
    if path.exists() and not force:
        if not np.array_equal(read_mask(path).numpy(), label):
            raise UserError(f"{to_one_line(path)} has other labels: move it away, or replace it with --force.")
        return
    image = Image.fromarray(label, mode="P")
    image.putpalette(compute_colours().astype(np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG")
    write_atomically(path, file.getvalue())


def main(argv=None):
    """Build; exit with code 2 after an error."""
    parser = argparse.ArgumentParser("datasets.voc_aug", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sbd", required=True, type=Path, help="folder that SBD's benchmark.tgz unpacks to")
    parser.add_argument("--data_root", default=Path("datasets/data"), type=Path, help="folder that holds VOCdevkit")
    parser.add_argument("--force", action="store_true", help="replace masks and a list that differ")
    given = parser.parse_args(argv)
    start_log()
    try:
        count = build(given.sbd, given.data_root, force=given.force)
    except (UserError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    logger.info("%d training images of 2012_aug%s", count, "" if count == WHOLE else f"; the whole data has {WHOLE}")


if __name__ == "__main__":
    main()
