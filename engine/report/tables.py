"""Rows of several runs side by side, as Markdown and CSV."""
from hashlib import sha256

from engine.records.corruptions import is_corruption
from engine.records.naming import format_radius, name_attack, name_sources
from engine.records.rows import WORST, drop_keys, sort_key
from engine.records.summary import format_scores, list_scores
from utils.strict_json import canonical
from utils.text import format_csv, format_markdown, format_score

CURVE = ("curve", "loss", "norm", "steps")  # lines that agree in these form one curve over eps


def align_rows(rows: list[dict]) -> list[dict]:
    """Return a line for each attack: {"attack", "loss", "norm", "eps", "steps"} as texts and "rows": {run: its row}.

    Rows share a line if their settings are equal. Where lines differ only in settings without a column, `attack` names
    these: apgd (seed 2). "curve" names the attack of a curve over eps: `attack`, except for worst cases, whose
    number of records may change with eps.
    """
    settings = {row["records"][0]: row["settings"] for row in rows if row["settings"]}
    found = {}
    for row in sorted(rows, key=sort_key):
        members = [settings[stem] for stem in row["records"]]
        identity = canonical([row["attack"], sorted(map(canonical, members))])
        common = _make_relative(_keep_common(members))
        line = found.setdefault(identity, {**_format_row(row), "settings": common, "rows": {}})
        line["rows"][row["run"]] = row
    for lines in group_lines(found.values(), *CURVE):
        _distinguish(lines)
    return [line for lines in group_lines(found.values(), *CURVE) for line in lines]


def group_lines(lines, *keys: str) -> list[list[dict]]:
    """Return groups of lines that agree in these keys."""
    groups = {}
    for line in lines:
        groups.setdefault(tuple(line[key] for key in keys), []).append(line)
    return list(groups.values())


def _format_row(row: dict) -> dict[str, str]:
    attack = _name_attack(row)
    steps = "-" if row["steps"] is None else str(row["steps"])
    return {
        "attack": name_worst_case(attack, [row]) if attack.startswith(WORST) else attack, "curve": attack,
        "loss": row["attack_loss"] or "-", "norm": row["norm"] or "-",
        "eps": format_radius(row), "steps": f"{row['restarts']} x {steps}" if (row["restarts"] or 1) > 1 else steps,
    }


def _name_attack(row: dict) -> str:
    if row["members"]:
        return name_attack({key: row.get(key) for key in ("attack", "transfer_from")})
    name, target = name_attack(drop_keys(row["settings"], "attack_loss", "target")), row["settings"].get("target")
    if target is None:
        return name
    return f"{name} to {list(row['Class IoU'])[target] if isinstance(target, int) else _shorten(target)}"


def name_worst_case(name: str, rows: list[dict]) -> str:
    """Return a worst case's name with its number of records: curves that differ in it don't compare."""
    sizes = [len(row["members"]) for row in rows]
    number = f"{min(sizes)}" + (f" to {max(sizes)}" if max(sizes) > min(sizes) else "")
    return f"{WORST} of {number}{name.removeprefix(WORST)}"


def _keep_common(members: list[dict]) -> dict:
    """Return the settings in which members agree."""
    first, *others = members
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _make_relative(settings: dict) -> dict:
    """Return the settings with step_size relative to eps, so that they stay the same along a curve over eps."""
    changed = {}
    if settings.get("step_size") and settings.get("eps"):
        changed["step_size"] = f"eps x {settings['step_size'] / settings['eps']:.4g}"
    if "warm_start" in settings:
        changed["warm_start"] = bool(settings["warm_start"])
    return {**settings, **changed}


def _distinguish(lines: list[dict]):
    """Add to each line's `attack` the settings in which lines of one eps differ."""
    differ = set()
    for group in group_lines(lines, "eps"):
        first, *others = [line["settings"] for line in group]
        for other in others:
            differ |= {key for key in {*first, *other} if first.get(key) != other.get(key)}
    if differ and not lines[0]["curve"].startswith(WORST):
        for line in lines:
            texts = [f"{key} {_shorten(line['settings'].get(key))}" for key in sorted(differ)]
            line["attack"] = line["curve"] = f"{line['attack']} ({', '.join(texts)})"


def _shorten(value) -> str:
    """Return a value as text; of a long one its hash."""
    text = canonical(value).strip('"')
    return text if len(text) <= 24 else "#" + sha256(text.encode()).hexdigest()[:6]


def format_comparison(rows: list[dict]) -> str:
    """Return the main table: a line per attack; for every run mIoU (>= its lower bound), aAcc, Image IoU and ratio.

    If an mIoU leaves out classes, another column says over how many it is.
    """
    lines, runs = align_rows(rows), _list_runs(rows)
    columns = _make_attack_columns(lines)
    shown = list_scores(rows)
    for run in runs:
        cells = [[format_scores(line["rows"].get(run))[title] for title in shown] for line in lines]
        titles = [f"{run}: {title}" if len(runs) > 1 else title for title in shown]
        columns |= {title: [cell[k] for cell in cells] for k, title in enumerate(titles)}
    return format_markdown(columns)


def format_class_table(rows: list[dict]) -> str:
    """Return a table with a line per attack and run, a column per class with its IoU."""
    pairs = [(line, run) for line in align_rows(rows) for run in _list_runs(rows) if run in line["rows"]]
    names = list(rows[0]["Class IoU"])
    columns = _make_attack_columns([line for line, _ in pairs]) | {"run": [run for _, run in pairs]}
    return format_markdown(columns | {
        name: [format_score(line["rows"][run]["Class IoU"][name]) for line, run in pairs] for name in names})


def format_cost_table(rows: list[dict]) -> str:
    """Return a table with a line per attack: forward + backward passes per image for every run."""
    return format_markdown(tabulate_cost(align_rows(rows), _list_runs(rows)))


def tabulate_cost(lines: list[dict], runs: list[str]) -> dict[str, list[str]]:
    """Return the columns {title: cells} of that table, without corruptions, which take no passes."""
    lines = [line for line in lines if not is_corruption(line)]
    return _make_attack_columns(lines) | {run: [_format_passes(line["rows"].get(run)) for line in lines]
                                          for run in runs}


def format_rows_as_csv(rows: list[dict]) -> str:
    """Return rows as CSV: class IoUs in columns `IoU <class>`, lists separated by blanks, None and nan empty.

    A ' precedes names that a spreadsheet would read as a formula.
    """
    records = [{**drop_keys(row, "Class IoU", "transfer_from"), "transfer_from": name_sources(row),
                "settings": row["settings"] and canonical(row["settings"]),
                "members": " ".join(row["members"]), "records": " ".join(row["records"]),
                **{f"IoU {name}": iou for name, iou in row["Class IoU"].items()}} for row in rows]
    return format_csv(records)


def _list_runs(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(row["run"] for row in rows))


def _make_attack_columns(lines: list[dict]) -> dict[str, list[str]]:
    return {key: [line[key] for line in lines] for key in ("attack", "loss", "norm", "eps", "steps")}


def _format_passes(row: dict | None) -> str:
    return "-" if row is None else f"{row['forwards']:g} + {row['backwards']:g}"
