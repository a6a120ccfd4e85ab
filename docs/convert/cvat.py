"""CVAT's export "Segmentation mask 1.1", with images, to a folder for --dataset folder.

    python docs/convert/cvat.py path/to/unpacked path/to/data
"""
import shutil
import sys
from pathlib import Path


def main(source: Path, target: Path):
    """Copy images and masks; make classes.txt of labelmap.txt, whose lines are `name:red,green,blue:parts:actions`."""
    lines = [line.split(":") for line in (source / "labelmap.txt").read_text(encoding="utf-8").splitlines()
             if line and not line.startswith("#")]
    lines.sort(key=lambda line: line[0] != "background")  # label 0
    for folder, origin in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
        shutil.copytree(source / origin, target / "train" / folder)
    (target / "classes.txt").write_text("".join(f"{name} {colour.replace(',', ' ')}\n" for name, colour, *_ in lines),
                                        encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
