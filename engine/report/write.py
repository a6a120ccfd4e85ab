"""--report: the records of one run or several side by side, as tables, curves and pictures."""
import json
import os
from pathlib import Path
from urllib.parse import quote

from engine.page.write import Content, make_page
from engine.records.corruptions import is_corruption
from engine.records.naming import finds_radius, format_radius
from engine.records.radii import describe_radii, format_radii, tabulate_radii
from engine.records.rows import make_rows
from engine.records.shards import list_parts
from engine.records.store import Record
from engine.report import curves, figures, tables
from engine.report.groups import LEGEND as GROUPS_LEGEND
from engine.report.groups import compare_groups, format_groups, format_members, name_groups, tabulate_groups
from engine.report.sources import choose_records, find_common_images
from engine.report.strongest import find_strongest
from utils.files import name_folders, write_together
from utils.logging import logger
from utils.strict_json import canonical
from utils.text import escape_markdown, is_file_name, replace_nan

LEGEND = """\
- mIoU: IoU pooled over all images, mean over classes. In a union the adversary picks one of its records or the clean
  image for every image: mIoU is the lowest that a search finds, (>= ...) a lower bound over all choices.
  A class in no label and no prediction is -, and mIoU leaves it out: then "over" says over how many classes it is.
- aAcc: share of labelled pixels that are correct. Image IoU: mean over images of each one's own mIoU. Both are exact
  for unions. ratio: mIoU as a share of the clean one.
- race: as a union of its own candidates for each image.
- sea: APGD with red-eps on mce_bal, mce and js; ensemble: on nine losses; worst case: all untargeted records at this
  norm and eps that every run has."""


def write_report(runs: list[Path], folder: Path, *, groups: list[list[Path]] | None = None, attacks=None, losses=None,
                 norm: str | None = None, eps=None) -> dict:
    """Write report.html, .md, .csv and .json, curves.png and sheets of pictures; return what report.json holds.

    runs: run folders with records/*.jsonl, of the same classes. groups: the same folders in groups, which are compared
    (groups.py). attacks, losses (names), norm and eps (numbers) choose records; clean ones always count. The report is
    {"runs": names, "images": names, "rows": what make_rows() gives for each run with "run" in front}, nan as null, over
    the images that all records have; "strongest" is what find_strongest() gives, "groups" and "radii" are what
    compare_groups() and describe_radii() give, if any.
    Raises UserError if there is nothing to compare or runs can't be compared, and leaves `folder` unchanged.
    """
    folders = name_folders(runs)
    kept = choose_records(folders, attacks=attacks, losses=losses, norm=norm, eps=eps)
    names, note = find_common_images(kept)
    settings = [{canonical(record.settings) for record in records} for records in kept.values()]
    shared = set.intersection(*settings)  # a worst case must be over the same attacks in every run
    rows = [{"run": run, **row} for run, records in kept.items()
            for row in make_rows(records, names, class_names=records[0].header["class_names"], shared=shared)]
    radii = [{"run": run, **describe_radii(record, names, asked=eps)} for run, records in kept.items()
             for record in records if finds_radius(record.settings)]
    named = _name_groups(groups, folders) if groups else {run: [run] for run in kept}
    compared = compare_groups(named, kept, rows, names) if groups else []
    strongest = find_strongest(named, kept, rows, names)
    content = replace_nan({"runs": list(kept), "images": names, "rows": rows, "strongest": strongest,
                           **{key: found for key, found in (("groups", compared), ("radii", radii)) if found}})
    sheets = [sheet for run, path in folders.items() for sheet in _list_sheets(run, path, rows, names)]
    page = _describe_page(rows, images=len(names), strongest=strongest, compared=compared, named=named,
                          radii=radii, kept=kept, folders=folders, sheets=sheets)
    with write_together(Path(folder)) as part:
        pictures = _draw(part, page, rows)
        _write(part / "report.md", _format_markdown(rows, compared, named, radii, images=len(names),
                                                    note=note, pictures=pictures))
        _write(part / "report.csv", tables.format_rows_as_csv(rows))
        _write(part / "report.html", make_page(page))
        _write(part / "report.json", json.dumps(content, indent=1) + "\n")
    main_table = format_groups(compared) if groups else tables.format_comparison(rows)
    shown = [main_table, *([format_radii(radii)] if radii else [])]
    logger.info("\n%s\n\nThe report is in %s", "\n\n".join(shown), folder)
    return content


def _list_sheets(run: str, folder: Path, rows: list[dict], names: list[str]) -> list[curves.Sheet]:
    """Return the sheets of a run: those of its first part that has pictures."""
    own = [row for row in rows if row["run"] == run]
    pictured = list(filter(is_file_name, names))  # a stranger's record may name paths outside the folder
    sheets = next(filter(None, (list(curves.make_sheets(run, part / "val_results", own, names=pictured))
                                for part in list_parts(folder))), [])
    if not sheets:
        logger.info("%s has no pictures of these records: write them with --sheet_images or --save_val_results", run)
    return sheets


def _describe_page(rows: list[dict], *, images: int, strongest: list[dict], compared: list[dict],
                   named: dict[str, list[str]], radii: list[dict], kept: dict[str, list[Record]],
                   folders: dict[str, Path], sheets: list[curves.Sheet]) -> Content:
    """Return what report.html shows."""
    lines = tables.align_rows(rows)
    recorded = max(len(record) for records in kept.values() for record in records)
    return Content(
        images=images, recorded=recorded, lines=lines, strongest=strongest, members=named, folders=folders,
        sheets=sheets,
        subjects={run: records[0].header["subject"] for run, records in kept.items()},
        cost=tables.tabulate_cost(lines, list(kept)),
        groups=tabulate_groups(compared, percent=True) if compared else None,
        radii=tabulate_radii(radii), legend=GROUPS_LEGEND,
        panels=curves.make_panels([row for row in rows if not is_corruption(row)], limit=None),
        radius_panels=curves.make_radius_panels(radii))


def _draw(part: Path, page: Content, rows: list[dict]) -> list[str]:
    """Draw curves.png, radii.png and the sheets; return their names."""
    figures.draw_curves(part / "curves.png", curves.make_panels(rows))
    drawn = ["curves.png"]
    if page.radius_panels:
        figures.draw_curves(part / "radii.png", page.radius_panels, ylabel="images with a radius of at most eps (%)")
        drawn.append("radii.png")
    for sheet in page.sheets:
        title = f"{sheet.run}, {sheet.ball}: image and prediction" if sheet.drawn else sheet.title
        figures.draw_sheet(part / sheet.file, title, sheet.drawn or sheet.grid)
        drawn.append(sheet.file)
    return drawn


def _name_groups(groups: list[list[Path]], folders: dict[str, Path]) -> dict[str, list[str]]:
    names = {path: name for name, path in folders.items()}
    return name_groups([[names[path.resolve()] for path in group] for group in groups])


def _format_markdown(rows: list[dict], compared: list[dict], named: dict[str, list[str]], radii: list[dict], *,
                     images: int, note: str, pictures: list[str]) -> str:
    runs = list(dict.fromkeys(row["run"] for row in rows))
    unions = [escape_markdown(f"- {row['run']}: {row['attack']}, {row['norm']}, {format_radius(row)}: "
                    f"{', '.join(row['members'])}") for row in rows if row["members"]]
    parts = [
        escape_markdown("# Robustness of " + ", ".join(runs)),
        f"Runs: {len(runs)}. Images: {images}." + (f" Note: {escape_markdown(note)}." if note else ""),
        *(["## Groups", escape_markdown(format_members(named)), format_groups(compared), GROUPS_LEGEND, "## Runs"]
          if compared else []),
        tables.format_comparison(rows), LEGEND,
        *(["## Smallest radius", format_radii(radii)] if radii else []),
        "## IoU of each class", tables.format_class_table(rows),
        "## Cost: forward + backward passes per image", tables.format_cost_table(rows),
        *(["## Members of the unions", "\n".join(unions)] if unions else []),
        "## Pictures", "\n\n".join(f"![{escape_markdown(name)}]({quote(os.fsencode(name))})" for name in pictures),
    ]
    return "\n\n".join(parts) + "\n"


def _write(path: Path, text: str):
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")  # a folder's name may not be UTF-8
