"""The page's tables of scores, with what report.md shows: attacks, corruptions, members of unions."""
from engine.page.markup import Markup, fit, join, show, table, tag
from engine.records.corruptions import is_corruption
from engine.records.naming import format_radius
from engine.records.summary import format_scores, list_scores

LIMIT = 900_000
ATTACK = ("attack", "loss", "norm", "eps", "steps")


def make_scores(lines: list[dict], runs: list[str]) -> Markup:
    """Return the table of scores under attacks, and one of those under corruptions if there are any."""
    rows = [row for line in lines for row in line["rows"].values()]
    shown = list_scores(rows)
    attacks = [line for line in lines if not is_corruption(line)]
    corruptions = [line for line in lines if is_corruption(line)]
    parts = [_make_table(attacks, runs, shown, ATTACK, caption="Scores under attacks")]
    if corruptions:
        titles = {"attack": "corruption", "eps": "severity"}
        parts.append(_make_table(corruptions, runs, shown, titles, caption="Scores under corruptions"))
    return join(*parts)


def _make_table(lines: list[dict], runs: list[str], shown: list[str], keys, *, caption: str) -> Markup:
    """Return a sortable table: keys of the lines, then the scores of every run. keys: a dict gives them titles."""
    titles = keys if isinstance(keys, dict) else {key: key for key in keys}
    top = tag("tr", *(tag("th", title, scope="col", rowspan=2, data_column=place)
                      for place, title in enumerate(titles.values())),
              *(tag("th", run, scope="colgroup", colspan=len(shown)) for run in runs))
    below = tag("tr", *(tag("th", title, scope="col", data_column=len(titles) + place,
                            class_="number start" if title == shown[0] else "number")
                        for place, title in enumerate(shown * len(runs))))
    head = Markup(top + "\n" + below)
    rows, note = fit(lambda line: _make_row(line, runs, shown, titles), lines, LIMIT, of="lines of this table")
    return join(table([head], [tag("tbody", join(*rows))], caption=caption, sortable=True, class_="scores"), note)


def _make_row(line: dict, runs: list[str], shown: list[str], titles: dict) -> Markup:
    first, *others = [line[key] for key in titles]
    cells = [format_scores(line["rows"].get(run))[title] for run in runs for title in shown]
    return tag("tr", tag("th", first, scope="row"), *(tag("td", value) for value in others),
               *(tag("td", *_split_bound(cell), class_="number") for cell in cells))


def _split_bound(cell: str) -> list:
    """Return a score and, smaller, the lower bound behind it."""
    score, blank, bound = cell.partition(" (")
    return [score, tag("small", f" ({bound}")] if blank else [score]


def list_members(lines: list[dict]) -> Markup:
    """Return which attacks each union combines, as a list; nothing without unions."""
    unions = [(run, row) for line in lines for run, row in line["rows"].items() if row["members"]]
    kept, note = fit(lambda union: _list_one(*union), unions, LIMIT // 9, of="unions")
    return join(tag("ul", join(*kept), class_="members") if kept else "", note)


def _list_one(run: str, row: dict) -> Markup:
    return tag("li", show(f"{run}: {row['attack']}, {row['norm']}, {format_radius(row)}: "), ", ".join(row["members"]))
