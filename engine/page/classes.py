"""The page's tables of classes: IoU clean and attacked, and what an attack costs each class."""
from itertools import product

from engine.page.answer import draw_bar, name_attack_of, name_radius
from engine.page.chart import draw_key
from engine.page.markup import Markup, fit, join, percent, subtract, table, tag, write_minus
from utils.text import is_undefined

LIMIT = 1_200_000
DRAWN = 8  # runs: with more, numbers alone have room


def make_classes(lines: list[dict], runs: list[str], *, first: list[tuple]) -> Markup:
    """Return a table per attack, of which the script shows one at a time. first: keys of the attacks to begin with."""
    clean = next(line for line in lines if line["norm"] == "-")
    attacked = [line for line in lines if line is not clean] or [clean]
    order = {key: place for place, key in enumerate(first)}
    ranked = sorted(attacked, key=lambda line: order.get(get_key(line), len(order)))
    found, note = fit(lambda line: _make_choice(line, clean, runs, always=get_key(line) in order), ranked, LIMIT,
                      of="tables of classes")
    return join(tag("div", join(*found), class_="choices", data_label="Attack"), note)


def get_key(line: dict) -> tuple:
    """Return what identifies a line among others."""
    return tuple(line[key] for key in ("attack", "loss", "norm", "eps", "steps"))


def _make_choice(line: dict, clean: dict, runs: list[str], *, always: bool) -> Markup:
    """Return the table of an attack; one that is shown `always` is in print, too, when another is chosen."""
    title = f"{name_radius(line)}: {name_attack_of(line)}"
    present = {run: style for style, run in enumerate(runs) if run in line["rows"]}
    drops = {run: find_drops(clean["rows"][run], line["rows"][run]) for run in present}
    most = {run: max(found, key=found.get, default=None) for run, found in drops.items()}
    top = tag("tr", tag("th", "class", scope="col", rowspan=2, data_column=0), *(
        tag("th", draw_key(style), run, scope="colgroup", colspan=4) for run, style in present.items()))
    below = tag("tr", *(tag("th", name, scope="col", data_column=1 + place if name else None,
                            class_="number" if name else "start", data_of=run)
                        for place, (run, name) in enumerate(product(present, ("", "clean", "attacked", "lost")))))
    names = clean["rows"][runs[0]]["Class IoU"]
    rows = [_make_row(name, clean, line, present, drops, most) for name in names]
    return tag("section", tag("h3", title), tag("p", _say_most(most, drops), class_="most"),
               table([top, below], [tag("tbody", join(*rows))], caption="IoU of each class (%)", sortable=True,
                     class_="scores classes"), class_="choice always" if always else "choice")


def find_drops(clean: dict, attacked: dict) -> dict[str, float]:
    """Return {class: clean IoU minus attacked IoU, in percent} of the classes that have both."""
    return {name: subtract(before, after) for name, before in clean["Class IoU"].items()
            if not is_undefined(before) and not is_undefined(after := attacked["Class IoU"][name])}


def _say_most(most: dict[str, str | None], drops: dict) -> Markup:
    return Markup("; ".join(tag("b", run) + " loses most on " + tag("b", name) + f" (\u2212{drops[run][name]:.2f})"
                            for run, name in most.items() if name is not None and drops[run][name] > 0))


def _make_row(name: str, clean: dict, line: dict, styles: dict[str, int], drops: dict, most: dict) -> Markup:
    cells = []
    for run in styles:
        before, after = clean["rows"][run]["Class IoU"][name], line["rows"][run]["Class IoU"][name]
        lost = drops[run].get(name)
        kind = "number largest" if name == most[run] and lost > 0 else "number"
        cells += [tag("td", draw_bar(before, after, styles[run]) if len(styles) <= DRAWN else "", class_="start"),
                  *(tag("td", percent(iou), class_="number") for iou in (before, after)),
                  tag("td", _format_loss(lost), class_=kind)]
    return tag("tr", tag("th", name, scope="row"), *cells)


def _format_loss(lost: float | None) -> str:
    return "-" if lost is None else write_minus(f"{lost if abs(lost) > 0.005 else 0:.2f}")
