"""From options to a report: its runs, records and folder."""
from pathlib import Path

from engine.report.write import write_report
from utils.errors import UserError
from utils.files import find_run

FILTERS = {"attacks": "attack", "losses": "attack_loss", "norm": "attack_norm", "eps": "eps"}  # keyword -> flag


def report(options) -> dict:
    """Write the report that --report asks for; return what report.json holds."""
    groups = [_find_folders(given, options.output_dir) for given in options.report]
    runs = [run for group in groups for run in group]
    if missing := [str(run) for run in runs if not run.is_dir()]:
        raise UserError(f"--report: no folder {', '.join(missing)}: give run folders, or their names in --output_dir")
    filters = {keyword: getattr(options, flag) for keyword, flag in FILTERS.items() if flag in options.given}
    if options.corrupt:
        filters["attacks"] = [*filters.get("attacks", ()), *options.corrupt]
    folder = options.report_dir or (runs[0] if len(runs) == 1 else Path(options.output_dir)) / "report"
    return write_report(runs, Path(folder), groups=groups if len(runs) > len(groups) else None, **filters)


def _find_folders(given: str, output_dir: str) -> list[Path]:
    """Return the folders of a run, or of a group of runs with commas between: paths, or names in output_dir."""
    whole, names = find_run(given, output_dir), given.split(",")
    if not whole.is_dir() and not all(names):
        raise UserError(f"--report: {given!r} has an empty name: write a group as A1,A2,A3, without blanks or a comma "
                        "at its end")
    return [whole] if whole.is_dir() else [find_run(name, output_dir) for name in names]
