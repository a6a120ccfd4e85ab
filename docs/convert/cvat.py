"""CVAT's export "Segmentation mask 1.1", with images, to a folder for --dataset folder.

    python docs/convert/cvat.py path/to/unpacked path/to/data
"""
import re
import shutil
from pathlib import Path

from target import ConversionError, choose_names, copy_image, format_classes, new_folder, run


def main(source: Path, target: Path):
    """Copy images and masks, also those of folders in a task, and make classes.txt of labelmap.txt."""
    classes = format_classes(*read_labels(source / "labelmap.txt"))
    images, masks = find_files(source / "JPEGImages"), find_files(source / "SegmentationClass")
    stems = {path.with_suffix(""): None for path in [*images, *masks]}
    names = dict(zip(stems, choose_names([stem.with_name(f"{stem.name}.png") for stem in stems]), strict=True))
    if len({path.with_suffix("") for path in images}) < len(images):
        choose_names(images)  # of which two have one name
    with new_folder(target) as folder:
        for path in images:
            copy_image(source / "JPEGImages" / path, folder, names[path.with_suffix("")])
        for path in masks:
            shutil.copy(source / "SegmentationClass" / path,
                        folder / "train" / "masks" / f"{names[path.with_suffix('')]}{path.suffix}")
        (folder / "classes.txt").write_text(classes, encoding="utf-8")


def read_labels(path: Path) -> tuple[list[str], list[str]]:
    """Return the names and the colours of the lines `name:red,green,blue:parts:actions`, background first."""
    if not path.is_file():
        raise ConversionError(f"{path} is missing: name the folder of an unpacked export \"Segmentation mask 1.1\"")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("# ")]
    found = [re.fullmatch(r"(.*?):(\d+,\d+,\d+):[^:]*:[^:]*", line) for line in lines]
    if None in found:
        raise ConversionError(f"{path} has the line {lines[found.index(None)]!r}: lines are "
                              "`name:red,green,blue:parts:actions`, export \"Segmentation mask 1.1\" anew")
    found.sort(key=lambda line: line[1] != "background")  # label 0
    return [line[1] for line in found], [line[2].replace(",", " ") for line in found]


def find_files(folder: Path) -> list[Path]:
    """Return the paths of the files below a folder, relative to it."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    if not found:
        raise ConversionError(f"No files in {folder}: export \"Segmentation mask 1.1\" with images")
    return found


if __name__ == "__main__":
    run(main, "path/to/unpacked path/to/data")
