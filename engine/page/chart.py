"""Curves as inline SVG: the points are focusable and name their values, which are in a table below, too."""
import math

from engine.page.markup import Markup, details, fit, join, tabulate, tag

LIMIT = 500_000
WIDTH, HEIGHT = 380, 250  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 48, 368, 12, 206  # the axes
COLOURS, SHAPES = 7, ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-3.6-3.6h7.2v7.2h-7.2z", "M0-4.6L4.4 3.4h-8.8z",
                      "M0-5L4 0L0 5L-4 0z")
XLABELS = {"linf": "eps (linf, n/255)", "severity": "severity"}
UNITS = {"linf": "/255", "severity": ""}


def make_charts(panels: list, runs: list[str], *, ylabel: str, value: str, skip: int = 0) -> Markup:
    """Return a chart per panel, with a legend of the runs and a table of the values.

    panels: with title, norm, curves {run: [(eps, value in percent, its lower bound)]} and stepped. value: the word for
    a value. skip: as many panels are only in the table, as they are shown elsewhere.
    """
    drawn, note = fit(lambda panel: draw_chart(panel, panels, runs, ylabel=ylabel, value=value), panels[skip:], LIMIT,
                      of="charts")
    used = [run for run in runs if any(run in panel.curves for panel in panels)]
    return join(make_legend(used, runs) if drawn else "", tag("div", join(*drawn), class_="charts"), note,
                details(f"Values of these curves: {ylabel}", tabulate(list_values(panels), LIMIT), class_="values"),
                tag("p", "The values of these curves are on the page on a screen.", class_="printed"))


def make_legend(used: list[str], runs: list[str]) -> Markup:
    """Return the names of runs beside their marks."""
    entries, note = fit(lambda run: tag("li", draw_key(runs.index(run)), run), used, LIMIT // 5,
                        of="runs in this legend")
    return join(tag("ul", *entries, class_="legend"), note)


def draw_key(style: int) -> Markup:
    """Return the mark of a run, to stand beside its name."""
    return tag("svg", _draw_mark(style), viewBox="-8 -8 16 16", aria_hidden="true", class_=f"key {name_style(style)}")


def list_values(panels: list) -> dict[str, list[str]]:
    """Return the points of all panels as columns {title: cells}."""
    points = [(panel, run, point) for panel in panels for run, curve in panel.curves.items() for point in curve]
    return {"curve": [_name_curve(panel) for panel, *_ in points], "run": [run for _, run, _ in points],
            "eps": [_format_eps(point[0], panel.norm) for panel, _, point in points],
            "value (%)": [f"{point[1]:.2f}" for *_, point in points],
            "at least (%)": [f"{point[2]:.2f}" if point[2] < point[1] else "-" for *_, point in points]}


def _name_curve(panel) -> str:
    """Return the title with the norm, as one attack may have a chart for each."""
    return panel.title if panel.norm == "severity" or panel.title == "clean" else f"{panel.title}, {panel.norm}"


def draw_chart(panel, panels: list, runs: list[str], *, ylabel: str, value: str) -> Markup:
    """Return a panel as a figure."""
    furthest = max((point[0] for other in panels if other.norm == panel.norm for curve in other.curves.values()
                    for point in curve), default=0) or 1
    top = find_top(panels)
    curves = [_draw_curve(points, furthest, top, style=runs.index(run), stepped=panel.stepped)
              for run, points in panel.curves.items()]
    marks = [_draw_point(run, point, furthest, top, panel.norm, style=runs.index(run), value=value)
             for run, points in panel.curves.items() for point in points]
    label = f"{_name_curve(panel)}: {ylabel} against {XLABELS.get(panel.norm, f'eps ({panel.norm})')}"
    svg = tag("svg", _draw_axes(furthest, top, panel.norm, ylabel), *curves, *marks, viewBox=f"0 0 {WIDTH} {HEIGHT}",
              role="group", aria_label=label, class_="chart")
    return tag("figure", tag("figcaption", _name_curve(panel)), svg)


def find_top(panels: list) -> int:
    """Return the next ten from the highest value on, at most 100."""
    highest = max((point[1] for panel in panels for curve in panel.curves.values() for point in curve
                   if not math.isnan(point[1])), default=100)
    return min(100, max(10, 10 * math.ceil(highest / 10)))


def _place(eps: float, percent: float, furthest: float, top: int) -> tuple[str, str]:
    x = LEFT + (RIGHT - LEFT) * eps / furthest
    return f"{x:.1f}", f"{BOTTOM - (BOTTOM - TOP) * percent / top:.1f}"


def _draw_axes(furthest: float, top: int, norm: str, ylabel: str) -> Markup:
    parts = []
    for percent in list_ticks(top):
        _, y = _place(0, percent, furthest, top)
        parts += [tag("path", d=f"M{LEFT} {y}H{RIGHT}", class_="grid"),
                  tag("text", f"{percent:g}", x=LEFT - 7, y=y, dy="0.32em", text_anchor="end")]
    for tick in list_ticks(furthest):
        x, _ = _place(tick, 0, furthest, top)
        parts.append(tag("text", f"{tick:g}", x=x, y=BOTTOM + 17, text_anchor="middle"))
    parts += [tag("text", XLABELS.get(norm, f"eps ({norm})"), x=(LEFT + RIGHT) / 2, y=HEIGHT - 6, text_anchor="middle"),
              tag("text", ylabel, text_anchor="middle", transform=f"translate(9 {(TOP + BOTTOM) / 2}) rotate(-90)")]
    return tag("g", *parts, class_="axes", aria_hidden="true")


def list_ticks(furthest: float) -> list[float]:
    """Return 3 to 6 round numbers from 0 to at most `furthest`."""
    power = 10.0 ** math.floor(math.log10(furthest / 2))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if furthest / (factor * power) < 6)
    return [round(step * k, 12) for k in range(int(furthest / step + 1e-9) + 1)]


def _draw_curve(points: list[tuple], furthest: float, top: int, *, style: int, stepped: bool) -> Markup:
    """Return a run's line, and below it the range down to the lower bound."""
    upper = [_place(eps, value, furthest, top) for eps, value, _ in points]
    lower = [_place(eps, low, furthest, top) for eps, _, low in points]
    bend = (lambda x, y: f"H{x}V{y}") if stepped else (lambda x, y: f"L{x} {y}")
    path = "M" + " ".join(upper[0]) + "".join(bend(*point) for point in upper[1:])
    area = "" if upper == lower else tag(
        "path", d="M" + "L".join(" ".join(point) for point in [*upper, *reversed(lower)]) + "z", class_="area")
    return tag("g", area, tag("path", d=path, class_="line"), class_=name_style(style), aria_hidden="true")


def _draw_point(run: str, point: tuple, furthest: float, top: int, norm: str, *, style: int, value: str) -> Markup:
    eps, percent, lower = point
    x, y = _place(eps, percent, furthest, top)
    bound = f" (at least {lower:.2f} %)" if lower != percent else ""
    axis = "severity" if norm == "severity" else "eps"
    label = f"{run}, {axis} {_format_eps(eps, norm)}: {value} {percent:.2f} %{bound}"
    return tag("g", tag("title", label), _draw_mark(style), class_=f"point {name_style(style)}", role="img",
               aria_label=label, data_eps=f"{eps:.6g}", transform=f"translate({x} {y})")


def _draw_mark(style: int) -> Markup:
    return tag("path", d=SHAPES[style % len(SHAPES)], class_="mark")


def name_style(style: int) -> str:
    """Return the classes of a run's colour and dashes."""
    return f"c{style % COLOURS} d{style // COLOURS % 3}"


def _format_eps(eps: float, norm: str) -> str:
    return f"{eps:.6g}{UNITS.get(norm, '')}"
