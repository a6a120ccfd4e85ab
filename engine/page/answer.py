"""The page's first table: at each radius, which run keeps the highest mIoU, how sure that is, and where it loses."""
from engine.page.chart import draw_key, name_style
from engine.page.markup import Markup, fit, join, percent, show, sign, subtract, table, tag
from engine.records.corruptions import is_corruption
from engine.records.rows import WORST

LIMIT = 400_000
NAMED = 12  # winners in the sentence, runs that one is compared with
HEAD = ("run", "", "mIoU (%)", "loses most on", "IoU of that class (%)")
ONE_TRAINING = (
    "These are single trainings: the intervals say whether the networks differ on such images, not whether a method "
    "would win again with another seed. For that, report groups of runs: --report A1,A2,A3 B1,B2,B3.")


def list_terms(lines: list[dict], strongest: list[dict], *, groups: bool) -> list[str]:
    """Return what the words of the page mean, without words that this page doesn't use."""
    norms = {line["norm"] for line in lines}
    worst = any(line["attack"].startswith(WORST) for line in lines)
    lower = any(row["Mean IoU lower"] is not None for line in lines for row in line["rows"].values())
    compared = any(line["highest"] is not None for line in strongest)
    several = any(len(line["others"]) > 1 for line in strongest)
    t = " For groups it is over runs too; t is Student's interval over runs." if groups else ""
    linf = "linf: every channel of a pixel changes by at most eps. " if "linf" in norms else ""
    l2 = "l2: the length of the change of all pixels together is at most eps. " if "l2" in norms else ""
    race = any(line["attack"].startswith("race") for line in lines)
    terms = {
        "mIoU: intersection over union pooled over all images, mean over classes. All scores are in percent.": True,
        f"eps: the largest change, on pixel values from 0 to 1. {linf}{l2}".strip(): bool(linf or l2),
        "Run: one trained network. Record: its results on every image under one attack.": True,
        "SAM: sharpness-aware minimization, an optimizer.": True,
        "race: an attack that tries several losses and keeps the best candidate for each image.": race,
        f"{WORST.capitalize()} of A, B: for every image the adversary chooses A, B or the clean image.": worst,
        "\u2265: a lower bound over all such choices. The band in a chart goes down to it.": lower,
        f"The attack at each radius is {name_choice(strongest)}, by the mean mIoU. A stronger one may lower the mIoU "
        "further.": True,
        f"The interval of a difference is a 95 % bootstrap over images.{t}": compared,
        "A run is called higher only if the interval lies above 0, its lower bound is above the other's mIoU, and "
        "there are at least 10 images.": compared,
        "The highest run is compared with each other one; the others are not compared with one another. The intervals "
        "are not widened for the number of comparisons.": several,
        "Lost: clean IoU minus IoU under the attack.": True}
    return [text for text, used in terms.items() if used]


def make_answer(strongest: list[dict], runs: list[str], *, members: dict[str, list[str]]) -> Markup:
    """Return the table, above it a sentence. members: {group: runs}."""
    bodies, note = fit(lambda line: _make_body(line, members, runs), strongest, LIMIT, of="radii")
    head = tag("tr", *(tag("th", title, scope="col", class_="number" if title.startswith("mIoU") else None)
                       for title in HEAD))
    single = len(members) > 1 and all(len(runs) == 1 for runs in members.values())
    return join(tag("p", _summarize(strongest), class_="lede"),
                tag("p", ONE_TRAINING, class_="small") if single else "",
                table([head], bodies, class_="answer"), note)


def name_radius(line: dict) -> str:
    """Return the radius of a line: linf, eps 1/255; of a corruption its severity."""
    if is_corruption(line):
        return f"corruption, severity {line['eps']}"
    return "Clean images" if line["norm"] == "-" else f"{line['norm']}, eps {line['eps']}"


def name_attack_of(line: dict) -> str:
    """Return a line's attack in words: pgd, ce, 10 steps."""
    steps = "" if line["steps"] in ("-", "0") else "1 step" if line["steps"] == "1" else f"{line['steps']} steps"
    return ", ".join(filter(None, [line["attack"], line["loss"].strip("-"), steps]))


def name_choice(strongest: list[dict]) -> str:
    """Return which attack stands for a radius: the strongest attack that all runs have."""
    names = {name for line in strongest for name in line["groups"]}
    if len(names) == 1:
        return "the strongest attack recorded"
    whole = all(len(line["groups"]) == len(names) for line in strongest)
    return f"the strongest attack that {'all' if whole else 'the most'} runs have"


def _summarize(strongest: list[dict]) -> Markup:
    """Return the sentence: who is higher at which radii, and where that is open."""
    attacked = [line for line in strongest if line["norm"] != "-"]
    if not attacked:
        return show("The records hold no attack: only clean images are compared.")
    if all(line["highest"] is None for line in attacked):
        return show("The mIoU under the strongest attacks, and the class that loses the most.")
    found = {}
    for line in attacked:
        if line["highest"] is not None:
            found.setdefault(_compare(line), {}).setdefault(line["norm"], []).append(line["eps"])
    parts = [Markup(before + show(_enumerate_radii(radii)) + after)
             for (before, after), radii in sorted(found.items(), key=lambda item: item[0][0] == "at ")]
    more = [f"{len(parts) - NAMED} more are in the table"] if len(parts) > NAMED else []
    return Markup(f"Under {name_choice(strongest)}, " + "; ".join([*parts[:NAMED], *more]) + ".")


def _compare(line: dict) -> tuple[str, str]:
    """Return which runs a line's highest is surely above, as what stands before the radii and after them."""
    first, others = tag("strong", line["highest"]), line["others"]
    unclear = [name for name, other in others.items() if other["unclear"]]
    if not unclear:
        return f"{first} keeps the {'highest' if len(others) > 1 else 'higher'} mIoU at ", ""
    if len(others) == 1:
        return "at ", " no difference is sure"
    if len(unclear) == len(others):
        return "at ", f" {first} is highest, but not surely above any other"
    lower = [name for name in others if name not in unclear]
    return "at ", f" {first} is surely above {_enumerate_runs(lower)}, but not surely above {_enumerate_runs(unclear)}"


def _enumerate_runs(names: list[str]) -> Markup:
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return Markup(_enumerate([*map(show, names[:NAMED]), *more]))


def _enumerate_radii(by_norm: dict[str, list[str]]) -> str:
    """Return radii in words: eps 0.5/255 and 1/255 (linf), and 0.5 (l2)."""
    return "eps " + ", and ".join(f"{_enumerate(radii)} ({norm})" for norm, radii in by_norm.items())


def _enumerate(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _make_body(line: dict, members: dict[str, list[str]], runs: list[str]) -> Markup:
    attack = "" if line["norm"] == "-" else tag("span", name_attack_of(line), class_="attack")
    head = tag("tr", tag("th", tag("span", name_radius(line), class_="radius"), " ", attack, *_judge(line),
                         colspan=len(HEAD), scope="rowgroup"))
    sure = not any(other["unclear"] for other in line["others"].values())
    rows = [_make_row(name, line["groups"].get(name), first=name == line["highest"] and sure,
                      style=runs.index(of_group[0])) for name, of_group in members.items()]
    return tag("tbody", head, *rows, data_radius=f"{line['norm']} {line['eps']}")


def _judge(line: dict) -> list[Markup]:
    """Return the sentences on a line's differences, and on attacks that single runs have, as paragraphs."""
    others = list(line["others"].items())
    sentences = [_judge_one(line, name, other, alone=len(others) == 1) for name, other in others[:NAMED]]
    first = [Markup(tag("b", line["highest"]) + " is highest.")] if len(others) > 1 else []
    more = [f"{len(others) - NAMED} more are lower; report.json says how surely."] if len(others) > NAMED else []
    stronger = [tag("b", run) + show(f" {percent(found['mIoU'])} % under {name_attack_of(found)}")
                for run, found in line["stronger"].items()][:NAMED]
    return [tag("p", Markup(" ".join([*first, *sentences, *more]))) if sentences else Markup(),
            tag("p", Markup(f"Stronger attacks, recorded here for single runs: {'; '.join(stronger)}."))
            if stronger else Markup()]


def _judge_one(line: dict, name: str, other: dict, *, alone: bool) -> Markup:
    """Return the sentence on the difference to another run."""
    difference = other["difference"]
    intervals = ", ".join(f"{kind}{sign(low)} to {sign(high)}" for kind, (low, high) in (
        ("95 % interval ", difference["bootstrap"]), ("t ", difference["t"] or (0, 0)))[:2 if difference["t"] else 1])
    apart = subtract(*(line["groups"][each]["mIoU"] for each in (line["highest"], name)))
    by, first = f"{apart:.2f} points above {show(name)} ({intervals})", tag("b", line["highest"])
    if other["unclear"]:
        return Markup(f"No sure difference: {first if alone else 'it'} is {by}, but {show(other['unclear'])}.")
    return Markup(f"{first} is higher, {by}." if alone else f"Surely higher: it is {by}.")


def _make_row(name: str, found: dict | None, *, first: bool, style: int) -> Markup:
    head = tag("th", draw_key(style), name, scope="row")
    if found is None:
        return tag("tr", head, tag("td"), tag("td", "-", class_="number"), tag("td", "-"), tag("td", "-"))
    most = found["most"]
    drop = "-" if most is None else (f"{percent(most['clean'])} \u2192 {percent(most['attacked'])} "
                                     f"(\u2212{subtract(most['clean'], most['attacked']):.2f})")
    return tag("tr", head, tag("td", draw_bar(found["mIoU"], found["lower"], style)),
               tag("td", *_format_mean(found), class_="number"),
               tag("td", most["class"] if most else "-"), tag("td", drop), class_="first" if first else None)


def _format_mean(found: dict) -> list:
    spread = "" if found["spread"] is None else f" \u00b1 {100 * found['spread']:.2f}"
    lower = "" if found["lower"] is None else f" (\u2265 {percent(found['lower'])})"
    return [percent(found["mIoU"]), tag("small", spread + lower)]


def draw_bar(value: float | None, inner: float | None, style: int) -> Markup:
    """Return a bar of `value` in [0, 1] in a run's colour, its part up to `inner` darker."""
    paths = [tag("path", d=f"M0 4H{100 * (end or 0):.1f}", class_=kind) for kind, end in (
        ("pale", value), ("full", value if inner is None else inner))]
    return tag("svg", *paths, class_=f"bar {name_style(style)}", viewBox="0 0 100 8", preserveAspectRatio="none",
               aria_hidden="true")
