"""Rows of several runs side by side, as Markdown and CSV."""
from hashlib import sha256

from engine.records.naming import attack_name, radius
from engine.records.results import bracket
from engine.records.rows import WORST, order, without
from utils.strict_json import canonical
from utils.text import format_csv, format_markdown, is_undefined

CURVE = ("curve", "loss", "norm", "steps")  # what tells curves over eps apart
PER_RUN = ("mIoU", "aAcc", "Image IoU", "ratio")


def side_by_side(rows: list[dict]) -> list[dict]:
    """A line for all rows that were attacked in the same way: {"attack", "loss", "norm", "eps", "steps"} as texts.

    And "rows": {run: its row}. The same way means equal settings; where lines differ in settings that are no columns,
    `attack` names them: apgd (seed 2). "curve" is the attack whose eps grows from line to line: it is `attack`, but for
    worst cases, which are of more records at one eps than at another.
    """
    settings = {row["records"][0]: row["settings"] for row in rows if row["settings"]}
    found = {}
    for row in sorted(rows, key=order):
        members = [settings[stem] for stem in row["records"]]
        identity = canonical([row["attack"], sorted(map(canonical, members))])
        line = found.setdefault(identity, {**_texts(row), "settings": _relative(_common(members)), "rows": {}})
        line["rows"][row["run"]] = row
    for lines in grouped(found.values(), *CURVE):
        _tell_apart(lines)
    return [line for lines in grouped(found.values(), *CURVE) for line in lines]


def grouped(lines, *keys: str) -> list[list[dict]]:
    """Lines with the same values of these keys together."""
    groups = {}
    for line in lines:
        groups.setdefault(tuple(line[key] for key in keys), []).append(line)
    return list(groups.values())


def _texts(row: dict) -> dict[str, str]:
    attack = _attack(row)
    steps = "-" if row["steps"] is None else str(row["steps"])
    return {
        "attack": f"{WORST} of {len(row['members'])}" if attack == WORST else attack, "curve": attack,
        "loss": row["attack_loss"] or "-", "norm": row["norm"] or "-",
        "eps": radius(row), "steps": f"{row['restarts']} x {steps}" if (row["restarts"] or 1) > 1 else steps,
    }


def _attack(row: dict) -> str:
    if row["members"]:
        return row["attack"]
    name, target = attack_name(without(row["settings"], "attack_loss", "target")), row["settings"].get("target")
    if target is None:
        return name
    return f"{name} to {list(row['Class IoU'])[target] if isinstance(target, int) else _short(target)}"


def _common(members: list[dict]) -> dict:
    """The settings in which members agree."""
    first, *others = members
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _relative(settings: dict) -> dict:
    """Settings in terms that stay the same along a curve over eps."""
    changed = {}
    if settings.get("step_size") and settings.get("eps"):
        changed["step_size"] = f"eps x {settings['step_size'] / settings['eps']:.4g}"
    if "warm_start" in settings:
        changed["warm_start"] = bool(settings["warm_start"])
    return {**settings, **changed}


def _tell_apart(lines: list[dict]):
    """Add to their `attack` the settings that differ between lines of one eps."""
    differ = set()
    for group in grouped(lines, "eps"):
        first, *others = [line["settings"] for line in group]
        for other in others:
            differ |= {key for key in {*first, *other} if first.get(key) != other.get(key)}
    if differ and lines[0]["curve"] != WORST:
        for line in lines:
            texts = [f"{key} {_short(line['settings'].get(key))}" for key in sorted(differ)]
            line["attack"] = line["curve"] = f"{line['attack']} ({', '.join(texts)})"


def _short(value) -> str:
    """A number or a word as it is, a long list by its hash."""
    text = canonical(value).strip('"')
    return text if len(text) <= 24 else "#" + sha256(text.encode()).hexdigest()[:6]


def comparison(rows: list[dict]) -> str:
    """The main table: a line per attack; for every run mIoU (>= its lower bound), aAcc, Image IoU and ratio."""
    lines, runs = side_by_side(rows), _runs(rows)
    columns = _attack_columns(lines)
    for run in runs:
        cells = [_scores(line["rows"].get(run)) for line in lines]
        titles = [f"{run}: {title}" if len(runs) > 1 else title for title in PER_RUN]
        columns |= {title: [cell[k] for cell in cells] for k, title in enumerate(titles)}
    return format_markdown(columns)


def class_table(rows: list[dict]) -> str:
    """A line per attack and run, a column per class with its IoU."""
    pairs = [(line, run) for line in side_by_side(rows) for run in _runs(rows) if run in line["rows"]]
    names = list(rows[0]["Class IoU"])
    columns = _attack_columns([line for line, _ in pairs]) | {"run": [run for _, run in pairs]}
    return format_markdown(columns | {name: [_number(line["rows"][run]["Class IoU"][name]) for line, run in pairs]
                               for name in names})


def cost_table(rows: list[dict]) -> str:
    """A line per attack; forward + backward passes per image for every run."""
    lines = side_by_side(rows)
    return format_markdown(_attack_columns(lines) | {run: [_passes(line["rows"].get(run)) for line in lines]
                                              for run in _runs(rows)})


def flat(rows: list[dict]) -> str:
    """CSV, a line per row: class IoUs as columns `IoU <class>`, lists separated by blanks, nothing for None and nan.

    A name that a spreadsheet would take for a formula has a ' in front.
    """
    records = [{**without(row, "Class IoU"), "settings": row["settings"] and canonical(row["settings"]),
                "members": " ".join(row["members"]), "records": " ".join(row["records"]),
                **{f"IoU {name}": iou for name, iou in row["Class IoU"].items()}} for row in rows]
    return format_csv(records)


def _runs(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["run"] for row in rows))


def _attack_columns(lines: list[dict]) -> dict[str, list[str]]:
    return {key: [line[key] for line in lines] for key in ("attack", "loss", "norm", "eps", "steps")}


def _scores(row: dict | None) -> list[str]:
    if row is None:
        return ["-"] * len(PER_RUN)
    return [bracket(row), *(_number(row[key]) for key in ("Overall Acc", "Image IoU", "ratio"))]


def _number(value: float) -> str:
    return "-" if is_undefined(value) else f"{value:.4f}"


def _passes(row: dict | None) -> str:
    return "-" if row is None else f"{row['forwards']:g} + {row['backwards']:g}"
