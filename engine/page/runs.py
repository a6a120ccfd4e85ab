"""What the page says about each run: its options and what differs between them, the findings of --verify."""
import re
import shlex
from pathlib import Path

from engine.page.markup import Markup, details, fit, join, table, tag, write_minus
from utils.strict_json import is_shallow, parse
from utils.text import format_figure

LIMIT = 400_000
SHOWN, MOST_COMPARED = 6, 8  # options that differ, under the title, and runs with room for them
STEP = 1 / 255  # of an 8-bit image
LARGEST = 2_000_000  # bytes of a file that is read
BEGIN, END = re.compile(r"-+ Options -+"), re.compile(r"-+ End -+")
TRAINED, SCORED = "option", "recorded with"
ABSOLUTE = re.compile(r"[/~]|[A-Za-z]:[\\/]|\\\\")
WITHOUT_SAM = ("sgd", "adam", "adamw")
NOT_METHODS = {"exp_name", "output_dir", "ckpt", "random_seed", "attack_seed"}
NO_EFFECT = ("They are the options of the training, and its defaults for tests, not of this report. Some have no "
             "effect in a run, such as rho with sgd.")


def make_options(folders: dict[str, Path], subjects: dict[str, dict]) -> Markup:
    """Return the runs' options: what differs first. subjects: what each run's records say they are of."""
    read = {run: read_options(folder) for run, folder in folders.items()}
    values = {run: {**{(TRAINED, key): hide_folders(text) for key, text in (read[run] or {}).items()},
                    **{(SCORED, key): format_value(value) for key, value in sorted(subjects[run].items())}}
              for run in folders}
    names = sorted({name for of_run in values.values() for name in of_run})
    differ = [name for name in names if len({of_run.get(name) for of_run in values.values()}) > 1]
    same = [name for name in names if name not in differ]
    unknown = [run for run in folders if read[run] is None]
    parts = [tag("p", f"No opts.txt or results.json, so the options are not known: {', '.join(unknown)}.",
                 class_="note") if unknown else ""]
    if len(folders) == 1:
        return join(*parts, tag("p", NO_EFFECT), _make_table(names, values, "Options of the training"))
    parts.append(tag("p", NO_EFFECT))
    parts.append(_make_table(differ, values, "Options of the training that differ between the runs") if differ else
                 tag("p", "These runs have the same options."))
    one = dict(list(values.items())[:1])
    return join(*parts, details(f"{len(same)} options that are the same in all runs", _make_table(
        same, {"all runs": next(iter(one.values()))}, "Options of the training that are the same in all runs"))
        if same else "")


def describe_runs(folders: dict[str, Path], subjects: dict[str, dict]) -> str:
    """Return model, iterations and the options that differ between the runs, as sentences."""
    read = [read_options(folder) or {} for folder in folders.values()]
    parts = []
    for title, values in (("Model", [subject.get("model") for subject in subjects.values()]),
                          ("Iterations", [options.get("total_itrs") for options in read])):
        if len(set(values)) == 1 and values[0]:
            parts.append(f"{title}: {values[0]}.")
    values = {name: [_find_effect(options, name) for options in read]
              for name in dict.fromkeys(name for options in read for name in options)
              if name not in NOT_METHODS and len({options.get(name) for options in read}) > 1}
    names = [name for name, texts in values.items() if len(set(texts)) > 1]
    differ = [f"{name} {' / '.join(map(hide_folders, values[name]))}" for name in names[:SHOWN]]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    if differ and len(read) <= MOST_COMPARED:
        parts.append(f"Differing options: {', '.join(differ)}{more}.")
    return " ".join(parts)


def _find_effect(given: dict[str, str], name: str) -> str:
    """Return an option, - where it is missing or one of SAM's in a training without SAM."""
    of_sam = name in ("rho", "adaptive", "eta", "base_optimizer") or name.startswith("sam_")
    without = given.get("optimizer") in WITHOUT_SAM and given.get("awp_gamma", "0.0") in ("0", "0.0", "None")
    return "-" if of_sam and without else given.get(name, "-")


def hide_folders(text: str) -> str:
    """Return an option without the folders of absolute paths, which say where on a machine a file was."""
    parts = re.split(rf" (?={ABSOLUTE.pattern})", text)
    return " ".join(re.split(r"[/\\]", part.rstrip("/\\"))[-1] if ABSOLUTE.match(part) else part for part in parts)


def _make_table(names: list[tuple], values: dict[str, dict], caption: str) -> Markup:
    head = tag("tr", *(tag("th", title, scope="col") for title in ("", "name", *values)))
    rows, note = fit(lambda name: tag("tr", tag("td", name[0], class_="kind"), tag("th", name[1], scope="row"), *(
        tag("td", of_run.get(name, "-")) for of_run in values.values())), names, LIMIT, of="options",
        where="opts.txt and results.json of the runs")
    return join(table([head], [tag("tbody", join(*rows))], caption=caption, sortable=True, class_="options"), note)


def read_options(run: Path) -> dict[str, str] | None:
    """Return {option: text}: of the training (opts.txt) or, without one, of the last evaluation (results.json)."""
    lines = (_read_text(run / "opts.txt") or "").splitlines()
    begins = [place for place, line in enumerate(lines) if BEGIN.fullmatch(line.strip())]
    if begins:  # the last of them: a training that continued adds its own
        found = {}
        for line in lines[begins[-1] + 1:]:
            if END.fullmatch(line.strip()):
                break
            name, colon, value = line.partition(": ")
            if colon:
                found[name] = value
        return found
    saved = read_json(run / "results.json")
    saved = saved.get("options") if isinstance(saved, dict) else None
    return {name: format_value(value) for name, value in saved.items() if value is not None} if isinstance(
        saved, dict) and saved else None


def format_value(value) -> str:
    """Return an option as it is typed; a dict as name value pairs."""
    if isinstance(value, list):
        return " ".join(map(format_value, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(item)}" for key, item in value.items())
    return str(value)


def loses_in_rounding(lines: list[dict]) -> bool:
    """Return whether a line's eps is below a step of an 8-bit image."""
    return any(line["norm"] == "linf" and 0 < row["eps"] < STEP * (1 - 1e-9) for line in lines
               for row in line["rows"].values())


def make_findings(folders: dict[str, Path]) -> Markup:
    """Return what --verify found on each run, or the command that runs it."""
    found, note = fit(lambda run: _make_finding(run, folders[run]), folders, LIMIT, of="runs",
                      where="their folders' verify.json")
    return join(tag("p", "--verify checks on a few images whether attacks on a network do what they should."), *found,
                note)


def _make_finding(run: str, folder: Path) -> Markup:
    path = folder / "verify.json"
    if not path.is_file():
        command = f"python main.py --verify --exp_name {shlex.quote(folder.name)}"
        return tag("p", tag("b", run), ": not run. ", tag("code", command), ", with the run's --output_dir, checks "
                   "whether attacks on this network can be trusted.", class_="missing")
    checks = _read_checks(path)
    if checks is None:
        return tag("p", tag("b", run), ": verify.json can't be read as the findings of --verify.", class_="missing")
    failed = [check for check in checks if not check["passed"]]
    title = Markup(tag("b", run) + f": {len(checks) - len(failed)} of {len(checks)} checks passed" + (
        tag("span", f" \u2013 failed: {', '.join(str(check['name']) for check in failed)}", class_="failed")
        if failed else ""))
    head = tag("tr", *(tag("th", name, scope="col") for name in ("check", "result", "figures", "required")))
    rows = [tag("tr", tag("th", check["name"], scope="row"), tag("td", "passed" if check["passed"] else "FAILED",
                class_=None if check["passed"] else "failed"),
                tag("td", ", ".join(f"{name} {write_minus(format_figure(value))}"
                                    for name, value in check["figures"].items())),
                tag("td", check["tolerance"] if check["passed"] else f"{check['tolerance']}: {check['why']}"))
            for check in checks]
    return details(title, table([head], [tag("tbody", join(*rows))], caption=f"Checks of {run}", sortable=True,
                                class_="checks"), open_=bool(failed))


def _read_checks(path: Path) -> list[dict] | None:
    """Return the checks in a verify.json, None if it isn't one; it may come from a stranger."""
    content = read_json(path)
    checks = content.get("checks") if isinstance(content, dict) else None
    kinds = {"name": str, "passed": bool, "figures": dict, "tolerance": str, "why": str}
    if not isinstance(checks, list) or not checks or not all(isinstance(check, dict) and all(
            isinstance(check.get(key), kind) for key, kind in kinds.items()) for check in checks):
        return None
    return checks


def read_json(path: Path):
    """Return what a file holds, None if it is missing, too large or damaged."""
    text = _read_text(path)
    try:
        content = None if text is None else parse(text.encode())
    except (ValueError, RecursionError):
        return None
    return content if is_shallow(content) else None


def _read_text(path: Path) -> str | None:
    try:
        if not path.is_file() or path.stat().st_size > LARGEST:  # a pipe would never end
            return None
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
