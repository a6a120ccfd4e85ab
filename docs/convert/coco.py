"""COCO's annotations of objects to a folder for --dataset folder; needs `pip install pycocotools`.

    python docs/convert/coco.py path/to/instances.json path/to/images path/to/data
"""
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO


def main(annotations: Path, images: Path, target: Path):
    """Copy the images, draw the masks (a crowd is ignored, the smallest object lies on top) and write classes.txt."""
    coco = COCO(str(annotations))
    categories = sorted(coco.cats)
    for folder in ("images", "masks"):
        (target / "train" / folder).mkdir(parents=True)
    for key, image in coco.imgs.items():
        mask = np.zeros((image["height"], image["width"]), np.uint8)  # 0 is the background
        for one in sorted(coco.imgToAnns[key], key=lambda one: -one["area"]):
            label = 255 if one.get("iscrowd") else 1 + categories.index(one["category_id"])
            mask[coco.annToMask(one) == 1] = label
        path = images / image["file_name"]
        Image.fromarray(mask).save(target / "train" / "masks" / f"{path.stem}.png")
        shutil.copy(path, target / "train" / "images")
    names = ["background", *(coco.cats[key]["name"] for key in categories)]
    (target / "classes.txt").write_text("\n".join([*names, ""]), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
