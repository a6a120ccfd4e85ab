"""COCO's annotations of objects to a folder for --dataset folder; needs `pip install pycocotools`.

    python docs/convert/coco.py path/to/instances.json path/to/images path/to/data
"""
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from target import (
    IGNORE,
    IGNORED_NAME,
    ConversionError,
    choose_names,
    copy_image,
    format_classes,
    new_folder,
    run,
    say_ignored,
)


def main(annotations: Path, images: Path, target: Path):
    """Copy the images, draw the masks (a crowd is ignored, the smallest object lies on top) and write classes.txt."""
    coco = read(annotations)
    names = {key: category["name"] for key, category in sorted(coco.cats.items()) if category["name"] != IGNORED_NAME}
    if len(names) < len(coco.cats):
        say_ignored(IGNORED_NAME)
    labels = dict.fromkeys(coco.cats, IGNORE) | {key: label for label, key in enumerate(names, start=1)}
    classes = format_classes(["background", *names.values()])
    keys = list(coco.imgs)
    paths = [PurePosixPath(coco.imgs[key]["file_name"].replace("\\", "/")) for key in keys]
    with new_folder(target) as folder:
        for key, path, name in zip(keys, paths, choose_names(paths), strict=True):
            copy_image(images / path, folder, name)
            try:
                mask = draw(coco, key, labels)
            except (LookupError, TypeError, ValueError) as error:
                raise ConversionError(f"{annotations}: an object of {path} can't be drawn ({type(error).__name__}: "
                                      f"{error}): correct it, or export the annotations of objects anew") from None
            Image.fromarray(mask).save(folder / "train" / "masks" / f"{name}.png")
        (folder / "classes.txt").write_text(classes, encoding="utf-8")


def read(annotations: Path):
    """Return pycocotools' COCO of a file that has images, categories and objects."""
    try:
        from pycocotools.coco import COCO
    except ImportError:
        raise ConversionError("pycocotools is missing: pip install pycocotools") from None
    try:
        coco = COCO(str(annotations))
    except (LookupError, TypeError, ValueError, AssertionError):
        coco = None
    if coco is None or not (coco.imgs and coco.cats and coco.anns):
        raise ConversionError(f"{annotations} has no images with categories and annotations of objects: name a file "
                              "such as instances_train2017.json")
    return coco


def draw(coco, key, labels: dict) -> np.ndarray:
    """Return the mask of an image, [H, W] uint8."""
    mask = np.zeros((coco.imgs[key]["height"], coco.imgs[key]["width"]), np.uint8)  # 0 is the background
    for one in sorted(coco.imgToAnns[key], key=lambda one: -one["area"]):
        mask[coco.annToMask(one) == 1] = IGNORE if one.get("iscrowd") else labels[one["category_id"]]
    return mask


if __name__ == "__main__":
    run(main, "path/to/instances.json path/to/images path/to/data")
