"""The page's tables of scores: attacks, corruptions, members of worst cases."""
import re
from dataclasses import replace
from itertools import product

from engine.page.chart import draw_key
from engine.page.markup import Markup, fit, join, percent, show, table, tag
from engine.records.corruptions import is_corruption
from engine.records.naming import format_radius
from engine.records.rows import WORST
from engine.records.summary import format_classes, list_scores

LIMIT = 900_000
ATTACK = ("attack", "loss", "norm", "eps", "steps")
KEYS = {"mIoU": "Mean IoU", "aAcc": "Overall Acc", "Image IoU": "Image IoU", "ratio": "ratio"}
NAMED = 6  # members in a worst case's name


def name_worst_cases(lines: list[dict], others: list[dict], panels: list) -> tuple[list[dict], list[dict], list]:
    """Return lines, other lines of the same attacks, and panels, with the members of worst cases in their names."""
    worst = [line for line in lines if line["attack"].startswith(WORST)]
    names = {tuple(line[key] for key in ATTACK): _name_worst_case(line["curve"], [line], steps=True) for line in worst}

    def rename(line: dict) -> dict:
        stronger = {"stronger": {run: rename(each) for run, each in line["stronger"].items()}} if line.get(
            "stronger") else {}
        return {**line, "attack": names.get(tuple(line[key] for key in ATTACK), line["attack"]), **stronger}

    renamed = [list(map(rename, each)) for each in (lines, others)]
    titled = []
    for panel in panels:
        own = [line for line in worst if line["norm"] == panel.norm
               and line["curve"] == re.sub(r" of \d+( to \d+)?", "", panel.title, count=1)]
        titled.append(replace(panel, title=_name_worst_case(own[0]["curve"], own)) if own else panel)
    return *renamed, titled


def _name_worst_case(curve: str, lines: list[dict], *, steps: bool = False) -> str:
    """Return worst case of pgd, race (10 and 30 steps). curve: worst case, and the networks it was transferred from."""
    found = {}
    for row in (row for line in lines for row in line["rows"].values()):
        for label in row["members"]:
            name, _, rest = label.partition(f"_{row['norm']}_{format_radius(row).replace('/', '-')}")
            found.setdefault(name, set()).update(map(int, re.findall(r"(\d+)steps", rest)))
    names = [f"{name} ({', '.join(map(str, sorted(numbers)))} steps)" if steps and len(numbers) > 1 else name
             for name, numbers in found.items()]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{WORST} of {', '.join(names[:NAMED])}{more}{curve.removeprefix(WORST)}"


def make_scores(lines: list[dict], runs: list[str], *, strongest: list[tuple]) -> Markup:
    """Return the table of scores under attacks, and one of those under corruptions if there are any.

    strongest: the keys of the attacks that are marked.
    """
    rows = [row for line in lines for row in line["rows"].values()]
    shown = list_scores(rows)
    attacks = [line for line in lines if not is_corruption(line)]
    corruptions = [line for line in lines if is_corruption(line)]
    parts = [_make_table(attacks, runs, shown, ATTACK, caption="Scores under attacks (%)", marked=strongest)]
    if corruptions:
        titles = {"attack": "corruption", "eps": "severity"}
        parts.append(_make_table(corruptions, runs, shown, titles, caption="Scores under corruptions (%)"))
    return join(*parts)


def explain_scores(lines: list[dict]) -> list[str]:
    """Return what the scores are, and the attacks that combine others, as far as the lines have them."""
    names = {line["attack"] for line in lines}
    over = "over" in list_scores([row for line in lines for row in line["rows"].values()])
    shared = "that all runs have" if len({run for line in lines for run in line["rows"]}) > 1 else "recorded"
    texts = {
        f"\u25c2 marks the strongest attack {shared} at each norm and eps.": any(line["norm"] != "-" for line in lines),
        "A class in no label and no prediction is -, and mIoU leaves it out: \"over\" says over how many it is.": over,
        "aAcc: share of labelled pixels that are correct. Image IoU: mean over images of each one's own mIoU. ratio: "
        "mIoU as a share of the clean one.": True,
        "sea: APGD with red-eps on mce_bal, mce and js.": any(name.startswith("sea") for name in names),
        "ensemble: APGD with red-eps on nine losses.": any(name.startswith("ensemble") for name in names),
        "worst case: of all untargeted records at this norm and eps that every run has.":
            any(name.startswith(WORST) for name in names)}
    return [text for text, used in texts.items() if used]


def _make_table(lines: list[dict], runs: list[str], shown: list[str], keys, *, caption: str, marked=()) -> Markup:
    """Return a sortable table: keys of the lines, then each score of every run, so that runs stand side by side.

    keys: a dict gives them titles.
    """
    titles = keys if isinstance(keys, dict) else {key: key for key in keys}
    several = len(runs) > 1
    outer, inner = (shown, runs) if several else (runs, shown)
    columns = list(product(outer, inner))
    top = tag("tr", *(tag("th", title, scope="col", rowspan=2, data_column=place,
                          class_="number" if key in ("eps", "steps") else None)
                      for place, (key, title) in enumerate(titles.items())),
              *(tag("th", name, scope="colgroup", colspan=len(inner), class_="start") for name in outer))
    below = tag("tr", *(tag("th", draw_key(runs.index(name)) if several else "", name, scope="col",
                            data_column=len(titles) + place, data_of=of,
                            class_="number start" if name == inner[0] else "number")
                        for place, (of, name) in enumerate(columns)))
    head = Markup(top + "\n" + below)
    pairs = columns if several else [(title, run) for run, title in columns]
    rows, note = fit(lambda line: _make_row(line, pairs, titles, marked), lines, LIMIT, of="lines of this table")
    return join(table([head], [tag("tbody", join(*rows))], caption=caption, sortable=True,
                      class_="scores side" if several else "scores"), note)


def _make_row(line: dict, pairs: list[tuple[str, str]], titles: dict, marked) -> Markup:
    """Return a line's row; pairs: the score and run of each column."""
    first, *others = [line[key] for key in titles]
    kind = "strongest" if tuple(line[key] for key in ATTACK) in marked else None
    return tag("tr", tag("th", first, scope="row"), *(
        tag("td", value, class_="number" if key in ("eps", "steps") else None)
        for key, value in zip(list(titles)[1:], others, strict=True)), *(
        tag("td", *_list_parts(line["rows"].get(run), title), class_="number") for title, run in pairs),
        class_=kind)


def _list_parts(row: dict | None, title: str) -> list:
    """Return a score, and behind that of a worst case, smaller, its lower bound."""
    if row is None or title == "over":
        return ["-" if row is None else format_classes(row)]
    lower = row["Mean IoU lower"] if title == "mIoU" else None
    return [percent(row[KEYS[title]]), *([] if lower is None else [tag("small", f" (\u2265 {percent(lower)})")])]


def list_members(lines: list[dict]) -> Markup:
    """Return which attacks each worst case combines, as a list, once where all runs agree; nothing without any."""
    found = {}
    for line in lines:
        for run, row in line["rows"].items():
            if row["members"]:
                text = f"{row['attack']}, {row['norm']}, {format_radius(row)}"
                found.setdefault((text, tuple(row["members"])), []).append(run)
    texts = [text for text, _ in found]
    kept, note = fit(lambda item: tag("li", show((f"{', '.join(item[1])}: " if texts.count(item[0][0]) > 1 else "") +
                                                 f"{item[0][0]}: "), ", ".join(item[0][1])), found.items(), LIMIT // 9,
                     of="worst cases")
    return join(tag("ul", join(*kept), class_="members") if kept else "", note)
