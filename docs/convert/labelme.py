"""Labelme's JSON files to a folder for --dataset folder.

    python docs/convert/labelme.py path/to/json path/to/data
"""
import base64
import io
import json
import math
from pathlib import Path, PurePosixPath

from PIL import Image, ImageDraw
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

BACKGROUND, IGNORED = "_background_", "__ignore__"  # Labelme's own names


def draw(mask: Image.Image, shape: dict, value: int):
    """Fill a shape with a label."""
    points, kind = [tuple(point) for point in shape["points"]], shape.get("shape_type", "polygon")
    draw_on = ImageDraw.Draw(mask)
    if kind == "rectangle":
        (x1, x2), (y1, y2) = (sorted(values) for values in zip(*points, strict=True))
        draw_on.rectangle((x1, y1, x2, y2), fill=value)
    elif kind == "circle":
        (x, y), radius = points[0], math.dist(*points)
        draw_on.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)
    elif kind == "polygon":
        draw_on.polygon(points, fill=value)
    elif kind == "mask":  # a picture of its pixels, whose upper left corner is the first point
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as picture:
            filled = picture.convert("L").point(lambda level: 255 * (level > 0))
        mask.paste(value, tuple(map(int, points[0])), filled)
    else:
        raise ConversionError(f"has a shape of type {kind}, which has no area: draw it as a polygon")


def read(path: Path) -> dict:
    """Return the content of a file, of which all that is used has been looked at."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _ = content["imagePath"] + "", content["imageWidth"] + content["imageHeight"]
        _ = [(shape["label"] + "", shape["points"]) for shape in content["shapes"]]
    except (LookupError, TypeError, ValueError):
        raise ConversionError(f"{path} is not a file of Labelme: move it away, or save it anew") from None
    return content


def main(source: Path, target: Path):
    """Copy the images, draw the masks and write classes.txt."""
    files = {path: read(path) for path in sorted(source.glob("*.json"))}
    if not files:
        raise ConversionError(f"No JSON files in {source}: name the folder where Labelme saved them")
    found = {shape["label"] for content in files.values() for shape in content["shapes"]}
    for name in sorted(found & {IGNORED_NAME}):
        say_ignored(name)
    names = [BACKGROUND, *sorted(found - {BACKGROUND, IGNORED, IGNORED_NAME})]
    classes = format_classes(names)
    labels = {name: label for label, name in enumerate(names)} | {IGNORED: IGNORE, IGNORED_NAME: IGNORE}
    images = [PurePosixPath(content["imagePath"].replace("\\", "/")) for content in files.values()]
    with new_folder(target) as folder:
        for (path, content), image, name in zip(files.items(), images, choose_names(images), strict=True):
            copy_image(source / image, folder, name)
            mask = Image.new("L", (content["imageWidth"], content["imageHeight"]), 0)
            for shape in content["shapes"]:
                try:
                    draw(mask, shape, labels[shape["label"]])
                except ConversionError as error:
                    raise ConversionError(f"{path} {error}") from None
                except (LookupError, TypeError, ValueError, OSError) as error:
                    raise ConversionError(f"{path} has a shape of {shape['label']!r} that can't be drawn ({error}): "
                                          "draw it anew") from None
            mask.save(folder / "train" / "masks" / f"{name}.png")
        (folder / "classes.txt").write_text(classes, encoding="utf-8")


if __name__ == "__main__":
    run(main, "path/to/json path/to/data")
