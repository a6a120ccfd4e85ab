"""Labelme's JSON files to a folder for --dataset folder.

    python docs/convert/labelme.py path/to/json path/to/data
"""
import json
import math
import shutil
import sys
from pathlib import Path

from PIL import Image, ImageDraw

BACKGROUND, IGNORE = "_background_", "__ignore__"  # Labelme's own names


def draw(draw_on: ImageDraw.ImageDraw, shape: dict, value: int):
    """Fill a shape with a label."""
    points, kind = [tuple(point) for point in shape["points"]], shape.get("shape_type", "polygon")
    if kind == "rectangle":
        (x1, x2), (y1, y2) = (sorted(values) for values in zip(*points, strict=True))
        draw_on.rectangle((x1, y1, x2, y2), fill=value)
    elif kind == "circle":
        (x, y), radius = points[0], math.dist(*points)
        draw_on.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)
    elif kind == "polygon":
        draw_on.polygon(points, fill=value)
    else:
        sys.exit(f"error: a shape of type {kind}, which has no area: draw it as a polygon")


def main(source: Path, target: Path):
    """Copy the images, draw the masks and write classes.txt."""
    files = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(source.glob("*.json"))}
    found = {shape["label"] for content in files.values() for shape in content["shapes"]}
    names = [BACKGROUND, *sorted(found - {BACKGROUND, IGNORE})]
    labels = {**{name: label for label, name in enumerate(names)}, IGNORE: 255}
    for folder in ("images", "masks"):
        (target / "train" / folder).mkdir(parents=True)
    for path, content in files.items():
        image = path.parent / content["imagePath"].replace("\\", "/")
        mask = Image.new("L", (content["imageWidth"], content["imageHeight"]), 0)
        for shape in content["shapes"]:
            draw(ImageDraw.Draw(mask), shape, labels[shape["label"]])
        mask.save(target / "train" / "masks" / f"{image.stem}.png")
        shutil.copy(image, target / "train" / "images")
    (target / "classes.txt").write_text("\n".join([*names, ""]), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
