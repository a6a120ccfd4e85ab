"""The page's pictures: embedded, small, and as many as the page has room for."""
import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import DATASETS
from engine.page.markup import Markup, join, show, tag
from engine.page.runs import read_json

LONGEST_SIDE = 360  # pixels
# Of a column of a sheet: the views that show it, and whether its colours are classes.
COLUMNS = {
    "image": ("clean", False), "adversarial image": ("attacked", False), "perturbation": ("perturbation", False),
    "clean prediction": ("clean", True), "attacked prediction": ("attacked perturbation", True), "target": ("", True),
}
TITLES = {"target": "label"}  # of columns whose name on the page differs
VIEWS = ("clean", "attacked", "perturbation")


def make_sheets(sheets: list, *, limit: int, colours: dict[str, str] | None = None) -> Markup:
    """Return the sheets by norm and eps, each with a switch between VIEWS; nothing without sheets.

    colours: {class: #rrggbb}, for a legend. sheets: with run, ball (norm and eps), title and grid {image: {column:
    path}}. Within `limit` bytes every sheet gets its first image before any gets its second.
    """
    if not sheets:
        return Markup()
    chosen, left_out = choose_images(sheets, limit)
    balls = list(dict.fromkeys(sheet.ball for sheet in sheets))
    shown = [_make_ball(ball, [(sheet, images) for sheet, images in zip(sheets, chosen, strict=True)
                               if sheet.ball == ball and images], number=number)
             for number, ball in enumerate(balls)]
    note = tag("p", f"{left_out} images of these sheets are left out to keep this page small; the sheet_*.png beside "
               "this page have them all.", class_="note") if left_out else ""
    printed = tag("p", "The pictures of the other radii are on the page on a screen.", class_="printed") if len(
        balls) > 1 else ""
    return join(make_class_legend(colours or {}), tag("div", *shown, class_="choices", data_label="Radius"), printed,
                note)


def make_class_legend(colours: dict[str, str]) -> Markup:
    """Return a swatch and the name of each class, as masks show them; what has no label is in none of these colours."""
    if not colours:
        return Markup()
    swatches = [tag("li", tag("svg", tag("rect", width="16", height="16", fill=colour), viewBox="0 0 16 16",
                              aria_hidden="true", class_="swatch"), name) for name, colour in colours.items()]
    return tag("ul", *swatches, class_="legend", aria_label="Colours of the classes")


def find_colours(folders: dict[str, Path], subjects: dict[str, dict], names: list[str]) -> dict[str, str]:
    """Return {class: colour as #rrggbb} of the runs' pictures; {} where it is not known.

    It is what results.json has, of earlier versions the data set's own if that has these classes.
    """
    for folder in folders.values():
        saved = read_json(folder / "results.json")
        if colours := _check_colours(saved.get("class_colours") if isinstance(saved, dict) else None, names):
            return colours
    dataset = DATASETS.get(str(next(iter(subjects.values()), {}).get("dataset")))
    own = getattr(dataset, "class_names", None), getattr(dataset, "palette", None)
    if isinstance(own[0], list | tuple) and isinstance(own[1], np.ndarray) and list(own[0]) == names:
        return _check_colours(dict(zip(names, own[1].tolist(), strict=False)), names)
    return {}


def _check_colours(found, names: list[str]) -> dict[str, str]:
    """Return colours as #rrggbb, {} unless each class has one; they may come from a stranger."""
    if not isinstance(found, dict) or list(found) != names or not all(
            isinstance(colour, list) and len(colour) == 3 and all(type(value) is int and 0 <= value <= 255
                                                                  for value in colour) for colour in found.values()):
        return {}
    return {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in found.items()}


def choose_images(sheets: list, limit: int) -> tuple[list[dict[str, dict[str, str]]], int]:
    """Return {image: {column: data URI}} for each sheet, and how many images there was no room for."""
    chosen, used, left_out = [{} for _ in sheets], 0, 0
    for place in range(max((len(sheet.grid) for sheet in sheets), default=0)):
        for sheet, images in zip(sheets, chosen, strict=True):
            if place >= len(sheet.grid):
                continue
            name, pictures = list(sheet.grid.items())[place]
            if used >= limit:  # don't read what has no room anyway
                left_out += 1
                continue
            encoded = {column: encode(path, classes=COLUMNS[column][1]) for column, path in pictures.items()}
            size = sum(map(len, encoded.values()))
            if used + size > limit:
                used, left_out = limit, left_out + 1
                continue
            used += size
            images[name] = encoded
    return chosen, left_out


def encode(path: Path, *, classes: bool) -> str:
    """Return a picture as a data URI of at most LONGEST_SIDE: classes by PNG without mixed colours, photos by JPEG."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = min(1.0, LONGEST_SIDE / max(image.size))
    size = [max(1, round(side * scale)) for side in image.size]
    if classes and (indexed := _index_colours(image.resize(size, Image.Resampling.NEAREST))):
        return _to_uri(indexed, "PNG", optimize=True)
    return _to_uri(image.resize(size, Image.Resampling.LANCZOS), "JPEG", quality=80)


def _index_colours(image: Image.Image) -> Image.Image | None:
    """Return the image with a palette, or None if it has more colours than a palette."""
    pixels = np.asarray(image).astype(np.int64) @ [65536, 256, 1]
    colours, places = np.unique(pixels, return_inverse=True)
    if len(colours) > 256:
        return None
    indexed = Image.fromarray(places.reshape(pixels.shape).astype(np.uint8), "P")
    indexed.putpalette(b"".join(int(colour).to_bytes(3, "big") for colour in colours))
    return indexed


def _to_uri(image: Image.Image, kind: str, **settings) -> str:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _make_ball(ball: str, shown: list[tuple], *, number: int) -> Markup:
    if not shown:
        return Markup()
    switch = tag("fieldset", tag("legend", "Show"), *(
        tag("label", tag("input", type="radio", name=f"view{number}", value=view, checked=view == "attacked"), " ",
            view)
        for view in VIEWS), class_="views")
    return tag("section", tag("h3", ball), switch, *(_make_sheet(sheet.title, images) for sheet, images in shown),
               class_="choice sheets")


def _make_sheet(title: str, images: dict[str, dict[str, str]]) -> Markup:
    rows = [tag("div", *(_make_picture(name, column, pictures[column]) for column in COLUMNS if column in pictures),
                class_="row") for name, pictures in images.items()]
    return join(tag("h4", title), *rows)


def _make_picture(name: str, column: str, uri: str) -> Markup:
    title = TITLES.get(column, column)
    return tag("figure", tag("img", src=Markup(uri), alt=f"{title} of {name}"),
               tag("figcaption", tag("b", title), " ", show(name)), class_=COLUMNS[column][0] or None)
